"""What the demo writes and says at its end: `demo-report.json`, and a page for the person who watched.

Values and text only; the demo itself is `darksite.demo`.
"""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Stage:
    """One stage: `seconds` of wall time; `bytes` that it moved, 0 for a stage that moves none."""

    name: str
    seconds: float = 0.0
    bytes: int = 0
    ok: bool = False


@dataclass(frozen=True)
class Audit:
    """How many containers run, and whose image is, or is not, what the lock says."""

    running: int = 0
    matched: int = 0
    mismatched: int = 0

    @property
    def clean(self) -> bool:
        """Whether there was something to compare and all of it was right."""
        return self.running > 0 and self.matched == self.running and self.mismatched == 0


@dataclass
class Report:
    """The whole run so far. `failure` says where it ended early."""

    stages: list[Stage] = field(default_factory=list)
    proof: list[dict[str, Any]] = field(default_factory=list)
    audit: Audit = Audit()
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Whether everything ran and everything that was asked came out well."""
        proved = bool(self.proof) and all(one["ok"] for one in self.proof)
        return not self.failure and proved and self.audit.clean and all(stage.ok for stage in self.stages)

    def take_install(self, path: Path) -> None:
        """Take over what the installer's own run report says. Nothing to take when it wrote none."""
        if not path.exists():
            return
        told = json.loads(path.read_text())
        for one in told.get("stages") or []:
            ok = one["outcome"] == "ended"
            self.stages.append(Stage(f"install/{one['name']}", one["seconds"], one.get("bytes", 0), ok))
        self.proof += [{**one, "during": "install"} for one in told.get("proof") or []]
        audit = told.get("audit") or {}
        self.audit = Audit(**{name: int(audit.get(name, 0)) for name in ("running", "matched", "mismatched")})

    def take_proof(self, path: Path, during: str) -> None:
        """Take over the results of one proof. Nothing to take when it wrote none."""
        if path.exists():
            self.proof += [{**one, "during": during} for one in json.loads(path.read_text())["proof"]]

    def write(self, path: Path) -> None:
        """Write the report as JSON, whole or not at all."""
        content = {
            "passed": self.passed,
            "failure": self.failure,
            "stages": [vars(stage) for stage in self.stages],
            "proof": self.proof,
            "audit": vars(self.audit),
        }
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(content, indent=1) + "\n")
        unfinished.replace(path)

    def page(self, next_steps: Sequence[str]) -> str:
        """What happened and what to try next, as lines for a terminal."""
        lines = ["", "What happened", ""]
        for stage in self.stages:
            mark = "ok  " if stage.ok else "FAIL"
            moved = f"{stage.bytes / 1e6:12.1f} MB" if stage.bytes else ""
            lines.append(f"  {mark}  {stage.name:<28}{stage.seconds:8.1f} s{moved}")
        for during in dict.fromkeys(one.get("during", "") for one in self.proof):
            lines += ["", f"What was proved by {during}", ""]
            for one in (each for each in self.proof if each.get("during", "") == during):
                lines += textwrap.wrap(
                    one["detail"],
                    width=120,
                    initial_indent=f"  {'ok  ' if one['ok'] else 'FAIL'}  {one['id']:<22}",
                    subsequent_indent=" " * 30,
                )
        audit = self.audit
        lines += ["", f"  {audit.running} containers run, {audit.matched} of them by a digest of the lock", ""]
        if self.failure:
            lines += [f"It ended early: {self.failure}", ""]
        lines += ["What to try next", "", *(f"  {step}" for step in next_steps), ""]
        return "\n".join(lines)

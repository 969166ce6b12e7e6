"""The account of one run, for scripts: stages with seconds and bytes, plan, audit, proof, and how it ended."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sitebundle.errors import MxError
from sitebundle.events import Event, Sink, StageFinished, StageStarted


@dataclass
class RunReport:
    """Filled while the run goes on. `outcome`: installed, nothing-to-do, declined, failed."""

    bundle: str
    outcome: str = "failed"
    stages: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.time)

    def listening(self, sink: Sink) -> Sink:
        """`sink`, with every stage written down on the way."""

        def heard(event: Event) -> None:
            if isinstance(event, StageStarted):
                entry = {"name": event.stage, "seconds": 0.0, "bytes": 0, "outcome": "began", "began": event.at}
                self.stages.append(entry)
            elif isinstance(event, StageFinished):
                for entry in reversed(self.stages):
                    if entry["name"] == event.stage:
                        moved = {"seconds": round(event.seconds, 3), "bytes": event.moved_bytes, "outcome": "ended"}
                        entry.update(moved)
                        break
            sink(event)

        return heard

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "bundle": self.bundle,
            "outcome": self.outcome,
            "began": self.began,
            "seconds": round(time.time() - self.began, 3),
            "stages": self.stages,
            "proof": [],
            "audit": {"running": 0, "matched": 0, "mismatched": 0},
            **self.facts,
        }

    def text(self) -> str:
        """How it ended, for people."""
        facts, audit = self.facts, self.facts.get("audit", {})
        generation, site = facts.get("generation"), facts.get("site")
        if self.outcome == "nothing-to-do":
            return f"generation {generation} runs at {site} already: nothing to do"
        if self.outcome == "declined":
            return "nothing was changed"
        lines = [f"generation {generation} is installed at {site}"]
        lines += [f"  {e['name']:<12} {e['seconds']:8.1f} s {e['bytes'] / 1e6:10.1f} MB" for e in self.stages]
        lines.append(f"  {audit.get('matched', 0)} of {audit.get('running', 0)} containers run what the lock says")
        lines.append("  look at it with: mxinstall status")
        return "\n".join(lines)

    def failed(self, fault: BaseException) -> None:
        """Say how it ended, and in which stage."""
        now = time.time()
        for entry in self.stages:
            if entry["outcome"] == "began":
                entry.update(outcome="failed", seconds=round(now - entry["began"], 3))
        self.outcome = "failed"
        self.facts["error"] = (
            fault.as_json() if isinstance(fault, MxError) else {"error": "internal", "message": repr(fault)}
        )

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        growing = path.with_name(f".{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        growing.write_text(json.dumps(self.as_json(), indent=1, default=str) + "\n")
        growing.replace(path)

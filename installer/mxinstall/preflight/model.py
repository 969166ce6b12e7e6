"""What a check is, what it can say, and the registry that collects all of them. Pure values.

A check is declared once, in the file of its category under `checks/`; `@check(…)` on its probe enters it here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sitebundle.errors import MxError, PreflightFailed, PreflightNotChecked

if TYPE_CHECKING:
    from mxinstall.preflight.context import Context

Status = Literal["pass", "warn", "fail", "not-checked"]
Severity = Literal["fail", "warn"]


@dataclass(frozen=True)
class Verdict:
    """What a probe found. `seen` and `expected` are for people; `todo` is empty when there is nothing to do.

    error: what a failure is called, with an exit code of its own, where it alone stops an install.
    """

    status: Status
    seen: str
    expected: str = ""
    todo: str = ""
    error: MxError | None = field(default=None, repr=False, compare=False)

    @classmethod
    def judge(cls, good: bool, seen: str, expected: str, todo: str, error: MxError | None = None) -> Verdict:
        """Pass, or fail with what to do."""
        return cls("pass", seen, expected) if good else cls("fail", seen, expected, todo, error)

    @property
    def told(self) -> str:
        """What was seen and, where it is wrong, what to do: for one line."""
        return f"{self.seen}. To do: {self.todo}" if self.status in ("fail", "warn") and self.todo else self.seen


Probe = Callable[["Context"], Verdict]


def _always(context: Context) -> bool:
    return True


@dataclass(frozen=True)
class Check:
    """One declared check. `id` is stable and public. `severity`: what a bad finding counts as.

    `needs` says in words what it must be allowed to see or do; `active` checks run something on the nodes.
    """

    id: str
    title: str
    protects: str
    probe: Probe
    severity: Severity = "fail"
    needs: tuple[str, ...] = ()
    active: bool = False
    applies: Callable[[Context], bool] = _always

    @property
    def category(self) -> str:
        """The part of the id before the dot."""
        return self.id.partition(".")[0]

    def as_json(self) -> dict[str, Any]:
        """What is declared, for `--list` and `--explain`."""
        return {
            "id": self.id,
            "category": self.category,
            "title": self.title,
            "protects": self.protects,
            "severity": self.severity,
            "needs": list(self.needs),
            "active": self.active,
        }


CHECKS: dict[str, Check] = {}
"""All checks by id, in the order of declaration, which is the order of the report."""


def check(
    *,
    id: str,  # noqa: A002 - the word that people use for it
    title: str,
    protects: str,
    severity: Severity = "fail",
    needs: tuple[str, ...] = (),
    active: bool = False,
    applies: Callable[[Context], bool] = _always,
) -> Callable[[Probe], Probe]:
    """Declare the decorated probe as a check."""

    def declare(probe: Probe) -> Probe:
        if id in CHECKS:
            raise TypeError(f"check id {id!r} is taken")
        CHECKS[id] = Check(id, title, protects, probe, severity, needs, active, applies)
        return probe

    return declare


def _blocks(check: Check, active_run: bool) -> bool:
    """Whether an install that could not make `check` must not go on."""
    return check.severity == "fail" and (active_run or not check.active)


@dataclass(frozen=True)
class Finding:
    """A check and what came of it. `skipped`: why the operator left it out."""

    check: Check
    verdict: Verdict
    seconds: float = 0.0
    skipped: str = ""

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "id": self.check.id,
            "category": self.check.category,
            "title": self.check.title,
            "severity": self.check.severity,
            "active": self.check.active,
            "seconds": round(self.seconds, 3),
            "skipped": self.skipped,
            "status": self.verdict.status,
            "seen": self.verdict.seen,
            "expected": self.verdict.expected,
            "todo": self.verdict.todo,
        }


@dataclass(frozen=True)
class PreflightReport:
    """All findings, in the order of the checks. `active`: whether the active ones were asked for."""

    findings: tuple[Finding, ...] = field(default=())
    active: bool = False

    def of(self, status: Status) -> tuple[Finding, ...]:
        """The findings with a status."""
        return tuple(finding for finding in self.findings if finding.verdict.status == status and not finding.skipped)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        counts = {status: len(self.of(status)) for status in ("pass", "warn", "fail", "not-checked")}
        return {
            "active": self.active,
            "counts": counts,
            "skipped": {finding.check.id: finding.skipped for finding in self.findings if finding.skipped},
            "findings": [finding.as_json() for finding in self.findings],
        }

    def require(self, *, complete: bool = False) -> None:
        """Raise PreflightFailed (or what the one failure is called), or PreflightNotChecked: that is no pass.

        Without `complete`, active checks may be missing from a passive run, since an install makes them later, and so
        may those that could only warn.
        """
        failed = self.of("fail")
        if len(failed) == 1 and failed[0].verdict.error is not None:
            raise failed[0].verdict.error
        if failed:
            raise PreflightFailed(count=len(failed), checks=", ".join(finding.check.id for finding in failed))
        missing = [f for f in self.of("not-checked") if complete or _blocks(f.check, self.active)]
        if missing:
            raise PreflightNotChecked(count=len(missing), checks=", ".join(finding.check.id for finding in missing))

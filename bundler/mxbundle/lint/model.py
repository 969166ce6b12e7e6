"""What a rule is, what it finds, and the registry that collects all of them. Pure values.

A rule is declared once, in the file of its subject under `rules/`; `@rule(…)` on its probe enters it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sitebundle.errors import LintFailed
from sitebundle.podspecs import Object, name_of_object

if TYPE_CHECKING:
    from mxbundle.lint.subject import Subject

Severity = Literal["fail", "warn"]
Need = Literal["stack", "whole", "renders", "lock", "registry", "pull-secret"]
NEEDS: dict[Need, str] = {
    "stack": "the stack's own declarations (`--profile`)",
    "whole": "the whole of a profile (no FILE)",
    "renders": "the releases' sources, so that they can be rendered again (no FILE)",
    "lock": "a lock (`--lock`)",
    "registry": "the site's registry (`--registry`, with FILE)",
    "pull-secret": "the site's pull secret (`--pull-secret`, with FILE)",
}
"""What a rule may need besides the objects, in words for people."""


@dataclass(frozen=True)
class Hit:
    """One place where a rule is broken. `todo` is given where the rule's own advice does not fit."""

    object: str
    path: str
    seen: str
    todo: str = ""


def hit(entry: Object, path: str, seen: str, todo: str = "") -> Hit:
    """A hit at `path` inside an object."""
    return Hit(name_of_object(entry), path, seen, todo)


Probe = Callable[["Subject"], Iterable[Hit]]


@dataclass(frozen=True)
class Rule:
    """One declared rule. `id` is stable and public, its part before the dot is the category."""

    id: str
    title: str
    protects: str
    todo: str
    probe: Probe
    severity: Severity = "fail"
    needs: tuple[Need, ...] = ()

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
            "todo": self.todo,
            "severity": self.severity,
            "needs": list(self.needs),
        }


RULES: dict[str, Rule] = {}
"""All rules by id, in the order of declaration, which is the order of the report."""


def rule(
    *,
    id: str,  # noqa: A002 - the word that people use for it
    title: str,
    protects: str,
    todo: str,
    severity: Severity = "fail",
    needs: tuple[Need, ...] = (),
) -> Callable[[Probe], Probe]:
    """Declare the decorated probe as a rule."""

    def declare(probe: Probe) -> Probe:
        if id in RULES:
            raise TypeError(f"rule id {id!r} is taken")
        RULES[id] = Rule(id, title, protects, todo, probe, severity, needs)
        return probe

    return declare


@dataclass(frozen=True)
class Finding:
    """A broken rule at one place, and the profiles in which it is broken there. `object` is `Kind/namespace/name`."""

    rule: str
    severity: Severity
    release: str
    object: str
    path: str
    seen: str
    todo: str
    profiles: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For `--json`: the object also in its parts."""
        kind, _, rest = self.object.partition("/")
        namespace, _, name = rest.rpartition("/")
        return {
            "rule": self.rule,
            "severity": self.severity,
            "release": self.release,
            "object": self.object,
            "kind": kind,
            "namespace": namespace,
            "name": name,
            "path": self.path,
            "seen": self.seen,
            "todo": self.todo,
            "profiles": list(self.profiles),
        }


@dataclass(frozen=True)
class LintReport:
    """All findings in the order of the rules. `not_checked`: rule -> what it would have needed."""

    findings: tuple[Finding, ...]
    rules: tuple[str, ...]
    not_checked: dict[str, str] = field(default_factory=dict)
    profiles: tuple[str, ...] = ()
    objects: int = 0
    accepted: int = 0

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings that count as `severity`."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "profiles": list(self.profiles),
            "objects": self.objects,
            "rules": list(self.rules),
            "not_checked": dict(self.not_checked),
            "accepted": self.accepted,
            "counts": {"fail": len(self.of("fail")), "warn": len(self.of("warn"))},
            "findings": [finding.as_json() for finding in self.findings],
        }

    def require(self) -> None:
        """Raise LintFailed when anything that was found counts as fail."""
        if failed := self.of("fail"):
            broken = dict.fromkeys(finding.rule for finding in failed)
            raise LintFailed(count=len(failed), rules=", ".join(broken))

"""Every rule over every subject: what is found, once for all profiles, and what could not be checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from mxbundle.lint.model import NEEDS, Finding, Hit, LintReport, Rule
from mxbundle.lint.rules import RULES
from mxbundle.lint.subject import Subject
from sitebundle.errors import StackInvalid
from sitebundle.manifest import Value
from sitebundle.podspecs import name_of_object

ACCEPTED = "lint.yaml"


class Accepted(Value):
    """A finding that is known and right as it is, with the reason. `object` and `path` may hold `*`."""

    rule: str
    object: str
    path: str = "*"
    reason: str = Field(min_length=20)

    def covers(self, finding: Finding) -> bool:
        """Whether a finding is this one."""
        # fnmatch reads brackets as sets of characters; in a path they are indices.
        pattern = self.path.replace("[", "[[]")
        return (
            self.rule == finding.rule
            and fnmatchcase(finding.object, self.object)
            and fnmatchcase(finding.path, pattern)
        )


def read_accepted(manifests: Path) -> tuple[Accepted, ...]:
    """The list of `manifests/lint.yaml`; empty when there is none. Raises StackInvalid."""
    path = manifests / ACCEPTED
    if not path.exists():
        return ()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        entries = tuple(Accepted.model_validate(entry) for entry in content.get("accepted") or ())
    except (OSError, yaml.YAMLError, AttributeError) as fault:
        raise StackInvalid(path=path, detail=str(fault)) from fault
    except ValidationError as fault:
        first = fault.errors()[0]
        place = ".".join(str(part) for part in ("accepted", *first["loc"]))
        raise StackInvalid(path=path, detail=f"{place}: {first['msg']}") from fault
    for entry in entries:
        if entry.rule not in RULES:
            raise StackInvalid(path=path, detail=f"there is no rule {entry.rule}")
    return entries


def lint(
    subjects: Sequence[Subject], wanted: Iterable[Rule] | None = None, accepted: Sequence[Accepted] = ()
) -> LintReport:
    """Check `wanted` rules (all, when nothing is said) and leave out what is accepted."""
    chosen = tuple(RULES.values() if wanted is None else wanted)
    found: dict[tuple[str, str, str, str], Finding] = {}
    not_checked: dict[str, str] = {}
    for rule in chosen:
        for subject in subjects:
            missing = [NEEDS[need] for need in rule.needs if not subject.has(need)]
            if missing:
                not_checked[rule.id] = ", ".join(missing)
                continue
            for hit in rule.probe(subject):
                finding = _finding(rule, hit, subject)
                key = (finding.rule, finding.object, finding.path, finding.seen)
                before = found.get(key)
                profiles = (*(before.profiles if before else ()), *finding.profiles)
                found[key] = replace(before or finding, profiles=tuple(dict.fromkeys(profiles)))
    open_findings = [f for f in found.values() if not any(entry.covers(f) for entry in accepted)]
    return LintReport(
        findings=tuple(open_findings),
        rules=tuple(rule.id for rule in chosen),
        not_checked=not_checked,
        profiles=tuple(subject.profile for subject in subjects if subject.profile),
        objects=sum(len(subject.items) for subject in subjects),
        accepted=len(found) - len(open_findings),
    )


def _finding(rule: Rule, hit: Hit, subject: Subject) -> Finding:
    kind, _, name = hit.object.partition("/")
    releases = [item.release for item in subject.items if name_of_object(item.entry) == hit.object]
    return Finding(
        rule=rule.id,
        severity=rule.severity,
        release=releases[0] if releases else name if kind == "Release" else "",
        object=hit.object,
        path=hit.path,
        seen=hit.seen,
        todo=hit.todo or rule.todo,
        profiles=(subject.profile,) if subject.profile else (),
    )

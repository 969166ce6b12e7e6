"""The faces of lint: the catalogue of rules, one rule explained, a report for people."""

from __future__ import annotations

from mxbundle.lint.model import NEEDS, Finding, LintReport, Rule
from mxbundle.lint.rules import RULES


def catalogue() -> str:
    """Every rule on a line, by category."""
    width = max(len(name) for name in RULES)
    return "\n".join(f"{rule.id.ljust(width)}  {rule.title}" for rule in RULES.values())


def explain(rule: Rule) -> str:
    """All that is declared about a rule."""
    lines = [f"{rule.id} (counts as {rule.severity})", "", f"{rule.title}.", rule.protects, f"To do: {rule.todo}"]
    if rule.needs:
        lines.append(f"Needs: {', '.join(NEEDS[need] for need in rule.needs)}.")
    return "\n".join(lines)


def render(report: LintReport) -> str:
    """Findings by rule, then one line with what was looked at."""
    lines: list[str] = []
    for finding in report.findings:
        lines += _lines(finding)
    for rule, missing in report.not_checked.items():
        lines.append(f"not checked {rule}: needs {missing}")
    made = len(report.rules) - len(report.not_checked)
    where = f"{_counted(len(report.profiles), 'profile')}, " if report.profiles else ""
    accepted = f", {report.accepted} accepted" if report.accepted else ""
    found = f"{len(report.of('fail'))} to mend, {len(report.of('warn'))} to look at"
    lines.append(f"{where}{_counted(report.objects, 'object')}, {_counted(made, 'rule')}: {found}{accepted}")
    return "\n".join(lines)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _lines(finding: Finding) -> list[str]:
    where = f" [{', '.join(finding.profiles)}]" if finding.profiles else ""
    return [
        f"{finding.severity} {finding.rule}  {finding.object} {finding.path}{where}",
        f"     seen: {finding.seen}",
        f"     to do: {finding.todo}",
    ]

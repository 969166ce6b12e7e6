"""A preflight report for people: by category, what is wrong last, one screen when all is well."""

from __future__ import annotations

from mxinstall.preflight.model import CHECKS, Check, Finding, PreflightReport

_ORDER = ("pass", "not-checked", "warn", "fail")
_WORDS = {"pass": "ok", "not-checked": "not checked", "warn": "WARN", "fail": "FAIL"}


def render(report: PreflightReport) -> str:
    """The report as text."""
    lines: list[str] = []
    good = [f for f in report.findings if f.verdict.status == "pass" or f.skipped]
    for category in dict.fromkeys(finding.check.category for finding in good):
        lines.append(category)
        lines += [_line(finding) for finding in good if finding.check.category == category]
    for status in _ORDER[1:]:
        for finding in report.findings:
            if finding.verdict.status == status and not finding.skipped:
                lines += _block(finding)
    counts = report.as_json()["counts"]
    lines.append("")
    lines.append(", ".join(f"{counts[status]} {_WORDS[status]}" for status in _ORDER if counts[status]))
    return "\n".join(lines)


def _line(finding: Finding) -> str:
    if finding.skipped:
        return f"  skipped      {finding.check.id:<24} {finding.skipped}"
    return f"  {_WORDS[finding.verdict.status]:<12} {finding.check.id:<24} {finding.verdict.seen}"


def _block(finding: Finding) -> list[str]:
    verdict = finding.verdict
    lines = ["", f"{_WORDS[verdict.status]}  {finding.check.id}: {finding.check.title}"]
    parts = (("seen", verdict.seen), ("expected", verdict.expected), ("to do", verdict.todo))
    lines += [f"      {name + ':':<10}{text}" for name, text in parts if text]
    return lines


def catalogue() -> str:
    """All checks, one line each."""
    return "\n".join(
        f"{check.id:<24} {'active ' if check.active else 'passive'}  {check.title}" for check in CHECKS.values()
    )


def explain(check: Check) -> str:
    """Everything that is declared about a check."""
    lines = [
        f"{check.id}: {check.title}",
        f"  protects:  {check.protects}",
        f"  counts as: {check.severity}",
        f"  how:       {'active: runs something on the nodes' if check.active else 'passive: only looks'}",
    ]
    if check.needs:
        lines.append(f"  needs:     {', '.join(check.needs)}")
    return "\n".join(lines)

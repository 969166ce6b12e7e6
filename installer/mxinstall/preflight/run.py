"""Run the checks: each gives a verdict, also when it could not look. One namespace for the active ones, removed after.

Not here: what is checked (`checks/`), what a report looks like (`report.py`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from mxinstall.preflight import checks
from mxinstall.preflight.context import Context
from mxinstall.preflight.model import CHECKS, Check, Finding, PreflightReport, Verdict
from mxinstall.preflight.probes import ProbeSpace
from sitebundle.errors import CheckUnknown, ClusterRefused
from sitebundle.events import Sink, Step, stage

STAGE = "preflight"
_ACTIVE_AT_ONCE = 3
_STEP: Mapping[str, Literal["ok", "warn", "fail", "not-checked"]] = {
    "pass": "ok",
    "warn": "warn",
    "fail": "fail",
    "not-checked": "not-checked",
}

assert checks is not None  # importing the package is what declares the checks


def run(
    context: Context,
    active: bool,
    sink: Sink,
    *,
    skip: Mapping[str, str] | None = None,
    only: Iterable[str] = (),
) -> PreflightReport:
    """All checks that apply, or `only` those; `skip` maps ids to the operator's reason.

    A passive run lists active checks as not checked and changes nothing. Raises CheckUnknown, and
    ClusterUnreachable when the API server goes away.
    """
    skipped, wanted = dict(skip or {}), set(only)
    for name in (*skipped, *wanted):
        if name not in CHECKS:
            raise CheckUnknown(check=name)
    chosen = [check for check in CHECKS.values() if (not wanted or check.id in wanted) and check.applies(context)]
    found: dict[str, Finding] = {}
    with stage(sink, STAGE, "Look before anything changes" if not active else "Look, and try on the nodes") as told:

        def take(finding: Finding) -> None:
            found[finding.check.id] = finding
            verdict = finding.verdict
            detail = finding.skipped and f"skipped: {finding.skipped}"
            sink(
                Step(
                    STAGE,
                    finding.check.id,
                    "skipped" if finding.skipped else _STEP[verdict.status],
                    detail or verdict.told,
                    finding.seconds,
                )
            )

        to_try: list[Check] = []
        for check in chosen:
            if check.id in skipped:
                take(Finding(check, Verdict("not-checked", "left out"), skipped=skipped[check.id]))
            elif check.active and not active:
                take(Finding(check, Verdict("not-checked", "it runs something on the nodes", todo="use --active")))
            elif check.active:
                to_try.append(check)
            else:
                take(_judged(check, context))
        broken = any(finding.verdict.status == "fail" for finding in found.values())
        for finding in _tried(to_try, context, broken):
            take(finding)
        report = PreflightReport(tuple(found[check.id] for check in chosen), active)
        told.detail = ", ".join(f"{count} {status}" for status, count in report.as_json()["counts"].items() if count)
    return report


def _tried(to_try: list[Check], context: Context, broken: bool) -> list[Finding]:
    if not to_try:
        return []
    if broken:
        seen = "not tried, since a check before it failed"
        return [Finding(check, Verdict("not-checked", seen, todo="repair what failed")) for check in to_try]
    with ProbeSpace(context.cluster, context.site.spec.registry.pull_secret) as space:
        context.space = space
        with ThreadPoolExecutor(_ACTIVE_AT_ONCE, thread_name_prefix="preflight") as pool:
            return list(pool.map(lambda check: _judged(check, context), to_try))


def _judged(check: Check, context: Context) -> Finding:
    began = time.monotonic()
    try:
        verdict = check.probe(context)
    except ClusterRefused as refusal:
        verdict = Verdict(
            "not-checked",
            f"the API server refused: {refusal.message}",
            todo=f"this needs: {', '.join(check.needs) or 'more permissions'}",
        )
    if verdict.status == "fail" and check.severity == "warn":
        verdict = Verdict("warn", verdict.seen, verdict.expected, verdict.todo)
    return Finding(check, verdict, time.monotonic() - began)

"""Every passive check against canned answers of a cluster: one file of cases per check, its verdict and its words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from canned_site import context_of
from mxinstall.preflight import CHECKS, run

from sitebundle.events import silent

CASES = Path(__file__).parent / "cases"
BY_HAND = {"registry.disk", "registry.address", "registry.answers", "ports.ephemeral"}
"""Checks of this host rather than of the cluster: test_host_checks.py."""


def all_cases() -> list[Any]:
    return [
        pytest.param(path.stem, case, id=f"{path.stem}: {case['name']}")
        for path in sorted(CASES.glob("*.yaml"))
        for case in yaml.safe_load(path.read_text())
    ]


@pytest.mark.parametrize(("check", "case"), all_cases())
def test_a_check_sees_what_there_is_and_says_it(check: str, case: dict[str, Any], tmp_path: Path) -> None:
    report = run(context_of(case.get("facts", {}), tmp_path), False, silent, only=[check])
    (finding,) = report.findings
    said = f"{finding.verdict.seen} | {finding.verdict.expected} | {finding.verdict.todo}"
    assert finding.verdict.status == case["status"], said
    for part in case.get("says", []):
        assert part in said
    if finding.verdict.status != "pass":
        assert finding.verdict.todo


def test_every_passive_check_of_the_cluster_has_cases_of_both_kinds() -> None:
    wanted = {check.id for check in CHECKS.values() if not check.active} - BY_HAND
    statuses = {
        path.stem: {case["status"] for case in yaml.safe_load(path.read_text())} for path in CASES.glob("*.yaml")
    }
    assert set(statuses) == wanted
    assert [name for name, seen in statuses.items() if len(seen) < 2] == []

"""What a run of checks adds up to: verdicts, errors and exit codes, the page for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from canned_site import context_of
from mxinstall.preflight import CHECKS, Check, Finding, PreflightReport, Verdict, run
from mxinstall.preflight.page import page
from mxinstall.preflight.quantities import quantity, room_of_pod
from mxinstall.preflight.report import catalogue, explain, render

from sitebundle.errors import CheckUnknown, PreflightFailed, PreflightNotChecked, StorageClassMissing
from sitebundle.events import Event, Step, silent


def finding(status: Any, active: bool = False, skipped: str = "", severity: Any = "fail") -> Finding:
    probe = lambda context: Verdict("pass", "")  # noqa: E731
    check = Check(f"test.{status}", "A title", "Something", probe, severity=severity, active=active)
    return Finding(check, Verdict(status, "what was seen", "what was expected", "what to do"), skipped=skipped)


def test_a_failure_is_an_error_that_names_the_check() -> None:
    with pytest.raises(PreflightFailed) as caught:
        PreflightReport((finding("pass"), finding("fail"), finding("not-checked"))).require()
    assert caught.value.fields["checks"] == "test.fail"


def test_what_could_not_be_checked_is_no_pass() -> None:
    with pytest.raises(PreflightNotChecked):
        PreflightReport((finding("pass"), finding("not-checked"))).require()


def test_active_checks_may_wait_in_a_passive_run_but_not_in_a_complete_one() -> None:
    passive = PreflightReport((finding("not-checked", active=True),))
    passive.require()
    with pytest.raises(PreflightNotChecked):
        passive.require(complete=True)
    with pytest.raises(PreflightNotChecked):
        PreflightReport((finding("not-checked", active=True),), active=True).require()


def test_a_failure_that_stands_alone_has_its_own_name_and_exit_code(tmp_path: Path) -> None:
    context = context_of({"storage_classes": ["bulk"]}, tmp_path)
    alone = run(context, False, silent, only=["storage.classes"])
    with pytest.raises(StorageClassMissing, match=r"no StorageClass standard .*; it has: bulk"):
        alone.require()
    both = PreflightReport((*alone.findings, finding("fail")))
    with pytest.raises(PreflightFailed):
        both.require()
    assert alone.as_json()["findings"][0]["status"] == "fail"


def test_the_line_of_a_failure_says_what_to_do(tmp_path: Path) -> None:
    events: list[Event] = []
    run(context_of({"storage_classes": ["bulk"]}, tmp_path), False, events.append, only=["storage.classes"])
    (step,) = [event for event in events if isinstance(event, Step)]
    assert "Name existing classes in site.yaml" in step.detail


def test_what_could_only_warn_stops_no_install_when_it_could_not_be_looked_at() -> None:
    report = PreflightReport((finding("not-checked", severity="warn"),))
    report.require()
    with pytest.raises(PreflightNotChecked):
        report.require(complete=True)


def test_a_warning_and_a_skipped_check_stop_nothing() -> None:
    PreflightReport((finding("warn"), finding("not-checked", skipped="known"))).require(complete=True)


def test_failures_come_last_with_what_to_do() -> None:
    text = render(PreflightReport((finding("fail"), finding("warn"), finding("pass"))))
    assert text.index("test.pass") < text.index("test.warn") < text.index("test.fail")
    assert "to do:    what to do" in text[text.index("test.fail") :]
    assert text.endswith("1 ok, 1 WARN, 1 FAIL")


def test_a_passive_run_lists_the_active_checks_as_not_checked(tmp_path: Path) -> None:
    report = run(context_of({}, tmp_path), False, silent, only=["storage.write", "registry.pull"])
    assert {f.check.id: f.verdict.status for f in report.findings} == {
        "storage.write": "not-checked",
        "registry.pull": "not-checked",
    }


def test_a_skipped_check_is_told_with_its_reason(tmp_path: Path) -> None:
    events: list[Event] = []
    report = run(
        context_of({"version": "v1.20.0"}, tmp_path),
        False,
        events.append,
        only=["kubernetes.version"],
        skip={"kubernetes.version": "tried by hand"},
    )
    report.require(complete=True)
    assert report.as_json()["skipped"] == {"kubernetes.version": "tried by hand"}
    (step,) = [event for event in events if isinstance(event, Step)]
    assert step.verdict == "skipped"
    assert "tried by hand" in step.detail


def test_active_checks_are_not_tried_where_a_passive_one_failed(tmp_path: Path) -> None:
    report = run(
        context_of({"version": "v1.20.0"}, tmp_path), True, silent, only=["kubernetes.version", "registry.pull"]
    )
    assert [f.verdict.status for f in report.findings] == ["fail", "not-checked"]


def test_an_unknown_check_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckUnknown):
        run(context_of({}, tmp_path), False, silent, only=["nodes.colour"])


def test_every_check_is_declared_in_full() -> None:
    for check in CHECKS.values():
        assert check.title
        assert check.protects.endswith(".")
        assert check.id in catalogue()
        assert check.protects in explain(check)


@pytest.mark.parametrize(
    ("text", "number"),
    [("100m", 0.1), ("2", 2), ("1.5", 1.5), ("1Ki", 1024), ("3Gi", 3 * 2**30), ("5M", 5e6), ("1e3", 1000)],
)
def test_quantities_are_read_as_kubernetes_reads_them(text: str, number: float) -> None:
    assert float(quantity(text)) == number


@pytest.mark.parametrize("text", ["", "1Qi", "much", "Ki", "--1"])
def test_what_is_no_quantity_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        quantity(text)


def test_a_pod_asks_for_its_largest_moment() -> None:
    def container(memory: str, **more: str) -> dict[str, Any]:
        return {"resources": {"requests": {"memory": memory}}, **more}

    pod = {
        "containers": [container("100Mi"), {"resources": {"limits": {"memory": "50Mi"}}}],
        "initContainers": [container("10Mi", restartPolicy="Always"), container("400Mi"), container("20Mi")],
    }
    assert room_of_pod(pod).memory == 410 * 2**20


def test_the_page_of_checks_is_what_the_declarations_say() -> None:
    written = Path(__file__).parents[3] / "docs" / "reference" / "preflight.md"
    assert written.read_text() == page(), "python -m mxinstall.preflight.page > docs/reference/preflight.md"

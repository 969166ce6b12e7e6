"""The demo's own judgement: when it may say that it passed, and which generation it builds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from darksite import demo
from darksite.demo_report import Audit, Report, Stage


def a_good_report() -> Report:
    return Report(
        stages=[Stage("build", 1.0, 5_000_000, ok=True)],
        proof=[{"id": "login", "ok": True, "detail": "in"}],
        audit=Audit(running=12, matched=12),
    )


def test_a_run_with_everything_well_has_passed() -> None:
    assert a_good_report().passed


@pytest.mark.parametrize(
    "spoil",
    [
        {"failure": "build: no space"},
        {"proof": []},
        {"proof": [{"id": "login", "ok": False, "detail": "refused"}]},
        {"audit": Audit()},
        {"audit": Audit(running=12, matched=11, mismatched=1)},
        {"audit": Audit(running=12, matched=11)},
        {"stages": [Stage("build", ok=False)]},
    ],
    ids=str,
)
def test_anything_missing_or_failed_is_not_a_pass(spoil: dict[str, Any]) -> None:
    report = a_good_report()
    vars(report).update(spoil)
    assert not report.passed


def test_the_written_report_has_the_promised_fields(tmp_path: Path) -> None:
    report = a_good_report()
    install = tmp_path / "install.json"
    install.write_text(
        json.dumps(
            {
                "stages": [
                    {"name": "seed", "seconds": 2.5, "bytes": 1_000_000, "outcome": "ended"},
                    {"name": "deploy", "seconds": 9.0, "bytes": 0, "outcome": "failed"},
                ],
                "proof": [{"id": "room", "ok": False, "detail": "no invitation"}],
                "audit": {"running": 3, "matched": 3, "mismatched": 0, "names": []},
            }
        )
    )
    report.take_install(install)
    report.write(tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    assert [(one["name"], one["seconds"], one["bytes"]) for one in written["stages"]] == [
        ("build", 1.0, 5_000_000),
        ("install/seed", 2.5, 1_000_000),
        ("install/deploy", 9.0, 0),
    ]
    assert [one["ok"] for one in written["stages"]] == [True, True, False]
    assert [(one["id"], one["ok"], one["detail"]) for one in written["proof"]] == [
        ("login", True, "in"),
        ("room", False, "no invitation"),
    ]
    assert written["audit"] == {"running": 3, "matched": 3, "mismatched": 0}
    assert written["passed"] is False


def test_a_command_that_fails_ends_its_stage_as_failed_and_names_itself() -> None:
    report = Report()
    failing = ["/bin/sh", "-c", "exit 3"]
    with pytest.raises(demo.StageFailed, match="ended with 3"), demo._stage(report, "build", "Build"):
        demo._command(failing)
    assert [(stage.name, stage.ok) for stage in report.stages] == [("build", False)]


def test_the_generation_goes_up_only_when_something_has_changed_or_the_site_is_ahead(tmp_path: Path) -> None:
    record, lock, manifests = (tmp_path / name for name in ("generation.json", "images.lock", "manifests"))
    lock.write_text("one")
    manifests.mkdir()
    (manifests / "stack.yaml").write_text("one")
    first = demo._generation(record, lock, manifests, installed=0)
    assert first[0] == 1
    assert demo._generation(record, lock, manifests, installed=1) == first
    lock.write_text("two")
    assert demo._generation(record, lock, manifests, installed=1)[0] == 2
    ahead = demo._generation(record, lock, manifests, installed=6)
    assert ahead[0] == 7
    assert demo._generation(record, lock, manifests, installed=7) == ahead
    (manifests / "stack.yaml").write_text("two")
    assert demo._generation(record, lock, manifests, installed=7)[0] == 8


def test_the_fingerprint_is_the_one_that_ssh_keygen_prints(tmp_path: Path) -> None:
    public = tmp_path / "k.pub"
    public.write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl github.com\n")
    assert demo._fingerprint(public) == "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"

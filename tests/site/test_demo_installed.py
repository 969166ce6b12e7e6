"""What the demo leaves behind: a system that was proved, audited, and runs nothing but what the lock names."""

from __future__ import annotations

import json
import re
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NAMESPACES = ("matrix", "matrix-data", "cnpg-system")
PROOF = {
    "client-api",
    "discovery",
    "register",
    "login",
    "room",
    "messages",
    "sync-by-synchrotron",
    "written-by-persister",
    "read-back",
    "media",
    "media-is-private",
    "clean-up",
}
WELL_SECONDS = 180
FAULTS = {"synchrotron-lost", "primary-lost"}

pytestmark = pytest.mark.site


def test_every_stage_ended_well(demo: dict[str, Any]) -> None:
    assert demo["failure"] == ""
    assert [stage["name"] for stage in demo["stages"] if not stage["ok"]] == []
    moved = {stage["name"]: stage["bytes"] for stage in demo["stages"]}
    assert moved["carry"] == moved["build"] > 1_000_000
    assert all(stage["seconds"] >= 0 for stage in demo["stages"])


@pytest.mark.parametrize("identity", sorted(PROOF | FAULTS))
def test_a_proof_step_passed(demo: dict[str, Any], identity: str) -> None:
    results = [one for one in demo["proof"] if one["id"] == identity]
    assert results, f"{identity} was never tried"
    assert all(one["ok"] for one in results), results


@pytest.mark.parametrize("identity", sorted(FAULTS))
def test_no_acknowledged_message_is_lost_across_a_fault(demo: dict[str, Any], identity: str) -> None:
    (detail,) = [one["detail"] for one in demo["proof"] if one["id"] == identity]
    told = re.search(
        r"(\d+) messages at ([\d.]+)/s across the deletion of .*: (\d+) acknowledged, (\d+) of them lost; "
        r"(\d+) unacknowledged",
        detail,
    )
    assert told, detail
    sent, rate, acknowledged, lost, unacknowledged = (float(number) for number in told.groups())
    assert sent >= 500
    assert rate >= 5
    assert acknowledged + unacknowledged == sent
    assert acknowledged > 0
    assert lost == 0


def test_the_audit_saw_every_container_that_kubernetes_shows(
    demo: dict[str, Any], objects: Callable[[Sequence[str]], list[dict[str, Any]]]
) -> None:
    audit = demo["audit"]
    assert audit["mismatched"] == 0
    assert audit["matched"] == audit["running"]
    running = sum(
        len(pod["status"].get("containerStatuses", [])) + len(pod["status"].get("initContainerStatuses", []))
        for namespace in NAMESPACES
        for pod in objects(["pods", "-n", namespace])
    )
    assert audit["running"] == running > 0


def test_every_container_runs_a_digest_of_the_lock_from_the_sites_registry(
    demo: dict[str, Any], objects: Callable[[Sequence[str]], list[dict[str, Any]]]
) -> None:
    lock = tomllib.loads((ROOT / "build/demo/images.lock").read_text())
    locked = set(re.findall(r"sha256:[0-9a-f]{64}", str(lock["images"])))
    seen = 0
    for namespace in NAMESPACES:
        for pod in objects(["pods", "-n", namespace]):
            status = pod["status"]
            for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
                name = f"{namespace}/{pod['metadata']['name']}/{container['name']}"
                assert container["imageID"].rpartition("@")[2] in locked, f"{name} runs {container['imageID']}"
                assert container["imageID"].startswith("10.90.0.100:5000/"), f"{name}: {container['imageID']}"
                seen += 1
    assert seen >= len(NAMESPACES)


def test_status_says_after_the_install_that_the_site_is_well(
    demo: dict[str, Any], operator: Callable[..., str]
) -> None:
    deadline = time.monotonic() + WELL_SECONDS
    while True:
        said = json.loads(operator(str(ROOT / ".venv/bin/mxinstall"), "--json", "status", check=False).splitlines()[-1])
        # The tests before this one took pods away: the last of them may still be on its way back.
        if said["healthy"] or time.monotonic() > deadline:
            break
        time.sleep(3)
    assert said["healthy"], said
    operator(str(ROOT / ".venv/bin/mxinstall"), "status")

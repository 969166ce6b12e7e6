"""The audit sees every container of a pod, on both sides, and never passes on nothing."""

from __future__ import annotations

from typing import Any

import pytest
from mxinstall.deploy.audit import AuditReport, audit_pods

from sitebundle.errors import AuditFailed

INDEX, MANIFEST, CONFIG, OTHER = (f"sha256:{digit * 64}" for digit in "abc0")
REFERENCE = "ghcr.io/element-hq/synapse:v1"
LOCKED = {REFERENCE: (INDEX, MANIFEST, CONFIG)}
IMAGE = f"10.0.0.1:5000/mx/ghcr.io/element-hq/synapse:v1@{INDEX}"


def pod(
    image: str = IMAGE, image_id: str = IMAGE, kind: str = "containers", status: str = "containerStatuses", **more: Any
) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "matrix", "name": "main-0"},
        "spec": {kind: [{"name": "synapse", "image": image}]},
        "status": {"phase": "Running", status: [{"name": "synapse", "imageID": image_id}], **more},
    }


def problems(*pods: dict[str, Any]) -> list[str]:
    return [entry.problem for entry in audit_pods(pods, LOCKED)]


@pytest.mark.parametrize("image_id", [IMAGE, f"x/y@{MANIFEST}", CONFIG, f"docker-pullable://x@{INDEX}", CONFIG[7:]])
def test_a_runtime_may_name_index_manifest_or_config(image_id: str) -> None:
    assert problems(pod(image_id=image_id)) == [""]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("containers", "containerStatuses"),
        ("initContainers", "initContainerStatuses"),
        ("ephemeralContainers", "ephemeralContainerStatuses"),
    ],
)
def test_another_image_is_found_in_every_kind_of_container(kind: str, status: str) -> None:
    (problem,) = problems(pod(image_id=f"x@{OTHER}", kind=kind, status=status))
    assert OTHER in problem


def test_what_a_pod_asks_for_must_be_locked_too() -> None:
    (problem,) = problems(pod(image=f"evil.example/x@{OTHER}", image_id=IMAGE))
    assert "not in the lock" in problem


def test_a_reference_without_a_digest_is_a_problem() -> None:
    (problem,) = problems(pod(image="10.0.0.1:5000/mx/ghcr.io/element-hq/synapse:v1"))
    assert "without a digest" in problem


def test_an_image_of_the_bundle_that_is_not_the_one_asked_for_is_a_problem() -> None:
    locked = {**LOCKED, "docker.io/library/haproxy:3": (OTHER,)}
    (entry,) = audit_pods([pod(image_id=f"x@{OTHER}")], locked)
    assert "not ghcr.io/element-hq/synapse:v1" in entry.problem


def test_a_container_that_has_not_started_is_a_problem_unless_its_pod_has_ended() -> None:
    assert problems(pod(image_id="")) == ["has not started"]
    assert problems(pod(image_id="", phase="Failed")) == [""]


def test_completed_pods_are_looked_at() -> None:
    (problem,) = problems(pod(image_id=f"x@{OTHER}", phase="Succeeded"))
    assert problem == f"runs x@{OTHER}, not {REFERENCE}"


def test_a_pod_that_an_earlier_generation_left_behind_is_named_with_what_to_do() -> None:
    left, running = (problems(pod(image=f"x@{OTHER}", phase=phase))[0] for phase in ("Failed", "Running"))
    assert left.endswith("of an earlier generation, delete it")
    assert "delete" not in running


def test_nothing_at_all_is_no_pass() -> None:
    with pytest.raises(AuditFailed, match="no container"):
        AuditReport(()).check()


def test_each_mismatch_is_named() -> None:
    report = AuditReport(tuple(audit_pods([pod(), pod(image_id=f"x@{OTHER}")], LOCKED)))
    assert (report.running, report.matched) == (2, 1)
    with pytest.raises(AuditFailed, match=r"1 of 2 .*matrix/main-0/synapse"):
        report.check()

"""Why something is not ready is said so that a person knows where to look."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import pytest
from mxinstall.cluster import Cluster
from mxinstall.deploy.ready import Expected, bound_seconds, field_of, pod_trouble, unmet, workload_obstacle

from sitebundle.stack import Release


def workload(kind: str = "StatefulSet", wanted: int = 3, **status: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "metadata": {"name": "main", "generation": 2},
        "spec": {"replicas": wanted},
        "status": {"observedGeneration": 2, **status},
    }


@pytest.mark.parametrize(
    ("quorum", "status", "obstacle"),
    [
        ("all", {"readyReplicas": 3, "updatedReplicas": 3}, ""),
        ("all", {"readyReplicas": 2, "updatedReplicas": 3}, "2 of 3 ready"),
        ("all", {"readyReplicas": 3, "updatedReplicas": 1}, "1 up to date"),
        ("majority", {"readyReplicas": 2, "updatedReplicas": 2}, ""),
        ("majority", {"readyReplicas": 1, "updatedReplicas": 3}, "1 of 3 ready"),
        ("all", {"readyReplicas": 3, "updatedReplicas": 3, "observedGeneration": 1}, "not looked at"),
        ("all", {"readyReplicas": 3, "updatedReplicas": 3, "replicas": 4}, "1 old pods"),
    ],
)
def test_a_workload_is_rolled_out_when_its_replicas_are_ready_and_new(
    quorum: str, status: dict[str, Any], obstacle: str
) -> None:
    said = workload_obstacle(workload(**status), quorum)
    assert said == "" if not obstacle else obstacle in said


def test_a_workload_scaled_to_nothing_is_ready() -> None:
    assert workload_obstacle(workload(wanted=0), "all") == ""


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "main-0"}, "status": {"phase": "Pending", **status}}


def crash(container: str) -> str:
    return f"the last line of {container}"


def test_a_pull_that_fails_names_container_and_reason() -> None:
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "x"'}
    said = pod_trouble(pod(containerStatuses=[{"name": "synapse", "state": {"waiting": waiting}}]), crash)
    assert said == 'synapse cannot start: ImagePullBackOff Back-off pulling image "x"'


def test_a_crash_loop_says_code_and_last_line() -> None:
    status = {
        "name": "synapse",
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 3}},
    }
    assert pod_trouble(pod(containerStatuses=[status]), crash) == "synapse ended with code 3: the last line of synapse"


def test_an_unschedulable_pod_says_what_the_scheduler_said() -> None:
    condition = {"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available"}
    assert "0/2 nodes" in pod_trouble(pod(conditions=[condition]), crash)


def test_a_ready_or_completed_pod_is_in_no_trouble() -> None:
    ready = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}]
    assert pod_trouble(pod(phase="Running", conditions=ready), crash) == ""
    assert pod_trouble(pod(phase="Succeeded"), crash) == ""


def test_a_pod_that_starts_for_long_says_what_it_does_until_it_has_started() -> None:
    annotations = {"mxbundle.io/starting": "makes or migrates the schema"}
    not_ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "False", "message": "not ready: [a]"}]}

    def seen(started: bool, **metadata: Any) -> str:
        container = {"name": "a", "state": {"running": {}}, "started": started}
        made = pod(**not_ready, containerStatuses=[container])
        return pod_trouble({**made, "metadata": {**made.get("metadata", {}), **metadata}}, crash)

    assert seen(False, annotations=annotations) == "Running, makes or migrates the schema"
    assert seen(True, annotations=annotations) == "Running, not ready: [a]"
    assert seen(False) == "Running, not ready: [a]"


def test_a_field_is_found_by_its_dotted_path() -> None:
    assert field_of({"status": {"phase": "x"}}, "status.phase") == "x"
    assert field_of({"status": "x"}, "status.phase") is None


class Served:
    """A cluster that serves one group with these objects."""

    def __init__(self, phases: dict[str, str]) -> None:
        self.phases = phases

    def request(self, method: str, path: str) -> tuple[int, bytes]:
        if path == "/apis/postgresql.cnpg.io":
            return 200, b'{"preferredVersion": {"groupVersion": "postgresql.cnpg.io/v1"}}'
        name = path.rpartition("/")[2]
        assert path == f"/apis/postgresql.cnpg.io/v1/namespaces/matrix-data/clusters/{name}"
        found = {"status": {"phase": self.phases[name]}} if name in self.phases else None
        return (200, json.dumps(found).encode()) if found else (404, b"{}")


def of_the_postgres_release(phases: dict[str, str], names: Sequence[str]) -> list[str]:
    ready = {"resource": "clusters.postgresql.cnpg.io/*", "path": "status.phase", "equals": "healthy"}
    release = Release.model_validate({"name": "postgres", "namespace": "matrix-data", "chart": "./x", "ready": [ready]})
    objects = [
        {"apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": {"name": name}} for name in names
    ] + [{"apiVersion": "example.org/v1", "kind": "Cluster", "metadata": {"name": "of-somebody-else"}}]
    return unmet(cast(Cluster, Served(phases)), Expected(release, objects, {}))


def test_a_star_asks_for_each_object_of_the_release_and_for_no_other() -> None:
    assert of_the_postgres_release({"postgres": "healthy", "old": "broken"}, ["postgres"]) == []
    assert of_the_postgres_release({"postgres": "healthy", "restored": "new"}, ["postgres", "restored"]) == [
        "clusters.postgresql.cnpg.io/restored: status.phase is 'new', not 'healthy'"
    ]
    assert of_the_postgres_release({}, ["postgres"]) == ["clusters.postgresql.cnpg.io/postgres does not exist"]
    assert of_the_postgres_release({}, []) == []


def test_a_rollout_may_take_longer_for_each_pod_that_has_to_wait_for_another() -> None:
    def of(replicas: int | None, kind: str = "StatefulSet") -> dict[str, Any]:
        spec = {"replicas": replicas, "template": {"spec": {"terminationGracePeriodSeconds": 20}}}
        return {"kind": kind, "metadata": {"name": "x"}, "spec": spec}

    assert bound_seconds(900, []) == bound_seconds(900, [of(1)]) == bound_seconds(900, [of(None)]) == 900
    # Two workloads are replaced at the same time: the larger one says how long.
    assert bound_seconds(900, [of(5), of(3)]) == bound_seconds(900, [of(5, "Deployment")]) == 900 + 4 * (60 + 20)
    # What is known from a record alone has no spec, and other kinds have no pods of their own.
    assert bound_seconds(60, [{"kind": "StatefulSet", "metadata": {"name": "x"}}, of(9, "Cluster")]) == 60

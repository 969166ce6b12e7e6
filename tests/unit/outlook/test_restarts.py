"""Which pods a change ends, told from the states before and after."""

from __future__ import annotations

from typing import Any

import pytest
from mxinstall.outlook.restarts import restart_of, stopped


def workload(kind: str = "StatefulSet", replicas: int = 2, image: str = "a:1", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"namespace": "matrix", "name": "w"},
        "spec": {"replicas": replicas, "template": {"spec": {"containers": [{"image": image}]}}, **spec},
        "status": {"replicas": replicas, "currentNumberScheduled": 3},
    }


def postgres(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        "metadata": {"namespace": "matrix-data", "name": "postgres"},
        "spec": {"instances": 3, **spec},
    }


@pytest.mark.parametrize(
    ("live", "after", "pods", "word"),
    [
        (workload(), workload(image="a:2"), 2, "one after the other"),
        (
            workload("Deployment", strategy={"type": "Recreate"}),
            workload("Deployment", 2, "b", strategy={"type": "Recreate"}),
            2,
            "all at once",
        ),
        (workload("DaemonSet"), workload("DaemonSet", image="a:2"), 3, "one after the other"),
        (workload(), workload("StatefulSet", 1), 1, "scaled down from 2 to 1"),
        (postgres(), postgres(affinity={"x": 1}), 3, "affinity"),
        (postgres(), postgres(postgresql={"parameters": {"shared_buffers": "1GB"}}), 3, "shared_buffers"),
        (postgres(), postgres(instances=2), 1, "scaled down from 3 to 2"),
    ],
)
def test_pods_that_end(live: dict[str, Any], after: dict[str, Any], pods: int, word: str) -> None:
    found = restart_of(live, after)
    assert found is not None
    assert found.pods == pods
    assert word in found.how


@pytest.mark.parametrize(
    ("live", "after"),
    [
        (workload(), workload(replicas=3)),
        (workload(), {**workload(), "metadata": {"namespace": "matrix", "name": "w", "labels": {"a": "b"}}}),
        (workload(replicas=0), workload(replicas=0, image="a:2")),
        (postgres(), postgres(postgresql={"parameters": {"work_mem": "1MB"}})),
        (postgres(), postgres(instances=4)),
        (
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}},
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {}},
        ),
    ],
)
def test_pods_that_stay(live: dict[str, Any], after: dict[str, Any]) -> None:
    assert restart_of(live, after) is None


def test_a_workload_that_goes_takes_its_pods_along() -> None:
    found = stopped(workload(replicas=4))
    assert found is not None
    assert (found.workload, found.pods) == ("StatefulSet/matrix/w", 4)
    assert stopped(workload(replicas=0)) is None

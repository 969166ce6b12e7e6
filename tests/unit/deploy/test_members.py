"""A part that lacks members says which ones."""

from __future__ import annotations

from typing import Any

from mxinstall.deploy.members import of_postgres, of_workload


def database(healthy: list[str], **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "matrix-data", "name": "postgres"},
        "spec": {"instances": 3},
        "status": {
            "instanceNames": ["postgres-1", "postgres-2", "postgres-3"],
            "instancesStatus": {"healthy": healthy},
            "currentPrimary": "postgres-2",
            "targetPrimary": "postgres-2",
            **status,
        },
    }


def pods(*ready: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {("matrix-data", name): {"status": {"conditions": [{"type": "Ready", "status": "True"}]}} for name in ready}


def workload(kind: str, replicas: int, **status: Any) -> dict[str, Any]:
    metadata = {"namespace": "matrix-data", "name": "valkey-sentinel"}
    return {"kind": kind, "metadata": metadata, "spec": {"replicas": replicas}, "status": status}


def test_a_databases_missing_instance_is_named_with_the_primary() -> None:
    said = str(of_postgres(database(["postgres-2", "postgres-3"])))
    assert said == "postgresql matrix-data/postgres: 2 of 3 members, missing postgres-1, primary postgres-2"


def test_instances_that_were_never_made_and_a_change_of_primary_are_told() -> None:
    found = of_postgres(database(["postgres-2"], instanceNames=["postgres-2"], targetPrimary="postgres-3"))
    assert (found.ready, found.missing, found.majority) == (1, (), False)
    assert "2 not made yet, changing to postgres-3" in found.note
    assert "NO MAJORITY" in str(found)


def test_sentinels_without_a_majority_are_said_to_be() -> None:
    found = of_workload(workload("StatefulSet", 3), pods("valkey-sentinel-1"))
    assert found.missing == ("valkey-sentinel-0", "valkey-sentinel-2")
    assert not found.majority
    two = of_workload(workload("StatefulSet", 3), pods("valkey-sentinel-1", "valkey-sentinel-2"))
    assert two.majority


def test_of_a_deployment_the_number_counts() -> None:
    found = of_workload(workload("Deployment", 2, readyReplicas=1), {})
    assert (found.ready, found.wanted, found.missing) == (1, 2, ())

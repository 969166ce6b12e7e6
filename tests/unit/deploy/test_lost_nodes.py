"""Which nodes are away, and what their pods mean to a person."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from mxinstall.deploy.nodes import OUT_OF_SERVICE, judge

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def node(name: str, ready: str = "Unknown", *, taint: str = "") -> dict[str, Any]:
    condition = {"type": "Ready", "status": ready, "message": "no word", "lastTransitionTime": "2026-01-01T11:00:00Z"}
    taints = [{"key": taint, "effect": "NoExecute"}] if taint else []
    return {"metadata": {"name": name}, "spec": {"taints": taints}, "status": {"conditions": [condition]}}


def pod(name: str, told: str = "", owner: str = "StatefulSet", phase: str = "Running") -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": "matrix", "ownerReferences": [{"kind": owner}]}
    if told:
        metadata["deletionTimestamp"] = told
    return {"metadata": metadata, "spec": {"nodeName": "n1"}, "status": {"phase": phase}}


@pytest.mark.parametrize(
    ("told", "stuck"),
    [("2026-01-01T11:59:00Z", True), ("2026-01-01T11:59:45Z", False), ("2026-01-01T12:00:20Z", False), ("", False)],
)
def test_a_pod_is_stuck_when_it_should_have_ended_half_a_minute_ago(told: str, stuck: bool) -> None:
    (lost,) = judge([node("n1")], [pod("main-0", told)], NOW)
    assert (lost.stuck, lost.pods) == ((("matrix/main-0",), ()) if stuck else ((), ("matrix/main-0",)))


def test_ready_nodes_and_pods_that_stay_with_their_node_are_no_matter() -> None:
    assert judge([node("n1", "True")], [pod("main-0")], NOW) == []
    (lost,) = judge([node("n1")], [pod("agent", owner="DaemonSet"), pod("job", phase="Succeeded")], NOW)
    assert (lost.stuck, lost.pods) == ((), ())
    assert len(lost.text()) == 1


def test_a_node_that_was_given_up_is_told_as_such() -> None:
    (away,) = judge([node("n1", taint=OUT_OF_SERVICE)], [pod("main-0", "2026-01-01T11:00:00Z")], NOW)
    assert "it was given up" in "\n".join(away.text())
    assert "node release" not in "\n".join(away.text())
    (back,) = judge([node("n1", "True", taint=OUT_OF_SERVICE)], [], NOW)
    assert "mxinstall node return n1" in back.text()[0]

"""Nodes that are away, and the pods that are stuck there because nobody can say that they ended. Reads only.

Not here: giving a node up (`mxinstall.node_loss`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from mxinstall.cluster import Cluster, Object

OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
"""The taint by which a person vouches that a node's machine is off (kubernetes.io, non-graceful node shutdown)."""
STUCK_SECONDS = 30.0
"""How long a pod may outlive the moment at which it should be gone before we call it stuck."""


@dataclass(frozen=True)
class LostNode:
    """A node that is not Ready, or that a person gave up. `since` is when that began; `stuck`: `namespace/pod`.

    `stuck` are pods that were told to end and did not for STUCK_SECONDS; `pods` are all of the others that it has.
    """

    name: str
    since: str
    reason: str
    released: bool
    ready: bool
    stuck: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The node as plain values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def text(self) -> list[str]:
        """The node for people: what it means, and what can be done."""
        if self.ready:
            return [f"node {self.name} is back but still given up: mxinstall node return {self.name}"]
        lines = [f"node {self.name} is away since {self.since}: {self.reason}"]
        if self.stuck:
            lines.append(f"  told to end, and nobody knows whether they did: {', '.join(self.stuck)}")
        if self.pods:
            lines.append(f"  also there: {', '.join(self.pods)}")
        if self.released:
            lines.append("  it was given up (out-of-service): its pods start elsewhere")
        elif self.stuck or self.pods:
            lines.append(
                "  a named process runs at most once: none is started elsewhere while this node might still run it."
            )
            lines.append(f"  if its machine is really off, say so: mxinstall node release {self.name}")
        return lines


def lost_nodes(cluster: Cluster, now: datetime | None = None) -> list[LostNode]:
    """Every node that is not Ready or is given up, with the pods of all namespaces that are on it."""
    nodes = [node for node in cluster.list("v1", "Node") if not is_ready(node) or is_released(node)]
    if not nodes:
        return []
    return judge(nodes, cluster.list("v1", "Pod"), now or datetime.now(UTC))


def judge(nodes: Iterable[Object], pods: Iterable[Object], now: datetime) -> list[LostNode]:
    """The lost ones of `nodes` with their `pods`. Pods of DaemonSets belong to the node and are left out."""
    by_node: dict[str, list[Object]] = {}
    for pod in pods:
        if not _of_daemon_set(pod) and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
            by_node.setdefault(pod["spec"].get("nodeName") or "", []).append(pod)
    found = []
    for node in nodes:
        if is_ready(node) and not is_released(node):
            continue
        condition, name = _condition(node), node["metadata"]["name"]
        there = sorted(by_node.get(name, []), key=_name)
        stuck = [pod for pod in there if is_stuck(pod, now)]
        found.append(
            LostNode(
                name=name,
                since=str(condition.get("lastTransitionTime") or "an unknown time"),
                reason=str(condition.get("message") or condition.get("reason") or "it says nothing"),
                released=is_released(node),
                ready=is_ready(node),
                stuck=tuple(_name(pod) for pod in stuck),
                pods=tuple(_name(pod) for pod in there if pod not in stuck),
            )
        )
    return sorted(found, key=lambda lost: lost.name)


def is_ready(node: Mapping[str, Any]) -> bool:
    """Whether the control plane hears from the node that all is well."""
    return _condition(node).get("status") == "True"


def is_released(node: Mapping[str, Any]) -> bool:
    """Whether somebody vouched that its machine is off."""
    return any(taint.get("key") == OUT_OF_SERVICE for taint in node["spec"].get("taints") or [])


def is_stuck(pod: Object, now: datetime) -> bool:
    """Whether it should have ended STUCK_SECONDS ago: its deletionTimestamp is already the end of its grace."""
    told = pod["metadata"].get("deletionTimestamp")
    return bool(told) and (now - _time(told)).total_seconds() > STUCK_SECONDS


def _condition(node: Mapping[str, Any]) -> dict[str, Any]:
    conditions = (node.get("status") or {}).get("conditions") or []
    return next((entry for entry in conditions if entry["type"] == "Ready"), {})


def _of_daemon_set(pod: Object) -> bool:
    return any(owner["kind"] == "DaemonSet" for owner in pod["metadata"].get("ownerReferences") or [])


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _name(pod: Object) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"

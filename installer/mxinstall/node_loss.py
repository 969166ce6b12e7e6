"""Giving up a node whose machine is off for good, so that what ran there may start elsewhere; and taking it back.

The taint out-of-service is a person's word that nothing runs there (kubernetes.io, non-graceful node shutdown).
Not here: finding such nodes (`deploy.nodes`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mxinstall.cluster import Cluster, Object
from mxinstall.deploy.fencing import hold
from mxinstall.deploy.nodes import OUT_OF_SERVICE, is_ready, is_released
from mxinstall.deploy.workdir import work_dir
from sitebundle.errors import (
    ClusterRefused,
    LastCopy,
    NodeAlive,
    NodeAway,
    NodeNotReleased,
    NodeUnknown,
    StorageUnknown,
)
from sitebundle.events import Sink, Step, stage

STAGE = "node"
MOVE_SECONDS = 180.0
"""How long the cluster may take to let go of the node's pods: its collector looks every 20 s."""
FRESH_SECONDS = 40.0
"""A kubelet renews its lease every 10 s; the control plane gives a node up after 40 to 50 s."""
HEARTBEAT_SECONDS = 12.0
ALL = "all"
"""Among the pods whose storage is to be replaced: every one."""
REPLICATED = "mxbundle.io/storage"
"""On a StatefulSet, `replicated`: a member that begins with an empty volume gets everything from the others."""

_TAINT = {"key": OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute"}
_LEASES = "kube-node-lease"
_CNPG = "postgresql.cnpg.io/v1"
_POLL_SECONDS = 2.0
_TRIES = 5


@dataclass(frozen=True)
class Volume:
    """A claim whose data is on the node's own disk. `pod` uses it; `replaceable` is empty, or says why it is not."""

    namespace: str
    claim: str
    pod: str
    obstacle: str

    @property
    def name(self) -> str:
        """`namespace/claim`."""
        return f"{self.namespace}/{self.claim}"


@dataclass(frozen=True)
class Loss:
    """What giving a node up means. `moving`: pods that start elsewhere; `staying`: volumes whose pods cannot."""

    node: str
    moving: tuple[str, ...]
    staying: tuple[Volume, ...]

    def as_json(self) -> dict[str, Any]:
        """The loss as plain values."""
        staying = [
            {"claim": volume.name, "pod": volume.pod, "replaceable": not volume.obstacle, "why_not": volume.obstacle}
            for volume in self.staying
        ]
        return {"node": self.node, "moving": list(self.moving), "staying": staying}

    def chosen(self, pods: Sequence[str]) -> tuple[Volume, ...]:
        """The volumes to be given up: those of `pods` (`POD` or `namespace/POD`), of every one for ALL.

        Raises StorageUnknown for a pod that has none there, LastCopy when nobody else has the data.
        """
        names = {volume: (volume.pod, f"{volume.namespace}/{volume.pod}") for volume in self.staying}
        for pod in pods:
            if pod != ALL and not any(pod in both for both in names.values()):
                known = ", ".join(dict.fromkeys(full for _, full in names.values())) or "none"
                raise StorageUnknown(pod=pod, node=self.node, known=known)
        found = tuple(volume for volume, both in names.items() if ALL in pods or set(both) & set(pods))
        for volume in found:
            if volume.obstacle:
                raise LastCopy(pod=names[volume][1], node=self.node, detail=volume.obstacle)
        return found

    def text(self, chosen: Sequence[Volume] = ()) -> str:
        """For the person who is asked; `chosen` are the volumes that are to be given up."""
        lines = [
            f"Node {self.node} does not answer. A process that still runs there would run twice, and two writers of",
            "the same name destroy data. Go on only if its machine is really off, and stays off until",
            f"  mxinstall node return {self.node}",
            f"start elsewhere: {', '.join(self.moving) or 'nothing'}",
        ]
        for volume in self.staying:
            if volume in chosen:
                what = f"DELETED for good: claim {volume.name}; {volume.pod} begins anew and gets all from the others"
                lines.append(what)
                continue
            what = f"stays, its data is on that node's disk: {volume.pod} (claim {volume.name})"
            then = f"--replace-storage {volume.pod} gives it up, and a new member gets all from the others"
            lines.append(f"{what}; {volume.obstacle or then}")
        return "\n".join(lines)


def look(cluster: Cluster, name: str) -> Loss:
    """What giving `name` up would mean. Reads only. Raises NodeUnknown, and NodeAlive for one that still speaks."""
    _require_dead(cluster, _node(cluster, name))
    volumes = _volumes_on(cluster, name)
    bound = {(volume.namespace, volume.pod) for volume in volumes}
    pods = [pod for pod in _pods_of(cluster, name) if (_namespace(pod), pod["metadata"]["name"]) not in bound]
    return Loss(name, tuple(sorted(_full_name(pod) for pod in pods)), tuple(volumes))


def release_held(
    operator: Cluster, name: str, sink: Sink, *, replace_storage: Sequence[str] = (), take_over: bool = False
) -> Loss:
    """`release` while the site is held, so that no installation works on the same pods. Raises AnotherInstaller too.

    What can be refused is refused before the site is held: holding it writes what a first install brings, among it
    an account that may do everything.
    """
    look(operator, name).chosen(replace_storage)
    with work_dir() as work, hold(operator, work, sink, take_over=take_over) as held:
        return release(held.cluster, name, sink, replace_storage=replace_storage)


def release(cluster: Cluster, name: str, sink: Sink, *, replace_storage: Sequence[str] = ()) -> Loss:
    """Vouch that the node's machine is off, and wait until none of its pods is left there.

    replace_storage: pods (or ALL) whose claims on its disk are deleted, if each has other copies; else nothing is done.
    Raises NodeUnknown, NodeAlive, StorageUnknown, LastCopy before any change; NodeNotReleased.
    """
    loss = look(cluster, name)
    given_up = loss.chosen(replace_storage)
    with stage(sink, STAGE, f"Give node {name} up") as tally:
        _change_taints(cluster, name, present=True)
        sink(Step(STAGE, "out-of-service", "ok", f"{name} is marked"))
        began = time.monotonic()
        while left := [_full_name(pod) for pod in _pods_of(cluster, name)]:
            if time.monotonic() - began > MOVE_SECONDS:
                raise NodeNotReleased(node=name, seconds=round(MOVE_SECONDS), pods=", ".join(left))
            time.sleep(_POLL_SECONDS)
        sink(Step(STAGE, "pods", "ok", "none is left there", time.monotonic() - began))
        for volume in given_up:
            _give_up(cluster, volume)
            sink(Step(STAGE, volume.name, "ok", f"given up; {volume.pod} begins anew"))
        tally.detail = (
            f"{len(loss.moving)} pods move, {len(loss.staying)} volumes were on its disk, {len(given_up)} given up"
        )
    return loss


def take_back(cluster: Cluster, name: str) -> bool:
    """Let pods be placed on the node again; False when it was not given up. Raises NodeUnknown, NodeAway."""
    node = _node(cluster, name)
    if not is_ready(node):
        raise NodeAway(node=name, detail="the control plane does not hear from it (not Ready)")
    if not is_released(node):
        return False
    _change_taints(cluster, name, present=False)
    return True


# --- is it dead -----------------------------------------------------------------------------------------------


def _require_dead(cluster: Cluster, node: Object) -> None:
    """By three signs that do not need equal clocks alone: condition, age of the heartbeat, and a second look at it."""
    name = node["metadata"]["name"]
    if is_ready(node):
        raise NodeAlive(node=name, detail="the control plane says that it is Ready")
    seen = _heartbeat(cluster, name)
    if seen is None:
        return
    age = (datetime.now(UTC) - datetime.fromisoformat(seen.replace("Z", "+00:00"))).total_seconds()
    if abs(age) < FRESH_SECONDS:
        raise NodeAlive(node=name, detail=f"its kubelet spoke {age:.0f} s ago")
    if is_released(node):
        return
    time.sleep(HEARTBEAT_SECONDS)
    if _heartbeat(cluster, name) != seen:
        raise NodeAlive(node=name, detail="its kubelet spoke just now")


def _heartbeat(cluster: Cluster, name: str) -> str | None:
    lease = cluster.get("coordination.k8s.io/v1", "Lease", name, _LEASES)
    renewed = ((lease or {}).get("spec") or {}).get("renewTime")
    return str(renewed) if renewed else None


# --- its disks ------------------------------------------------------------------------------------------------


def _volumes_on(cluster: Cluster, node: str) -> list[Volume]:
    """The claims whose volume only this node can mount, each with what stands against giving it up."""
    hostname = (_node(cluster, node)["metadata"].get("labels") or {}).get("kubernetes.io/hostname", node)
    pinned = {}
    for volume in cluster.list("v1", "PersistentVolume"):
        claim = volume["spec"].get("claimRef") or {}
        if claim and _hosts(volume) == {hostname}:
            pinned[(claim["namespace"], claim["name"])] = volume
    found = []
    for namespace, name in sorted(pinned):
        claim_object = cluster.get("v1", "PersistentVolumeClaim", name, namespace)
        if claim_object is not None and not claim_object["metadata"].get("deletionTimestamp"):
            pod = _user_of(cluster, namespace, name, claim_object)
            found.append(Volume(namespace, name, pod, _obstacle(cluster, namespace, pod, claim_object)))
    return found


def _hosts(volume: Object) -> set[str]:
    """The hostnames that a volume's node affinity allows; empty when it says nothing of the kind."""
    required = ((volume["spec"].get("nodeAffinity") or {}).get("required") or {}).get("nodeSelectorTerms") or []
    expressions = [e for term in required for e in term.get("matchExpressions") or []]
    named = [e for e in expressions if e["key"] == "kubernetes.io/hostname" and e["operator"] == "In"]
    return {host for e in named for host in e["values"]}


def _user_of(cluster: Cluster, namespace: str, claim: str, claim_object: Object) -> str:
    for pod in cluster.list("v1", "Pod", namespace):
        for volume in pod["spec"].get("volumes") or []:
            if (volume.get("persistentVolumeClaim") or {}).get("claimName") == claim:
                return str(pod["metadata"]["name"])
    instance = (claim_object["metadata"].get("labels") or {}).get("cnpg.io/instanceName")
    return str(instance or f"whoever uses {claim}")


def _obstacle(cluster: Cluster, namespace: str, pod: str, claim: Object) -> str:
    """Why the data cannot be had from others; empty when it can: a majority of the other members has it."""
    owner = (claim["metadata"].get("labels") or {}).get("cnpg.io/cluster")
    if owner:
        return _postgres_obstacle(cluster.get(_CNPG, "Cluster", owner, namespace), pod)
    live = cluster.get("v1", "Pod", pod, namespace)
    owners = [o for o in (live or {}).get("metadata", {}).get("ownerReferences") or [] if o["kind"] == "StatefulSet"]
    if not owners:
        return "nothing says that there is another copy of its data"
    workload = cluster.get("apps/v1", "StatefulSet", owners[0]["name"], namespace)
    if workload is None or (workload["metadata"].get("annotations") or {}).get(REPLICATED) != "replicated":
        return f"nothing says that the others of {owners[0]['name']} have its data"
    wanted, ready = (
        int(workload["spec"].get("replicas", 1)),
        int((workload.get("status") or {}).get("readyReplicas", 0)),
    )
    return "" if ready > wanted // 2 else f"only {ready} of {wanted} of {owners[0]['name']} are ready"


def _postgres_obstacle(owner: Object | None, instance: str) -> str:
    status = (owner or {}).get("status") or {}
    healthy = (status.get("instancesStatus") or {}).get("healthy") or []
    wanted, primary = int(((owner or {}).get("spec") or {}).get("instances", 1)), status.get("currentPrimary")
    if owner is None:
        return "its database cluster does not exist any more"
    if primary == instance or status.get("targetPrimary") == instance:
        return f"{instance} is the primary: wait until another instance has taken over"
    if primary not in healthy:
        return f"the primary {primary} is not healthy"
    others = len([name for name in healthy if name != instance])
    return "" if others > wanted // 2 else f"only {others} of {wanted} instances are healthy"


def _give_up(cluster: Cluster, volume: Volume) -> None:
    """The claim first: it goes when its pod does, and the pod must not come back with it."""
    cluster.delete("v1", "PersistentVolumeClaim", volume.claim, volume.namespace)
    cluster.delete("v1", "Pod", volume.pod, volume.namespace)


# --- the node -------------------------------------------------------------------------------------------------


def _node(cluster: Cluster, name: str) -> Object:
    node = cluster.get("v1", "Node", name)
    if node is None:
        known = sorted(entry["metadata"]["name"] for entry in cluster.list("v1", "Node"))
        raise NodeUnknown(node=name, known=", ".join(known))
    return node


def _change_taints(cluster: Cluster, name: str, *, present: bool) -> None:
    """The list has no merge key: read, change and write it, again when somebody else wrote in between."""
    for attempt in range(_TRIES):
        node = _node(cluster, name)
        others = [taint for taint in node["spec"].get("taints") or [] if taint.get("key") != OUT_OF_SERVICE]
        node["spec"]["taints"] = [*others, _TAINT] if present else others
        try:
            cluster.replace(node)
        except ClusterRefused as refusal:
            if refusal.status != 409 or attempt == _TRIES - 1:
                raise
        else:
            return


def _pods_of(cluster: Cluster, node: str) -> Iterable[Object]:
    """Its pods that must leave: not those of DaemonSets, and not those that ended."""
    for pod in cluster.list("v1", "Pod"):
        owners = {owner["kind"] for owner in pod["metadata"].get("ownerReferences") or []}
        ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        if pod["spec"].get("nodeName") == node and not ended and not owners & {"DaemonSet", "Node"}:
            yield pod


def _namespace(pod: Object) -> str:
    return str(pod["metadata"]["namespace"])


def _full_name(pod: Object) -> str:
    return f"{_namespace(pod)}/{pod['metadata']['name']}"

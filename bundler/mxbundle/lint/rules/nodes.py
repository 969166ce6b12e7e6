"""Whether the profile's nodes can take what is asked of them: spread, and anti-affinity that can be satisfied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mxbundle.lint.model import Hit, hit, rule
from mxbundle.lint.subject import Nodes, Subject
from mxbundle.lint.workloads import HOSTNAME, Workload, at, matches

ROLE_LABEL = "mxbundle.io/"


@rule(
    id="nodes.spread",
    title="Pods of one workload go to different nodes",
    protects="Replicas that share a node are lost together.",
    todo="topologySpreadConstraints or podAntiAffinity over kubernetes.io/hostname, with the workload's own labels.",
)
def spread(subject: Subject) -> Iterator[Hit]:
    """Soft or hard; the selector must match the pods that carry it."""
    for load in subject.workloads:
        written = load.operand is None or (load.operand.template is not None and load.operand.spread is None)
        if not written or not load.lasting or load.most < 2:
            continue
        pod = load.pod or {}
        terms = [*_hard_terms(pod), *_soft_terms(pod), *(pod.get("topologySpreadConstraints") or ())]
        over = [term for term in terms if term.get("topologyKey") == HOSTNAME]
        if not any(matches(term.get("labelSelector"), load.labels) for term in over):
            yield hit(load.item.entry, load.path, f"{load.most} pods, and nothing over {HOSTNAME} selects them")


@rule(
    id="nodes.anti-affinity",
    title="The profile has the nodes that hard anti-affinity asks for",
    protects="A pod that may share no node and finds no free one stays Pending, and so does an update.",
    todo="Fewer replicas, soft anti-affinity, maxSurge: 0, or more `nodes` in the profile.",
    needs=("stack",),
)
def anti_affinity(subject: Subject) -> Iterator[Hit]:
    """Pods of each workload, one more for a rolling update that may stop none, against nodes of its role."""
    if subject.nodes is None:
        return
    for load in subject.workloads:
        if not load.lasting or not _hard(load):
            continue
        nodes = _nodes_for(load, subject.nodes)
        wanted = load.most + load.surge
        if wanted > nodes:
            more = f" and {load.surge} more while it is updated" if load.surge else ""
            yield hit(load.item.entry, load.path, f"{load.most} pods{more}, each on a node of its own; {nodes} nodes")


@rule(
    id="nodes.declared",
    title="The profile says how many nodes it is made for",
    protects="Without a number nobody can say whether what must not share a node has enough of them.",
    todo="`nodes: {count: N}` at the top of the profile's file; roles where nodes serve only one.",
    needs=("stack",),
)
def declared(subject: Subject) -> Iterator[Hit]:
    """At the top level of the profile's file."""
    if subject.nodes is None:
        yield Hit(f"Profile/{subject.profile}", "nodes", "not given")


def _hard_terms(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return list(at(pod, "affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution") or ())


def _soft_terms(pod: dict[str, Any]) -> list[dict[str, Any]]:
    soft = at(pod, "affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution") or ()
    return [entry.get("podAffinityTerm") or {} for entry in soft]


def _hard(load: Workload) -> bool:
    """Whether no two of its pods may share a node."""
    if load.operand is not None and load.operand.spread is not None:
        return bool(at(load.item.entry, load.operand.spread.path) == load.operand.spread.hard)
    return any(
        term.get("topologyKey") == HOSTNAME and matches(term.get("labelSelector"), load.labels)
        for term in _hard_terms(load.pod or {})
    )


def _nodes_for(load: Workload, nodes: Nodes) -> int:
    selector = (load.pod or {}).get("nodeSelector") or at(load.item.entry, "spec.affinity.nodeSelector") or {}
    for key in selector:
        if str(key).startswith(ROLE_LABEL):
            return nodes.roles.get(str(key).removeprefix(ROLE_LABEL), 0)
    return nodes.ordinary

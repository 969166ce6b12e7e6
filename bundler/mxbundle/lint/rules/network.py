"""Network policies: a peer of another namespace is named with its namespace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mxbundle.lint.model import Hit, hit, rule
from mxbundle.lint.subject import Item, Subject
from mxbundle.lint.workloads import at, matches

NAMESPACE_LABEL = "kubernetes.io/metadata.name"


@rule(
    id="network.peer-namespace",
    title="A policy names the namespace of peers that are not in its own",
    protects="podSelector alone means the policy's own namespace: the edge that was meant is closed.",
    todo="Add a namespaceSelector on kubernetes.io/metadata.name beside the podSelector, in the same entry.",
)
def peer_namespace(subject: Subject) -> Iterator[Hit]:
    """Peers that match pods of another namespace and none of the policy's own."""
    for item, path, peer in _peers(subject):
        selector = peer.get("podSelector")
        if not selector or "namespaceSelector" in peer:
            continue
        there = {load.namespace for load in subject.workloads if matches(selector, load.labels)}
        if there and item.namespace not in there:
            seen = f"such pods are in {', '.join(sorted(there))}, not in {item.namespace}"
            yield hit(item.entry, path, seen)


@rule(
    id="network.peer-exists",
    title="Every peer of a policy is some pod",
    protects="An edge to pods that do not exist is closed, and the one that was meant is not open.",
    todo="Use the labels that the peer's pods have, and the namespace that they are in.",
    needs=("whole",),
)
def peer_exists(subject: Subject) -> Iterator[Hit]:
    """Peers with labels in namespaces that the stack makes; the cluster's DNS or a site's monitoring are not known."""
    assert subject.stack is not None
    ours = {namespace.name for namespace in subject.stack.namespaces}
    for item, path, peer in _peers(subject):
        selector = peer.get("podSelector")
        if not selector:
            continue
        named = at(peer.get("namespaceSelector") or {}, "matchLabels") or {}
        if "namespaceSelector" in peer and named.get(NAMESPACE_LABEL) not in ours:
            continue
        namespace = named.get(NAMESPACE_LABEL, item.namespace)
        if not any(load.namespace == namespace and matches(selector, load.labels) for load in subject.workloads):
            anywhere = any(matches(selector, load.labels) for load in subject.workloads)
            if not (anywhere and "namespaceSelector" not in peer):  # That is peer-namespace's finding.
                yield hit(item.entry, path, f"no pod of {namespace} is selected")


def _peers(subject: Subject) -> Iterator[tuple[Item, str, dict[str, Any]]]:
    for item in subject.of_kind("NetworkPolicy"):
        for direction, side in (("ingress", "from"), ("egress", "to")):
            for number, entry in enumerate(at(item.entry, f"spec.{direction}") or ()):
                for index, peer in enumerate((entry or {}).get(side) or ()):
                    if isinstance(peer, dict):
                        yield item, f"spec.{direction}[{number}].{side}[{index}]", peer

"""How many pods a Deployment of a published manifest has, and where: what a release overrides of it. Pure."""

from __future__ import annotations

import copy
from typing import Any

from sitebundle.podspecs import Object
from sitebundle.stack import Override

HOSTNAME = "kubernetes.io/hostname"
LOST = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
"""The taints of a node that no longer answers. A pod that says nothing of them stays bound to it for 300 s."""


def override_pods(deployment: Object, override: Override) -> None:
    """Change a Deployment in place. What the manifest says of other taints, and of other affinity, stays."""
    spec = deployment["spec"]
    pod = spec["template"]["spec"]
    if override.replicas is not None:
        spec["replicas"] = override.replicas
    if override.priority_class_name is not None:
        pod["priorityClassName"] = override.priority_class_name
    if override.node_loss_seconds is not None:
        others = [entry for entry in pod.get("tolerations") or () if entry.get("key") not in LOST]
        pod["tolerations"] = [*others, *(_tolerated(taint, override.node_loss_seconds) for taint in LOST)]
    if override.anti_affinity is not None:
        affinity = dict(pod.get("affinity") or {})
        pod["affinity"] = {**affinity, "podAntiAffinity": _apart(override.anti_affinity, spec["selector"])}
    if override.anti_affinity == "required" and int(spec.get("replicas", 1)) > 1:
        # One more pod than nodes apart from each other would never be placed.
        spec["strategy"] = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}


def budget_of(deployment: Object, override: Override) -> Object | None:
    """The disruption budget of a Deployment that the override gives several pods: a drain takes one after the other."""
    if override.replicas is None or override.replicas < 2:
        return None
    metadata = deployment["metadata"]
    kept = {key: copy.deepcopy(metadata[key]) for key in ("name", "namespace", "labels") if key in metadata}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": kept,
        "spec": {"maxUnavailable": 1, "selector": copy.deepcopy(deployment["spec"]["selector"])},
    }


def _tolerated(taint: str, seconds: int) -> Object:
    return {"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}


def _apart(how: str, selector: Any) -> Object:
    term = {"topologyKey": HOSTNAME, "labelSelector": copy.deepcopy(selector)}
    if how == "required":
        return {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    return {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}

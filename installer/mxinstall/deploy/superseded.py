"""Keeps ConfigMaps whose place newer ones took while pods need them, and removes them then.

A pod that is held back, or was not replaced yet, finds what it had before; so only what no pod mounts goes, until the
release itself does. Charts name theirs after their content and tell helm to keep them; those of a chart that does not
are kept through the upgrade that drops them.
"""

from __future__ import annotations

from collections.abc import Iterable

from mxinstall.cluster import Cluster, Object
from mxinstall.deploy.inventory import Deployed

NAMED_BY_CONTENT = "mxbundle.io/named-by-content"
"""On a ConfigMap, `true`: its name changes with its content, and it has `helm.sh/resource-policy: keep`."""

_INSTANCE = "app.kubernetes.io/instance"
_RUN_PODS = ("StatefulSet", "Deployment", "DaemonSet")


def keep_dropped(
    cluster: Cluster, release: str, namespace: str, known: Iterable[Deployed], wanted: Iterable[Object]
) -> list[str]:
    """Have helm leave what it would delete although pods of before mount it; returns the names of those ConfigMaps.

    `known` are the release's objects on record, `wanted` those that it is to have. At an upgrade's end helm deletes
    what is rendered no more, but not what has the annotation on the cluster (helm, pkg/kube/client.go). From
    then on these are for `remove_superseded`, as those named after their content are.
    """
    before, stays = list(known), {obj["metadata"]["name"] for obj in wanted if obj["kind"] == "ConfigMap"}
    dropped = [e.name for e in before if (e.kind, e.namespace) == ("ConfigMap", namespace) and e.name not in stays]
    if not dropped:
        return []
    # The workloads too: a pod that is just being replaced is in no list.
    running = [cluster.get(e.api_version, e.kind, e.name, e.namespace) for e in before if e.kind in _RUN_PODS]
    templates = [live["spec"]["template"] for live in running if live]
    in_use = mounted([*templates, *cluster.list("v1", "Pod", namespace)])
    mark = {
        "annotations": {"helm.sh/resource-policy": "keep"},
        "labels": {NAMED_BY_CONTENT: "true", _INSTANCE: release},
    }
    kept = [name for name in dropped if name in in_use and cluster.get("v1", "ConfigMap", name, namespace)]
    for name in kept:
        cluster.patch("v1", "ConfigMap", name, {"metadata": mark}, namespace)
    return kept


def remove_superseded(cluster: Cluster, release: str, namespace: str, wanted: Iterable[Object] = ()) -> list[str]:
    """Delete those of a release that are neither among `wanted` nor mounted by a pod; returns their names."""
    stays = {obj["metadata"]["name"] for obj in wanted if obj["kind"] == "ConfigMap"}
    old = [name for name in _named_by_content(cluster, release, namespace) if name not in stays]
    if old:
        in_use = mounted(cluster.list("v1", "Pod", namespace))
        old = [name for name in old if name not in in_use]
    for name in old:
        cluster.delete("v1", "ConfigMap", name, namespace)
    return old


def remove_all(cluster: Cluster, release: str, namespace: str) -> list[str]:
    """Delete those of a release that goes; returns their names. Its last pods still end and are asked nothing: none
    of them comes again, and nobody would look for what was left here.
    """
    names = _named_by_content(cluster, release, namespace)
    for name in names:
        cluster.delete("v1", "ConfigMap", name, namespace)
    return names


def mounted(pods: Iterable[Object]) -> set[str]:
    """The ConfigMaps that pods mount, in volumes of their own or projected ones."""
    return {
        str(source["configMap"]["name"])
        for pod in pods
        for volume in pod["spec"].get("volumes") or ()
        for source in (volume, *((volume.get("projected") or {}).get("sources") or ()))
        if "configMap" in source
    }


def _named_by_content(cluster: Cluster, release: str, namespace: str) -> list[str]:
    labels = f"{NAMED_BY_CONTENT}=true,{_INSTANCE}={release}"
    return [str(entry["metadata"]["name"]) for entry in cluster.list("v1", "ConfigMap", namespace, labels=labels)]

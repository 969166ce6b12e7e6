"""Removes ConfigMaps whose place newer ones took: their names stand for their content, and helm keeps them.

A pod that is held back, or was not replaced yet, finds what it had before; so only what no pod mounts goes, until the
release itself does.
"""

from __future__ import annotations

from collections.abc import Iterable

from mxinstall.cluster import Cluster, Object

NAMED_BY_CONTENT = "mxbundle.io/named-by-content"
"""On a ConfigMap, `true`: its name changes with its content, and it has `helm.sh/resource-policy: keep`."""


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
    labels = f"{NAMED_BY_CONTENT}=true,app.kubernetes.io/instance={release}"
    return [str(entry["metadata"]["name"]) for entry in cluster.list("v1", "ConfigMap", namespace, labels=labels)]

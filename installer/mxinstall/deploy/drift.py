"""Whether the cluster still has what was rendered: a server-side dry run, compared with what is there. Reads only."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mxinstall.cluster import Cluster, Object
from sitebundle.errors import ClusterRefused

_MANAGER = "mxinstall-drift"
"""A field manager that only ever does dry runs: it owns nothing, so nothing is pruned in the answer."""
_SERVERS_OWN = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink")
_AT_ONCE = 4


def differs(cluster: Cluster, obj: Object) -> bool:
    """Whether applying `obj` would change (or make) something."""
    metadata = obj["metadata"]
    live = cluster.get(obj["apiVersion"], obj["kind"], metadata["name"], metadata.get("namespace"))
    if live is None or live["metadata"].get("deletionTimestamp"):
        return True
    try:
        would_be = cluster.apply(obj, manager=_MANAGER, dry_run=True)
    except ClusterRefused:
        # A change of an immutable field, or a webhook that is away: only a real apply can say more.
        return True
    return _content(would_be) != _content(live)


def drifted(cluster: Cluster, objects: Iterable[Object]) -> list[Object]:
    """Those of `objects` that the server has otherwise, or not at all."""
    listed = list(objects)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        verdicts = list(pool.map(lambda obj: differs(cluster, obj), listed))
    return [obj for obj, verdict in zip(listed, verdicts, strict=True) if verdict]


def is_hook(obj: Object) -> bool:
    """Whether helm runs it at a moment instead of keeping it."""
    return "helm.sh/hook" in (obj["metadata"].get("annotations") or {})


def _content(obj: Object) -> dict[str, Any]:
    content = {key: value for key, value in obj.items() if key != "status"}
    content["metadata"] = {key: value for key, value in obj["metadata"].items() if key not in _SERVERS_OWN}
    return content

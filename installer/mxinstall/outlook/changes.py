"""What becomes of each object of a release: asked of the API server by dry runs, as whoever will really apply it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mxinstall.cluster import Cluster, Object
from mxinstall.deploy.drift import is_hook
from mxinstall.deploy.inventory import Deployed, ReleaseRecord, deployed
from mxinstall.deploy.releases import KEPT_KINDS, PlannedRelease
from mxinstall.deploy.rollout import HELM_MANAGER
from mxinstall.outlook.differences import differences
from mxinstall.outlook.model import FieldChange, ObjectChange, Restart
from mxinstall.outlook.restarts import restart_of, stopped
from sitebundle.errors import ClusterRefused
from sitebundle.stack import Release

_MANIFEST_MANAGER = "mxinstall"
_AT_ONCE = 4


@dataclass(frozen=True)
class Seen:
    """One object's change, and what it does to pods."""

    change: ObjectChange
    restart: Restart | None = None


def of_release(cluster: Cluster, planned: PlannedRelease, record: ReleaseRecord | None) -> list[Seen]:
    """Every object that is made, changed or taken away; an unchanged release has none. Reads only."""
    if planned.change == "unchanged":
        return []
    manager, objects = _MANIFEST_MANAGER, planned.objects
    if planned.chart is not None:
        manager, objects = HELM_MANAGER, tuple(_as_helm(obj, planned.release) for obj in planned.objects)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="outlook") as pool:
        found = list(pool.map(lambda obj: _of_object(cluster, obj, manager), objects))
    kept = [deployed(obj).identity for obj in planned.objects]
    gone = [entry for entry in (record.objects if record else ()) if entry.identity not in kept]
    return [seen for seen in found if seen is not None] + _leaving(cluster, gone)


def of_removed(cluster: Cluster, record: ReleaseRecord) -> list[Seen]:
    """Every object of a release that the stack has no more."""
    return _leaving(cluster, record.objects)


def _as_helm(obj: Object, release: Release) -> Object:
    """With the marks that helm puts on what it applies: without them they would seem to go."""
    metadata = obj["metadata"]
    owner = {"meta.helm.sh/release-name": release.name, "meta.helm.sh/release-namespace": release.namespace}
    labels = {**(metadata.get("labels") or {}), "app.kubernetes.io/managed-by": "Helm"}
    annotations = {**(metadata.get("annotations") or {}), **owner}
    return {**obj, "metadata": {**metadata, "labels": labels, "annotations": annotations}}


def _of_object(cluster: Cluster, obj: Object, manager: str) -> Seen | None:
    entry = deployed(obj)
    if is_hook(obj):
        return Seen(ObjectChange(entry, "run", note="a hook of helm's"))
    metadata = obj["metadata"]
    live = cluster.get(obj["apiVersion"], obj["kind"], metadata["name"], metadata.get("namespace"))
    if live is None:
        return Seen(ObjectChange(entry, "create"))
    try:
        after = cluster.apply(obj, manager=manager, dry_run=True)
    except ClusterRefused as refusal:
        # What it says by field is told all the same, by what is rendered and what of that is there.
        return Seen(ObjectChange(entry, "replace", tuple(_wanted(live, obj)), refusal.message))
    fields = tuple(differences(live, after))
    if not fields:
        return None
    return Seen(ObjectChange(entry, "change", fields), restart_of(live, after))


def _wanted(live: Object, obj: Object) -> Iterable[FieldChange]:
    """What `obj` asks for otherwise than the server has it; what only the server knows is no difference."""
    return [change for change in differences(live, obj) if change.after is not None]


def _leaving(cluster: Cluster, entries: Sequence[Deployed]) -> list[Seen]:
    found = []
    for entry in entries:
        live = cluster.get(entry.api_version, entry.kind, entry.name, entry.namespace or None)
        if live is None:
            continue
        if entry.kind in KEPT_KINDS:
            found.append(Seen(ObjectChange(entry, "keep", note="it stays at the site, the release lets go of it")))
        else:
            found.append(Seen(ObjectChange(entry, "delete"), stopped(live)))
    return found


def by_operators(seen: Iterable[Seen], clusters: Iterable[Object]) -> list[Restart]:
    """PostgreSQL instances that a new version of their operator replaces: its manager runs inside of them."""
    operators = (
        entry.change
        for entry in seen
        if entry.change.object.kind == "Deployment" and "cnpg" in entry.change.object.name
    )
    if not any(field.path.endswith("image") for change in operators for field in change.fields):
        return []
    how = "one after the other, the primary last (writes pause for seconds): the operator's new version"
    return [Restart(str(deployed(obj)), int(obj["spec"].get("instances", 1)), how) for obj in clusters]

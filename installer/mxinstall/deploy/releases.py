"""Puts releases on the cluster in levels, each one idempotent: chart by helm, published manifests by server-side apply.

Not here: what is rendered (the plan), what ready means (`ready`), who may act (`fencing`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mxinstall.cluster import Cluster, Object
from mxinstall.deploy.checks import checks, run_checks
from mxinstall.deploy.crds import KIND as CRD
from mxinstall.deploy.drift import is_hook
from mxinstall.deploy.inventory import UNFINISHED, Deployed, ReleaseRecord, deployed, forget_record, write_record
from mxinstall.deploy.journal import Journal
from mxinstall.deploy.ready import Expected, wait_ready
from mxinstall.deploy.rollout import Choreography, Rollout, refuse
from mxinstall.deploy.superseded import keep_dropped, remove_all, remove_superseded
from mxinstall.helm_release import HelmReleases, recover, still_ours
from sitebundle.errors import ClusterRefused, ReleaseFailed, ReleaseNotReady
from sitebundle.events import Note, Sink, Step
from sitebundle.stack import Namespace, Release

Change = Literal["new", "changed", "drifted", "unchanged"]
STAGE = "deploy"

NAMESPACE_MANAGER = "mxinstall-namespaces"
"""A manager of its own, since a published manifest may hold the same Namespace with other labels."""

STACK_LABEL = "mxbundle.io/stack"
"""The label of every namespace that the stack brought."""

_GONE_SECONDS = 30.0

KEPT_KINDS = (CRD, "Namespace", "PersistentVolumeClaim")
"""What stays at the site when a release lets go of it."""
_FIRST = (
    *("Namespace", "PriorityClass", "StorageClass", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role"),
    *("RoleBinding", "Secret", "ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "Service"),
)
_LAST = ("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration", "APIService")


@dataclass(frozen=True)
class PlannedRelease:
    """One release as it is to be: its objects, the hash over them, and how that differs from what is there.

    `chart` is the packed chart for helm, None for a published manifest. `references`: every image that it names.
    `rollout`: what the change does to the processes that run.
    """

    release: Release
    change: Change
    objects: tuple[Object, ...]
    rendered_hash: str
    values: Mapping[str, Any]
    chart: Path | None
    references: tuple[str, ...]
    drift: tuple[str, ...] = ()
    rollout: Rollout = field(default_factory=Rollout)

    @property
    def name(self) -> str:
        """The release's name."""
        return self.release.name


@dataclass(frozen=True)
class Deployment:
    """What a deployment works with. `helm` acts with the same token as `cluster`."""

    cluster: Cluster
    helm: HelmReleases
    journal: Journal
    generation: int
    inventory: Mapping[str, ReleaseRecord]
    sink: Sink


def ensure_namespaces(cluster: Cluster, namespaces: Sequence[Namespace]) -> None:
    """The stack's namespaces with the PodSecurity level that each enforces."""
    for namespace in namespaces:
        cluster.apply(namespace_object(namespace), manager=NAMESPACE_MANAGER)


def namespace_object(namespace: Namespace) -> Object:
    """A namespace as the stack wants it."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": namespace.name,
            "labels": {STACK_LABEL: "true", "pod-security.kubernetes.io/enforce": namespace.pod_security},
        },
    }


def deploy_levels(deployment: Deployment, levels: Sequence[Sequence[PlannedRelease]]) -> list[str]:
    """Deploy level after level, the releases of a level at once; returns the names of those that were changed.

    What can be refused is refused before the first one is touched. A failed release lets the others of its level end
    and stops the rest. Raises NodeLost, ReleaseFailed, ReleaseNotReady, FencedOff, JournalUnwritable.
    """
    rendered = {planned.name: planned.objects for level in levels for planned in level}
    _refuse_early(deployment, [planned for level in levels for planned in level], rendered)
    changed = []
    for level in levels:
        with ThreadPoolExecutor(max_workers=max(1, len(level)), thread_name_prefix="release") as pool:
            running = [pool.submit(_deploy, deployment, planned, rendered) for planned in level]
            try:
                wait(running)
            except BaseException:
                # The operator's SIGINT: helm and the waiting end now, not after their timeouts.
                deployment.helm.stop.set()
                raise
        # All have ended; the first failure in order of name is told.
        changed += [planned.name for planned, future in zip(level, running, strict=True) if future.result()]
    return changed


def remove_release(
    cluster: Cluster, helm: HelmReleases, record: ReleaseRecord, timeout_seconds: int, keep: Sequence[str] = ()
) -> None:
    """Take a release off the cluster and out of the inventory. CRDs, claims and namespaces stay, and kinds in `keep`.

    Raises ReleaseFailed.
    """
    deleted = [entry for entry in reversed(record.objects) if entry.kind not in (*KEPT_KINDS, *keep)]
    if record.is_chart:
        recover(cluster, record.release, record.namespace)
        # Helm would delete them in the foreground, and an operator that does not know that makes a Pooler's pods again
        # as long as the Pooler is there, which is as long as it has pods.
        for entry in filter(_is_custom, deleted):
            cluster.delete(entry.api_version, entry.kind, entry.name, entry.namespace or None)
        _fenced(cluster, lambda: helm.uninstall(record.release, record.namespace, timeout_seconds))
    for entry in deleted:
        cluster.delete(entry.api_version, entry.kind, entry.name, entry.namespace or None)
    _await_gone(cluster, deleted)
    remove_all(cluster, record.release, record.namespace)
    forget_record(cluster, record.release)


def _is_custom(entry: Deployed) -> bool:
    """Whether it is a custom resource, whose parts an operator makes."""
    group = entry.api_version.rpartition("/")[0]
    return "." in group and not group.endswith(".k8s.io")


def _await_gone(cluster: Cluster, entries: Sequence[Deployed]) -> None:
    """Finalizers are for controllers of releases that go after this one: they get some time before they go too."""
    deadline = time.monotonic() + _GONE_SECONDS
    while time.monotonic() < deadline:
        if not any(cluster.get(e.api_version, e.kind, e.name, e.namespace or None) for e in entries):
            return
        time.sleep(0.5)


def in_order(objects: Sequence[Object]) -> list[Object]:
    """Objects in the order in which they can be applied: what others refer to first, webhooks last."""

    def place(obj: Object) -> tuple[int, int]:
        kind = obj["kind"]
        if kind in _FIRST:
            return (0, _FIRST.index(kind))
        return (2, _LAST.index(kind)) if kind in _LAST else (1, 0)

    return sorted(objects, key=place)


def _refuse_early(
    deployment: Deployment, releases: Sequence[PlannedRelease], rendered: Mapping[str, Sequence[Object]]
) -> None:
    """Ask of every release that runs already what needs nothing new: lost nodes first, for a check may wait on one."""
    upgraded = [
        planned
        for planned in releases
        if planned.chart is not None and planned.change != "unchanged" and planned.name in deployment.inventory
    ]
    for planned in upgraded:
        if planned.rollout.stops:
            refuse(deployment.cluster, Expected(planned.release, planned.objects, rendered), planned.rollout)
    for planned in upgraded:
        if checks(planned.objects):
            began = time.monotonic()
            with deployment.journal.step(f"check/{planned.name}"):
                run_checks(deployment.cluster, planned.release, planned.objects, deployment.helm.stop)
            deployment.sink(Step(STAGE, f"{planned.name} check", "ok", "", time.monotonic() - began))


def _deploy(deployment: Deployment, planned: PlannedRelease, rendered: Mapping[str, Sequence[Object]]) -> bool:
    began = time.monotonic()
    expected = Expected(planned.release, planned.objects, rendered)
    if planned.change == "unchanged":
        wait_ready(deployment.cluster, expected, deployment.sink, fresh=False, stop=deployment.helm.stop)
        deployment.sink(Step(STAGE, planned.name, "unchanged", "", time.monotonic() - began))
        return False
    known = deployment.inventory.get(planned.name)
    with deployment.journal.step(f"release/{planned.name}") as entry, _way_back(planned.release, known):
        write_record(deployment.cluster, _begun(deployment, planned, known))
        with _in_order(deployment, planned, expected, known):
            uids = _by_helm(deployment, planned, known) if planned.chart else _by_apply(deployment, planned, known)
            write_record(deployment.cluster, _record(deployment, planned, planned.rendered_hash, uids))
        wait_ready(deployment.cluster, expected, deployment.sink, fresh=True, stop=deployment.helm.stop)
        remove_superseded(deployment.cluster, planned.name, planned.release.namespace, planned.objects)
        entry.outcome = planned.change
    deployment.sink(Step(STAGE, planned.name, "ok", planned.change, time.monotonic() - began))
    return True


def _in_order(
    deployment: Deployment, planned: PlannedRelease, expected: Expected, known: ReleaseRecord | None
) -> contextlib.AbstractContextManager[None]:
    """Around the apply of a chart whose processes take a change in an order of their own."""
    if planned.chart is None:
        return contextlib.nullcontext()
    stop = deployment.helm.stop
    return Choreography(deployment.cluster, expected, known, deployment.journal, deployment.sink, stop).around_apply()


@contextlib.contextmanager
def _way_back(release: Release, known: ReleaseRecord | None) -> Iterator[None]:
    """Whoever stands before a failed upgrade must know at once whether the state of before could come back."""
    try:
        yield
    except (ReleaseFailed, ReleaseNotReady) as fault:
        told = after_failure(release.rollback) if known else ""
        raise type(fault)(**{**fault.fields, "detail": f"{fault.fields['detail']}{told}"}) from fault


def after_failure(rollback: str) -> str:
    """What a release's `rollback` means for a failed upgrade, as the end of a sentence. Nothing is ever taken back."""
    if rollback == "never":
        return " (forward only: this release is never rolled back)"
    if rollback.startswith("until "):
        step = rollback.removeprefix("until ")
        return f" (forward only, unless {step} has not come about yet: this release cannot be rolled back past it)"
    return " (nothing was rolled back)"


def _by_helm(deployment: Deployment, planned: PlannedRelease, known: ReleaseRecord | None) -> tuple[Deployed, ...]:
    release, cluster = planned.release, deployment.cluster
    assert planned.chart is not None
    chart = planned.chart
    for revision in recover(cluster, release.name, release.namespace):
        text = f"{release.name}: an earlier run was ended in revision {revision.number} ({revision.status}); going on"
        deployment.sink(Note("info", text))
    keep_dropped(cluster, release.name, release.namespace, known.objects if known else (), planned.objects)
    _fenced(
        cluster,
        lambda: deployment.helm.upgrade(
            release.name, release.namespace, chart, planned.values, release.timeout_seconds
        ),
    )
    return tuple(_with_uid(cluster, obj) for obj in planned.objects if not is_hook(obj))


def _by_apply(deployment: Deployment, planned: PlannedRelease, known: ReleaseRecord | None) -> tuple[Deployed, ...]:
    cluster = deployment.cluster
    applied = []
    for obj in in_order(planned.objects):
        try:
            live = cluster.apply(obj)
        except ClusterRefused as refusal:
            detail = f"{deployed(obj)}: {refusal.fields['detail']}"
            raise ReleaseFailed(release=planned.name, detail=detail) from refusal
        applied.append(deployed(obj, live["metadata"]["uid"]))
    wanted = {entry.identity for entry in applied}
    for entry in known.objects if known else ():
        if entry.identity not in wanted and entry.kind not in KEPT_KINDS:
            cluster.delete(entry.api_version, entry.kind, entry.name, entry.namespace or None)
    return tuple(applied)


def _begun(deployment: Deployment, planned: PlannedRelease, known: ReleaseRecord | None) -> ReleaseRecord:
    """What is on record while the apply runs: before and after together, so that pruning never loses anything."""
    coming = tuple(deployed(obj) for obj in planned.objects if not is_hook(obj))
    named = {entry.identity for entry in coming}
    before = tuple(entry for entry in (known.objects if known else ()) if entry.identity not in named)
    record = _record(deployment, planned, UNFINISHED, (*coming, *before))
    references = {*record.references, *(known.references if known else ())}
    return replace(record, references=tuple(sorted(references)))


def _record(
    deployment: Deployment, planned: PlannedRelease, rendered_hash: str, objects: tuple[Deployed, ...]
) -> ReleaseRecord:
    return ReleaseRecord(
        release=planned.name,
        namespace=planned.release.namespace,
        source="chart" if planned.chart else "manifest",
        generation=deployment.generation,
        rendered_hash=rendered_hash,
        objects=objects,
        references=planned.references,
    )


def _with_uid(cluster: Cluster, obj: Object) -> Deployed:
    metadata = obj["metadata"]
    live = cluster.get(obj["apiVersion"], obj["kind"], metadata["name"], metadata.get("namespace"))
    return deployed(obj, live["metadata"]["uid"] if live else "")


def _fenced(cluster: Cluster, act: Any) -> None:
    """Helm does not tell a 401 from other failures: ask the API server who we are before its word is passed on."""
    try:
        act()
    except ReleaseFailed:
        still_ours(cluster)
        raise

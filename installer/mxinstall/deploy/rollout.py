"""In which order a release's processes take a change: wave after wave, or all stopped before any starts again.

The charts ask for it by annotations on their workloads (docs/decisions/messaging-core.md). What is held back or stopped
is marked on the object itself and counts as drift, so that the next run finishes what a killed one began.
Not here: applying the release (`releases`), what its readiness means (`ready`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Event

from mxinstall.cluster import Cluster, Object
from mxinstall.deploy.drift import is_hook
from mxinstall.deploy.inventory import ReleaseRecord, deployed
from mxinstall.deploy.journal import Journal
from mxinstall.deploy.nodes import lost_nodes
from mxinstall.deploy.ready import Expected, Patience, troubled_pods, workload_obstacle
from sitebundle.errors import (
    ClusterRefused,
    ClusterUnreachable,
    FencedOff,
    MxError,
    NodeLost,
    ProcessesDoNotStop,
    ReleaseFailed,
    ReleaseNotReady,
)
from sitebundle.events import Note, Sink, Step

WAVE = "mxbundle.io/wave"
"""On a workload: in which wave it takes a change; the lower ones are ready before a higher one begins."""
STOP_TOGETHER = "mxbundle.io/stop-together"
"""On a StatefulSet: a hash of the set of processes that all of them must agree on."""
HELD = "mxbundle.io/held"
"""On a workload, by us: it waits for the waves before its own."""
STOPPED = "mxbundle.io/stopped"
"""On a StatefulSet, by us: how many replicas it had when it was stopped."""

HELM_MANAGER = "helm"
"""The field manager that helm applies with: its binary's name."""
_MANAGER = "mxinstall-rollout"
_REPLICAS_MANAGER = "mxinstall-replicas"
_APPS = "apps/v1"
_KINDS = ("StatefulSet", "Deployment")
_PAST_EVERY_POD = 1_000_000
_POLL_SECONDS = 1.0
_STOP_MARGIN_SECONDS = 60.0
_START_AGAIN_SECONDS = 120.0
STAGE = "deploy"


@dataclass(frozen=True)
class Rollout:
    """What a change does to running processes. `waves`: the workloads whose pods are replaced, by wave.

    `stops`: the StatefulSets that are stopped before the change. Both are empty when nothing that runs is touched.
    """

    waves: tuple[tuple[int, tuple[str, ...]], ...] = ()
    stops: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.stops:
            return f"stops all processes ({len(self.stops)} StatefulSets), then starts"
        if len(self.waves) > 1:
            return f"rolls in waves: {'; '.join(f'{wave}: {_listed(names)}' for wave, names in self.waves)}"
        return f"replaces pods of {_listed(self.waves[0][1])}" if self.waves else ""

    def as_json(self) -> dict[str, object]:
        """The rollout as plain values."""
        return {"waves": {str(wave): list(names) for wave, names in self.waves}, "stops": list(self.stops)}


def rollout_of(
    cluster: Cluster, objects: Sequence[Object], known: ReleaseRecord | None, manager: str = HELM_MANAGER
) -> Rollout:
    """What applying `objects` as `manager` would do to the processes that run. Reads only."""
    waves: dict[int, list[str]] = {}
    differs = False
    for obj in _workloads(objects):
        live = _live(cluster, obj)
        if live is None:
            continue
        wanted = _annotation(obj, STOP_TOGETHER)
        differs = differs or (wanted is not None and wanted != _annotation(live, STOP_TOGETHER))
        wave = _wave(obj)
        if wave is not None and _replaces_pods(cluster, obj, live, manager):
            waves.setdefault(wave, []).append(obj["metadata"]["name"])
    stops = [live["metadata"]["name"] for live in _bound_together(cluster, objects, known)] if differs else []
    return Rollout(tuple((wave, tuple(sorted(names))) for wave, names in sorted(waves.items())), tuple(sorted(stops)))


def unfinished(cluster: Cluster, objects: Sequence[Object]) -> list[str]:
    """Of rendered `objects`, those that an earlier run held back or stopped and did not let go. Reads only."""
    ordered = [obj for obj in _workloads(objects) if _wave(obj) is not None or _annotation(obj, STOP_TOGETHER)]
    return left_behind(live for obj in ordered if (live := _live(cluster, obj)))


def left_behind(workloads: Iterable[Object]) -> list[str]:
    """Those live workloads that are held back or were stopped, each as `Kind/namespace/name (what)`."""
    marked = [live for live in workloads if _marked(live)]
    return [f"{deployed(live)} ({'held back' if _annotation(live, HELD) else 'stopped'})" for live in marked]


def refuse(cluster: Cluster, expected: Expected, rollout: Rollout) -> None:
    """Raise what speaks against stopping a release's processes, and nothing otherwise. Reads only.

    NodeLost: one process could not be stopped, so that stopping the others would only make an outage. ReleaseFailed: a
    field that cannot be changed would be refused only when everything has stopped already.
    """
    release = expected.release
    sets = [cluster.get(_APPS, "StatefulSet", name, release.namespace) for name in rollout.stops]
    pods = pods_of(cluster, release.namespace, {live["metadata"]["uid"] for live in sets if live})
    for lost in lost_nodes(cluster):
        there = [_name(pod) for pod in pods if pod["spec"].get("nodeName") == lost.name]
        if there:
            raise NodeLost(release=release.name, node=lost.name, pods=", ".join(there))
    for obj in expected.objects:
        if is_hook(obj):
            continue
        try:
            cluster.apply(obj, manager=HELM_MANAGER, dry_run=True)
        except ClusterRefused as refusal:
            detail = f"nothing was stopped: {deployed(obj)}: {refusal.fields['detail']}"
            raise ReleaseFailed(release=release.name, detail=detail) from refusal


def pods_of(cluster: Cluster, namespace: str, owners: set[str]) -> list[Object]:
    """The pods of a namespace whose owner's uid is among `owners`."""
    return [
        pod
        for pod in cluster.list("v1", "Pod", namespace)
        if any(owner["uid"] in owners for owner in pod["metadata"].get("ownerReferences") or [])
    ]


@dataclass(frozen=True)
class Choreography:
    """One release on its way. `expected` is what there is to wait for, `known` what was on record before."""

    cluster: Cluster
    expected: Expected
    known: ReleaseRecord | None
    journal: Journal
    sink: Sink
    stop: Event

    @contextlib.contextmanager
    def around_apply(self) -> Iterator[None]:
        """Hold back or stop what must wait, let the block apply the release, then let go in order.

        Raises NodeLost, and ReleaseFailed for what the server refuses, before anything is stopped; then
        ProcessesDoNotStop, ReleaseNotReady. When nothing of the new set of processes was applied, what was stopped is
        started again as it was.
        """
        cluster, objects = self.cluster, self.expected.objects
        rollout = rollout_of(cluster, objects, self.known)
        stopped = self._stopped_so_far(rollout)
        if rollout.stops:
            # Again: since all releases were asked, others have changed, and time has passed.
            refuse(cluster, self.expected, rollout)
        try:
            if rollout.stops:
                self._stop(rollout.stops)
            self._keep_replicas()
            self._hold(rollout)
            yield
        except FencedOff:
            raise
        except MxError:
            if rollout.stops:
                self._start_again(stopped)
            raise
        self._let_go()

    # --- holding back -----------------------------------------------------------------------------------------

    def _hold(self, rollout: Rollout) -> None:
        """Waves after the first one that something happens in. What was stopped starts at once, in the new form."""
        first = min((wave for wave, _ in rollout.waves), default=0)
        rolling = {name for _, names in rollout.waves for name in names} - set(rollout.stops)
        for obj in _workloads(self.expected.objects):
            wave, live = _wave(obj), _live(self.cluster, obj)
            if wave is None or live is None or obj["metadata"]["name"] not in rolling:
                continue
            if wave > first or rollout.stops:
                self.cluster.apply(_holding(obj, wave), manager=_MANAGER)

    def _let_go(self) -> None:
        """Wave after wave, each awaited while a later one still waits."""
        waves: dict[int, list[Object]] = {}
        for obj in _workloads(self.expected.objects):
            waves.setdefault(_wave(obj) or 0, []).append(obj)
        waiting = {wave for wave, objs in waves.items() if any(self._is_marked(obj) for obj in objs)}
        for wave in sorted(waves):
            freed = [obj["metadata"]["name"] for obj in waves[wave] if self._free(obj)]
            waiting.discard(wave)
            if freed or waiting:
                began = time.monotonic()
                with self.journal.step(f"wave/{self.expected.release.name}/{wave}"):
                    if waiting:
                        self._await_wave(wave, waves[wave], waiting)
                name = f"{self.expected.release.name} wave {wave}"
                self.sink(Step(STAGE, name, "ok", _listed(freed), time.monotonic() - began))

    def _is_marked(self, obj: Object) -> bool:
        live = _live(self.cluster, obj)
        return live is not None and _marked(live)

    def _free(self, obj: Object) -> bool:
        """Take our fields off again; what was stopped and has nobody who says how many gets as many as it had."""
        live = _live(self.cluster, obj)
        if live is None or not _marked(live):
            return False
        before = _annotation(live, STOPPED)
        if before is not None and not live["spec"].get("replicas") and obj["spec"].get("replicas") is None:
            _scale(self.cluster, obj, int(before) or self._least(obj))
        self.cluster.apply(_bare(obj), manager=_MANAGER)
        return before is None

    def _least(self, obj: Object) -> int:
        """What its autoscaler keeps at least: somebody may have scaled it to 0 by hand, where no autoscaler acts."""
        for other in self.expected.objects:
            if other["kind"] == "HorizontalPodAutoscaler":
                target = other["spec"]["scaleTargetRef"]
                if (target["kind"], target["name"]) == (obj["kind"], obj["metadata"]["name"]):
                    return int(other["spec"].get("minReplicas") or 1)
        return 1

    def _await_wave(self, wave: int, objects: Sequence[Object], later: Iterable[int]) -> None:
        release = self.expected.release
        patience = Patience(self.cluster, release.timeout_seconds, objects)
        while obstacles := _passing(lambda: self._obstacles(objects)):
            if self.stop.is_set() or patience.ended():
                waited = patience.waited_seconds()
                pods = _passing(lambda: troubled_pods(self.cluster, self.expected))
                awaited = _passing(lambda: self._awaited(objects))
                held = f"held back until then: wave {', '.join(map(str, sorted(later)))}"
                detail = "; ".join([f"wave {wave}: {obstacles[0]}", *obstacles[1:], *awaited, *pods, held])
                raise ReleaseNotReady(release=release.name, seconds=round(waited), detail=detail)
            self.stop.wait(_POLL_SECONDS)

    def _obstacles(self, objects: Sequence[Object]) -> list[str]:
        found = []
        for obj in objects:
            live = _live(self.cluster, obj)
            found.append(workload_obstacle(live, "all") if live else f"{deployed(obj)} does not exist")
        return [obstacle for obstacle in found if obstacle]

    def _awaited(self, objects: Sequence[Object]) -> list[str]:
        """The pods of StatefulSets that still are what they were, for their turn has not come."""
        old = []
        for live in filter(None, (_live(self.cluster, obj) for obj in objects if obj["kind"] == "StatefulSet")):
            newest = (live.get("status") or {}).get("updateRevision")
            for pod in pods_of(self.cluster, self.expected.release.namespace, {live["metadata"]["uid"]}):
                if newest and (pod["metadata"].get("labels") or {}).get("controller-revision-hash") != newest:
                    old.append(pod["metadata"]["name"])
        return [f"not replaced yet: {', '.join(sorted(old))}"] if old else []

    # --- stopping together ------------------------------------------------------------------------------------

    def _stopped_so_far(self, rollout: Rollout) -> dict[str, int]:
        """How many replicas each StatefulSet that is to be stopped has, or had before an earlier run stopped it."""
        found = {}
        for name in rollout.stops:
            live = self.cluster.get(_APPS, "StatefulSet", name, self.expected.release.namespace)
            if live is not None:
                found[name] = _replicas_before(live)
        return found

    def _stop(self, names: Sequence[str]) -> None:
        release = self.expected.release
        sets = [self.cluster.get(_APPS, "StatefulSet", name, release.namespace) for name in names]
        owners = {live["metadata"]["uid"] for live in sets if live}
        began = time.monotonic()
        text = f"{release.name}: the set of named processes changes; all {len(names)} StatefulSets stop, then start"
        self.sink(Note("info", text))
        with self.journal.step(f"stop/{release.name}"):
            for live in filter(None, sets):
                change = _bare(live)
                change["metadata"]["annotations"] = {STOPPED: str(_replicas_before(live))}
                change["spec"] = {"replicas": 0}
                self.cluster.apply(change, manager=_MANAGER)
            self._await_stopped(owners)
        self.sink(Step(STAGE, f"{release.name} stopped", "ok", "", time.monotonic() - began))

    def _await_stopped(self, owners: set[str]) -> None:
        namespace = self.expected.release.namespace
        pods = pods_of(self.cluster, namespace, owners)
        grace = max((pod["spec"].get("terminationGracePeriodSeconds") or 30 for pod in pods), default=0)
        began = time.monotonic()
        left: list[str] = []
        while left := _passing(lambda: [_name(pod) for pod in pods_of(self.cluster, namespace, owners)]):
            waited = time.monotonic() - began
            if self.stop.is_set() or waited > grace + _STOP_MARGIN_SECONDS:
                name = self.expected.release.name
                raise ProcessesDoNotStop(release=name, seconds=round(waited), pods=", ".join(left))
            self.stop.wait(_POLL_SECONDS)

    def _new_set_applied(self) -> bool:
        """Whether any StatefulSet that runs already has what is wanted: old and new must not start side by side."""
        for obj in _workloads(self.expected.objects):
            wanted, live = _annotation(obj, STOP_TOGETHER), _live(self.cluster, obj)
            if wanted is not None and live is not None and _annotation(live, STOP_TOGETHER) == wanted:
                return True
        return False

    def _start_again(self, replicas: dict[str, int]) -> None:
        """As it was before, unless the new set was applied; a failure here must not hide the one that led to it."""
        deadline = time.monotonic() + _START_AGAIN_SECONDS
        started = False
        while time.monotonic() < deadline:
            try:
                if self._new_set_applied():
                    return
                for name, number in replicas.items():
                    live = self.cluster.get(_APPS, "StatefulSet", name, self.expected.release.namespace)
                    if live is not None and _annotation(live, STOPPED):
                        _scale(self.cluster, live, number)
                        self.cluster.apply(_bare(live), manager=_MANAGER)
                        started = True
            except ClusterRefused:
                return
            except ClusterUnreachable:
                # Whoever stopped everything waits for the API server before he leaves it at that.
                time.sleep(_POLL_SECONDS)
                continue
            if started:
                name = self.expected.release.name
                self.sink(Note("warning", f"{name}: nothing of the change was applied; its processes start as before"))
            return

    def _keep_replicas(self) -> None:
        """A number that helm set and now leaves to an autoscaler would fall to 1 when helm gives the field up.

        Source: kubernetes.io/docs/reference/using-api/server-side-apply, transferring ownership.
        """
        for obj in _workloads(self.expected.objects):
            live = _live(self.cluster, obj)
            if live is not None and obj["spec"].get("replicas") is None and _helm_owns_replicas(live):
                mine = _bare(obj)
                mine["spec"] = {"replicas": live["spec"].get("replicas", 1)}
                self.cluster.apply(mine, manager=_REPLICAS_MANAGER)


def in_waves(workloads: Iterable[Object]) -> list[list[Object]]:
    """Live workloads by their wave, lowest first. Before them those without one, each by itself: the servers, the
    sentinels and the proxies of one database must not lose a member each at the same time.
    """
    waves: dict[int, list[Object]] = {}
    alone: list[list[Object]] = []
    for live in workloads:
        wave = _wave(live)
        if wave is None:
            alone.append([live])
        else:
            waves.setdefault(wave, []).append(live)
    return alone + [waves[wave] for wave in sorted(waves)]


def _bound_together(cluster: Cluster, objects: Sequence[Object], known: ReleaseRecord | None) -> list[Object]:
    """Every live StatefulSet of the release, also one that is to go, that has the annotation or is to have it."""
    wanted = {obj["metadata"]["name"]: obj for obj in _workloads(objects) if _annotation(obj, STOP_TOGETHER)}
    places = {(obj["metadata"].get("namespace") or "", name) for name, obj in wanted.items()}
    places |= {(e.namespace, e.name) for e in (known.objects if known else ()) if e.kind == "StatefulSet"}
    found = [cluster.get(_APPS, "StatefulSet", name, namespace) for namespace, name in sorted(places)]
    return [live for live in found if live and (live["metadata"]["name"] in wanted or _annotation(live, STOP_TOGETHER))]


def _replaces_pods(cluster: Cluster, obj: Object, live: Object, manager: str) -> bool:
    """Asked as `manager`, so that a field that it no longer wants is gone in the answer too."""
    try:
        would_be = cluster.apply(obj, manager=manager, dry_run=True)
    except ClusterRefused:
        return True
    return bool(would_be["spec"]["template"] != live["spec"]["template"])


def _holding(obj: Object, wave: int) -> Object:
    change = _bare(obj)
    change["metadata"]["annotations"] = {HELD: f"wave {wave} waits for the waves before it"}
    if obj["kind"] == "Deployment":
        change["spec"] = {"paused": True}
    else:
        change["spec"] = {"updateStrategy": {"rollingUpdate": {"partition": _PAST_EVERY_POD}}}
    return change


def _bare(obj: Object) -> Object:
    """Applied by a manager, it gives up every field that the manager had."""
    metadata = {"name": obj["metadata"]["name"], "namespace": obj["metadata"]["namespace"]}
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": metadata}


def _replicas_before(live: Object) -> int:
    """How many it has, or had before a run that was killed stopped it."""
    return int(live["spec"].get("replicas", 1)) or int(_annotation(live, STOPPED) or 0)


def _helm_owns_replicas(live: Object) -> bool:
    entries = live["metadata"].get("managedFields") or []
    owners = [entry for entry in entries if "f:replicas" in (entry.get("fieldsV1") or {}).get("f:spec", {})]
    return any(entry.get("manager") == HELM_MANAGER for entry in owners)


def _scale(cluster: Cluster, obj: Object, replicas: int) -> None:
    metadata = obj["metadata"]
    cluster.patch(_APPS, obj["kind"], metadata["name"], {"spec": {"replicas": replicas}}, metadata["namespace"])


def _workloads(objects: Iterable[Object]) -> list[Object]:
    return [obj for obj in objects if obj["kind"] in _KINDS and obj["apiVersion"] == _APPS]


def _live(cluster: Cluster, obj: Object) -> Object | None:
    return cluster.get(obj["apiVersion"], obj["kind"], obj["metadata"]["name"], obj["metadata"].get("namespace"))


def _annotation(obj: Object, name: str) -> str | None:
    found = (obj["metadata"].get("annotations") or {}).get(name)
    return None if found is None else str(found)


def _marked(live: Object) -> bool:
    return _annotation(live, HELD) is not None or _annotation(live, STOPPED) is not None


def _wave(obj: Object) -> int | None:
    """The workload's wave; None also where only a person replaces its pods."""
    if (obj["spec"].get("updateStrategy") or {}).get("type") == "OnDelete":
        return None
    text = _annotation(obj, WAVE)
    return int(text) if text is not None and text.isdigit() else None


def _name(pod: Object) -> str:
    return f"{pod['metadata']['name']} on {pod['spec'].get('nodeName') or 'no node'}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _passing(look: Callable[[], list[str]]) -> list[str]:
    """An API server that is away for a moment is an obstacle, not the end."""
    try:
        return look()
    except (ClusterUnreachable, ClusterRefused) as fault:
        return [fault.message]

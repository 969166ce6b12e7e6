"""Waits until a release is what the stack calls ready, and says which pod is in the way and why.

Not here: what *ready* means for a release (`stack.yaml` says it), applying anything.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any

from mxinstall.cluster import Cluster, Object
from mxinstall.deploy.inventory import ReleaseRecord
from sitebundle.errors import ClusterRefused, ClusterUnreachable, ReleaseNotReady
from sitebundle.events import Note, Sink
from sitebundle.stack import Ready, Release

POLL_SECONDS = 1.5
POD_SECONDS = 60.0
"""How long a pod that takes another one's place may need until it is ready, where they come one after another."""
_SAY_AGAIN_SECONDS = 20.0
_WORKLOADS = {"statefulset": "StatefulSet", "deployment": "Deployment"}
STARTING = "mxbundle.io/starting"
"""An annotation of a pod: what its containers do until their startup probe passes, where that may take long."""
_PULL_PROBLEMS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError")


@dataclass(frozen=True)
class Expected:
    """What there is to wait for: the release, its rendered objects, and those of every other release by name."""

    release: Release
    objects: Sequence[Object]
    others: Mapping[str, Sequence[Object]]


def on_record(release: Release, record: ReleaseRecord) -> Expected:
    """What there is to wait for when all that is known is the record: names and kinds are all the conditions ask for.

    Whether an operator accepts objects cannot be asked without them.
    """
    objects: list[Object] = [
        {"apiVersion": e.api_version, "kind": e.kind, "metadata": {"name": e.name, "namespace": e.namespace}}
        for e in record.objects
    ]
    answerable = release.model_copy(update={"ready": tuple(r for r in release.ready if r.accepts is None)})
    return Expected(answerable, objects, {})


def wait_ready(cluster: Cluster, expected: Expected, sink: Sink, *, fresh: bool, stop: Event | None = None) -> None:
    """Wait until every condition of the release holds.

    `fresh`: it was changed just now, so the conditions must hold twice, POLL_SECONDS apart; an operator may not
    have looked at the change yet when its object still says that all is well. Raises ReleaseNotReady, also
    when `stop` is set.
    """
    release = expected.release
    patience = Patience(cluster, release.timeout_seconds, expected.objects)
    needed, held = (2 if fresh else 1), 0
    said, said_at = "", time.monotonic()
    while True:
        obstacles = _passing(lambda: unmet(cluster, expected))
        held = 0 if obstacles else held + 1
        if held >= needed:
            return
        waited = patience.waited_seconds()
        stopped = stop is not None and stop.is_set()
        if stopped or patience.ended():
            pods = _passing(lambda: troubled_pods(cluster, expected))
            detail = "; ".join([*obstacles, *pods]) or "it was ready only for a moment"
            raise ReleaseNotReady(release=release.name, seconds=round(waited), detail=detail)
        if obstacles and obstacles[0] != said and waited > 5 and time.monotonic() - said_at > _SAY_AGAIN_SECONDS:
            said, said_at = obstacles[0], time.monotonic()
            because = _passing(lambda: troubled_pods(cluster, expected))
            sink(Note("info", f"{release.name}: waiting, {'; '.join([said, *because[:2]])}"))
        (stop or Event()).wait(POLL_SECONDS)


def unmet(cluster: Cluster, expected: Expected) -> list[str]:
    """The conditions that do not hold, each as one sentence for people."""
    found: list[str] = []
    for ready in expected.release.ready:
        found += _unmet(cluster, expected, ready)
    return found


def troubled_pods(cluster: Cluster, expected: Expected) -> list[str]:
    """The release's pods that are not ready, each with the reason and, where it crashed, its last log line."""
    names = tuple({obj["metadata"]["name"] for obj in expected.objects})
    found: list[str] = []
    for pod in cluster.list("v1", "Pod", expected.release.namespace):
        metadata = pod["metadata"]
        instance = (metadata.get("labels") or {}).get("app.kubernetes.io/instance")
        if instance == expected.release.name or metadata["name"].startswith(names):
            reason = pod_trouble(pod, partial(last_log_line, cluster, pod))
            if reason:
                # What takes long is what the others wait for.
                place = 0 if starting(pod) else len(found)
                found.insert(place, f"pod {metadata['name']}: {reason}")
    return found


def starting(pod: Object) -> str:
    """What a pod that says so still does before it has started; empty when it has, or says nothing of it."""
    for entry in (pod.get("status") or {}).get("containerStatuses") or []:
        if "running" in (entry.get("state") or {}) and entry.get("started") is False:
            return str((pod["metadata"].get("annotations") or {}).get(STARTING, ""))
    return ""


def pod_trouble(pod: Object, last_line: Callable[[str], str]) -> str:
    """Why a pod is not ready; empty when it is, or has done its work."""
    status = pod.get("status") or {}
    if status.get("phase") == "Succeeded":
        return ""
    for entry in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        state = entry.get("state") or {}
        waiting = state.get("waiting") or {}
        if waiting.get("reason") in _PULL_PROBLEMS:
            return f"{entry['name']} cannot start: {waiting['reason']} {waiting.get('message', '')}".strip()[:400]
        if waiting.get("reason") == "CrashLoopBackOff" or (state.get("terminated") or {}).get("exitCode"):
            ended = (entry.get("lastState") or {}).get("terminated") or state.get("terminated") or {}
            return f"{entry['name']} ended with code {ended.get('exitCode', '?')}: {last_line(entry['name'])}"[:400]
    if doing := starting(pod):
        return f"Running, {doing}"[:400]
    conditions = {entry["type"]: entry for entry in status.get("conditions") or []}
    scheduled, ready = conditions.get("PodScheduled", {}), conditions.get("Ready", {})
    if scheduled.get("status") == "False":
        return f"cannot be placed: {scheduled.get('message', '')}"[:400]
    if ready.get("status") != "True":
        return f"{status.get('phase', 'Pending')}, {ready.get('message') or 'not ready yet'}"[:400]
    return ""


def last_log_line(cluster: Cluster, pod: Object, container: str) -> str:
    """The last line that a crashed container said, from the run before when this one said nothing."""
    metadata = pod["metadata"]
    for previous in (True, False):
        text = cluster.logs(metadata["namespace"], metadata["name"], container, tail_lines=5, previous=previous)
        if lines := [line for line in text.splitlines() if line.strip()]:
            return lines[-1].strip()
    return "it said nothing"


def bound_seconds(base_seconds: float, workloads: Iterable[Object]) -> float:
    """How long workloads that are replaced at the same time may take, whose pods are replaced one after another.

    `base_seconds` for a first pod of each; for each further one of the largest, POD_SECONDS and its own time to end.
    """
    further = [
        (int(obj["spec"].get("replicas") or 1) - 1)
        * (POD_SECONDS + int(obj["spec"]["template"]["spec"].get("terminationGracePeriodSeconds") or 30))
        for obj in workloads
        if obj["kind"] in _WORKLOADS.values() and "template" in (obj.get("spec") or {})
    ]
    return base_seconds + max(further, default=0.0)


def live_bound_seconds(
    cluster: Cluster, base_seconds: float, workloads: Iterable[Object], so_far_seconds: float = 0.0
) -> float:
    """`bound_seconds` with as many pods as there are now, and never less than `so_far_seconds`.

    What was rendered does not say how many an autoscaler set, a record says nothing of the kind, and while a rollout
    goes on the autoscaler may add more: ask again before a wait is given up.
    """
    listed = [obj for obj in workloads if obj["kind"] in _WORKLOADS.values()]
    try:
        live = [_live(cluster, obj) or obj for obj in listed]
    except (ClusterUnreachable, ClusterRefused):
        live = listed
    return max(so_far_seconds, bound_seconds(base_seconds, live))


class Patience:
    """How long a rollout is waited for, from now on: `live_bound_seconds`, asked again before it is given up."""

    def __init__(self, cluster: Cluster, base_seconds: float, workloads: Iterable[Object]) -> None:
        self._cluster, self._base_seconds, self._workloads = cluster, base_seconds, list(workloads)
        self._bound_seconds = live_bound_seconds(cluster, base_seconds, self._workloads)
        self._began = time.monotonic()

    def waited_seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._began

    def ended(self) -> bool:
        """Whether no more is to be waited, however many pods there are by now."""
        if self.waited_seconds() <= self._bound_seconds:
            return False
        self._bound_seconds = live_bound_seconds(
            self._cluster, self._base_seconds, self._workloads, self._bound_seconds
        )
        return self.waited_seconds() > self._bound_seconds


def workload_obstacle(workload: Object, quorum: str) -> str:
    """Why a StatefulSet or Deployment is not rolled out; empty when it is."""
    status, wanted = workload.get("status") or {}, workload["spec"].get("replicas", 1)
    name = f"{workload['kind'].lower()} {workload['metadata']['name']}"
    if status.get("observedGeneration", 0) < workload["metadata"].get("generation", 0):
        return f"{name}: its change was not looked at yet"
    ready, updated = status.get("readyReplicas", 0), status.get("updatedReplicas", 0)
    if workload["kind"] == "StatefulSet" and status.get("currentRevision") == status.get("updateRevision"):
        updated = max(updated, status.get("currentReplicas", 0))
    needed = wanted if quorum == "all" else wanted // 2 + 1
    if min(ready, updated) < needed:
        return f"{name}: {ready} of {wanted} ready, {updated} up to date"
    if quorum == "all" and status.get("replicas", 0) > wanted:
        return f"{name}: {status['replicas'] - wanted} old pods are still ending"
    return ""


def _unmet(cluster: Cluster, expected: Expected, ready: Ready) -> list[str]:
    release = expected.release
    for attribute, kind in _WORKLOADS.items():
        if (name := getattr(ready, attribute)) is not None:
            return _workloads(cluster, expected, kind, name, ready.quorum)
    if ready.http is not None:
        return _http(cluster, release.namespace, ready.http)
    if ready.resource is not None:
        return _fields(cluster, expected, ready)
    return _accepts(cluster, expected.others.get(ready.accepts or "", ()))


def _workloads(cluster: Cluster, expected: Expected, kind: str, name: str, quorum: str) -> list[str]:
    named = [obj["metadata"]["name"] for obj in expected.objects if obj["kind"] == kind] if name == "*" else [name]
    found = []
    for one in named:
        live = cluster.get("apps/v1", kind, one, expected.release.namespace)
        obstacle = f"{kind.lower()} {one} does not exist" if live is None else workload_obstacle(live, quorum)
        found += [obstacle] if obstacle else []
    return found


def _http(cluster: Cluster, namespace: str, target: str) -> list[str]:
    service, _, rest = target.partition(":")
    port, _, path = rest.partition("/")
    status, body = cluster.service_proxy(namespace, service, port, f"/{path}")
    return [] if status == 200 else [f"{target} answers {status} {body[:120].decode(errors='replace').strip()}"]


def _fields(cluster: Cluster, expected: Expected, ready: Ready) -> list[str]:
    found = []
    for resource in _resources(expected, ready.resource or ""):
        live = read_resource(cluster, expected.release.namespace, resource)
        value = field_of(live, ready.path or "") if live is not None else None
        if live is None:
            found.append(f"{resource} does not exist")
        elif value != ready.equals:
            found.append(f"{resource}: {ready.path} is {value!r}, not {ready.equals!r}")
    return found


def _resources(expected: Expected, resource: str) -> list[str]:
    """What `plural.group/name` stands for; `*` is each one that the release has, of a kind whose plural adds an s."""
    kind, _, name = resource.partition("/")
    plural, _, group = kind.partition(".")
    if name != "*":
        return [resource]
    return [
        f"{kind}/{obj['metadata']['name']}"
        for obj in expected.objects
        if f"{obj['kind'].lower()}s" == plural and obj["apiVersion"].rpartition("/")[0] == group
    ]


def _accepts(cluster: Cluster, objects: Iterable[Object]) -> list[str]:
    for obj in objects:
        if "." not in obj["apiVersion"].partition("/")[0] or obj["apiVersion"].partition("/")[0].endswith(".k8s.io"):
            continue
        try:
            cluster.apply(obj, manager="mxinstall-drift", dry_run=True)
        except ClusterRefused as refusal:
            return [f"a {obj['kind']} is not accepted yet: {refusal.fields['detail']}"[:300]]
    return []


def read_resource(cluster: Cluster, namespace: str, resource: str) -> Object | None:
    """An object by `plural.group/name`, in the version that the server prefers."""
    kind, _, name = resource.partition("/")
    plural, _, group = kind.partition(".")
    served = cluster.request("GET", f"/apis/{group}") if group else (200, b"")
    if served[0] != 200:
        return None
    version = f"apis/{_json(served[1])['preferredVersion']['groupVersion']}" if group else "api/v1"
    status, body = cluster.request("GET", f"/{version}/namespaces/{namespace}/{plural}/{name}")
    return _json(body) if status == 200 else None


def field_of(obj: Object, path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    value: Any = obj
    for part in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def _json(body: bytes) -> Any:
    return json.loads(body)


def _live(cluster: Cluster, obj: Object) -> Object | None:
    return cluster.get(obj["apiVersion"], obj["kind"], obj["metadata"]["name"], obj["metadata"].get("namespace"))


def _passing(look: Callable[[], list[str]]) -> list[str]:
    """An API server that is away for a moment is an obstacle, not the end."""
    try:
        return look()
    except (ClusterUnreachable, ClusterRefused) as fault:
        return [fault.message]

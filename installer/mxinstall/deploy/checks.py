"""A release's own checks, asked before its processes are stopped: what they refuse must not have cost an outage.

They are the chart's `pre-upgrade` hooks, which helm runs again by itself when the release is applied. Where nothing is
stopped helm's run is early enough, and this is not needed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from threading import Event

from mxinstall.cluster import Cluster, Object
from sitebundle.errors import ClusterRefused, ReleaseFailed
from sitebundle.stack import Release

HOOK = "helm.sh/hook"
WEIGHT = "helm.sh/hook-weight"
_POLL_SECONDS = 1.0
_MANAGER = "mxinstall-checks"


def pre_upgrade(objects: Sequence[Object]) -> list[Object]:
    """The rendered `pre-upgrade` hooks in helm's order: by weight, then by name."""
    hooks = [obj for obj in objects if "pre-upgrade" in _annotation(obj, HOOK).split(",")]
    return sorted(hooks, key=lambda obj: (int(_annotation(obj, WEIGHT) or 0), obj["metadata"]["name"]))


def run_checks(cluster: Cluster, release: Release, objects: Sequence[Object], stop: Event) -> None:
    """Run the hooks and remove them, whatever comes of it. Raises ReleaseFailed with the words of what refused."""
    hooks = [_placed(hook, release.namespace) for hook in pre_upgrade(objects)]
    try:
        for hook in hooks:
            _remove(cluster, hook)
            cluster.apply(hook, manager=_MANAGER)
            if hook["kind"] == "Job":
                _await(cluster, release, hook, stop)
    except ClusterRefused as refusal:
        detail = f"its check cannot be run, nothing was stopped: {refusal.fields['detail']}"
        raise ReleaseFailed(release=release.name, detail=detail) from refusal
    finally:
        for hook in hooks:
            _remove(cluster, hook)


def _placed(hook: Object, namespace: str) -> Object:
    return {**hook, "metadata": {"namespace": namespace, **hook["metadata"]}}


def _await(cluster: Cluster, release: Release, job: Object, stop: Event) -> None:
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    deadline = time.monotonic() + release.timeout_seconds
    while True:
        live = cluster.get(job["apiVersion"], "Job", name, namespace) or {}
        ended = {one["type"] for one in live.get("status", {}).get("conditions", []) if one["status"] == "True"}
        if "Complete" in ended:
            return
        if "Failed" in ended:
            detail = f"job {name} refuses it, before anything was stopped: {_last_words(cluster, name, namespace)}"
            raise ReleaseFailed(release=release.name, detail=detail)
        if stop.is_set() or time.monotonic() > deadline:
            raise ReleaseFailed(release=release.name, detail=f"job {name} did not end in time; nothing was stopped")
        stop.wait(_POLL_SECONDS)


def _last_words(cluster: Cluster, job: str, namespace: str) -> str:
    said = [
        str(status["state"]["terminated"].get("message") or status["state"]["terminated"].get("reason") or "")
        for pod in cluster.list("v1", "Pod", namespace, f"batch.kubernetes.io/job-name={job}")
        for status in pod.get("status", {}).get("containerStatuses", [])
        if "terminated" in status["state"]
    ]
    return " ".join(" ".join(said).split())[-600:] or "it said nothing"


def _remove(cluster: Cluster, hook: Object) -> None:
    meta = hook["metadata"]
    cluster.delete(hook["apiVersion"], hook["kind"], meta["name"], meta["namespace"])


def _annotation(obj: Object, name: str) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(name, ""))

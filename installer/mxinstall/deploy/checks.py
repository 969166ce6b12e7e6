"""A release's own checks, asked before any release is touched: what they refuse must not have cost anything.

They are those of the chart's `pre-upgrade` hooks that it calls checks: they need nothing that the upgrade brings. Helm
runs them again by itself, with all others, when the release is applied.
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
CHECK = "mxbundle.io/check"
"""On a `pre-upgrade` hook, `true`: it only looks, and at nothing that the same upgrade changes."""
_POLL_SECONDS = 1.0
_MANAGER = "mxinstall-checks"


def checks(objects: Sequence[Object]) -> list[Object]:
    """The rendered `pre-upgrade` hooks that are checks, in helm's order: by weight, then by name."""
    before = [obj for obj in objects if "pre-upgrade" in _annotation(obj, HOOK).split(",")]
    hooks = [obj for obj in before if _annotation(obj, CHECK) == "true"]
    return sorted(hooks, key=lambda obj: (int(_annotation(obj, WEIGHT) or 0), obj["metadata"]["name"]))


def run_checks(cluster: Cluster, release: Release, objects: Sequence[Object], stop: Event) -> None:
    """Run the hooks and remove them, whatever comes of it. Raises ReleaseFailed with the words of what refused."""
    hooks = [_startable(cluster, _placed(hook, release.namespace)) for hook in checks(objects)]
    try:
        for hook in hooks:
            _remove(cluster, hook)
            cluster.apply(hook, manager=_MANAGER)
            if hook["kind"] == "Job":
                _await(cluster, release, hook, stop)
    except ClusterRefused as refusal:
        detail = f"its check cannot be run, no release was changed: {refusal.fields['detail']}"
        raise ReleaseFailed(release=release.name, detail=detail) from refusal
    finally:
        for hook in hooks:
            _remove(cluster, hook)


def _placed(hook: Object, namespace: str) -> Object:
    return {**hook, "metadata": {"namespace": namespace, **hook["metadata"]}}


def _startable(cluster: Cluster, hook: Object) -> Object:
    """Without a priority class that the same upgrade is yet to bring: its pods would be refused till then."""
    if hook["kind"] != "Job":
        return hook
    pod = dict(hook["spec"]["template"]["spec"])
    name = pod.get("priorityClassName")
    if name and cluster.get("scheduling.k8s.io/v1", "PriorityClass", name) is None:
        del pod["priorityClassName"]
    template = {**hook["spec"]["template"], "spec": pod}
    return {**hook, "spec": {**hook["spec"], "template": template}}


def _await(cluster: Cluster, release: Release, job: Object, stop: Event) -> None:
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    deadline = time.monotonic() + release.timeout_seconds
    while True:
        live = cluster.get(job["apiVersion"], "Job", name, namespace) or {}
        ended = {one["type"] for one in live.get("status", {}).get("conditions", []) if one["status"] == "True"}
        if "Complete" in ended:
            return
        if "Failed" in ended:
            detail = f"job {name} refuses it, no release was changed: {_last_words(cluster, name, namespace)}"
            raise ReleaseFailed(release=release.name, detail=detail)
        if stop.is_set() or time.monotonic() > deadline:
            raise ReleaseFailed(release=release.name, detail=f"job {name} did not end in time; no release was changed")
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

"""Says of every pod that it is ready, as a kubelet would, where there are controllers but no nodes.

Pods are never placed, so the API server removes them at once when they are told to end.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from mxinstall.cluster import Cluster, Object

from sitebundle.errors import MxError

LOOK_SECONDS = 0.05


class Claims:
    """What was seen of the pods of a namespace. `starts` decides which may become ready; `seen` are all listings."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.starts: Callable[[Object], bool] = lambda pod: True
        self.seen: list[list[Object]] = []
        self._cluster, self._namespace, self._ended = cluster, namespace, threading.Event()

    def run(self) -> None:
        """Until ended."""
        while not self._ended.wait(LOOK_SECONDS):
            with contextlib.suppress(MxError):
                pods = self._cluster.list("v1", "Pod", self._namespace)
                self.seen.append(pods)
                for pod in pods:
                    if not _ready(pod) and self.starts(pod) and not pod["spec"].get("nodeName"):
                        self._claim(pod)

    def end(self) -> None:
        """Stop looking."""
        self._ended.set()

    def _claim(self, pod: Object) -> None:
        conditions = [{"type": kind, "status": "True"} for kind in ("PodScheduled", "Initialized", "Ready")]
        status = {"status": {"phase": "Running", "conditions": conditions}}
        name = pod["metadata"]["name"]
        self._cluster.patch("v1", "Pod", name, status, self._namespace, subresource="status")


@contextlib.contextmanager
def claimed_pods(cluster: Cluster, namespace: str) -> Iterator[Claims]:
    """Claim for the length of the block."""
    claims = Claims(cluster, namespace)
    thread = threading.Thread(target=claims.run, name="claims", daemon=True)
    thread.start()
    try:
        yield claims
    finally:
        claims.end()
        thread.join(timeout=10)


def _ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)

"""How the proof reaches an installed system: addresses, secret, the processes' counters, and their deletion.

Everything here asks the Kubernetes API; the names are those of the synapse and postgres charts.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

from mxinstall.cluster import Cluster
from mxinstall.proof.metrics import counter
from mxinstall.proof.steps import Disproved, ProofContext
from mxinstall.site import Site
from sitebundle.errors import ReleaseNotReady

MATRIX = "matrix"
DATA = "matrix-data"
MAIN_SERVICE = "synapse-main:8008"
EDGE_SERVICE = "edge"
AUTHORITY_SECRET = "site-ca"
METRICS_PORT = 9001
METRICS_PATH = "_synapse/metrics"
DATABASE = "postgres"
"""The PostgreSQL cluster, unless site.yaml gives it another name (after a restore: `spec.values.postgres.name`)."""
KILL_GRACE_SECONDS = 1
"""Short enough for no orderly handover; not 0, which would free the pod's name while it may still run."""

Pod = dict[str, Any]


def context_of(cluster: Cluster, site: Site) -> ProofContext:
    """The proof's context for the system that is installed at `site`. Raises ReleaseNotReady where it is not."""
    secret = cluster.get("v1", "Secret", "synapse-keys", MATRIX)
    if secret is None:
        raise ReleaseNotReady(release="synapse", seconds=0, detail=f"there is no Secret {MATRIX}/synapse-keys")

    def inside(method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        proxied = f"/api/v1/namespaces/{MATRIX}/services/{MAIN_SERVICE}/proxy{path}"
        return cluster.request(
            method,
            proxied,
            body=body,
            content_type="application/json" if body else None,
            timeout_seconds=60,
            accept="*/*",
        )

    authority = cluster.get("v1", "Secret", AUTHORITY_SECRET, MATRIX)
    return ProofContext(
        base_url=f"https://{site.spec.hosts.matrix}",
        registration_secret=base64.b64decode(secret["data"]["registration"]).decode(),
        inside=inside,
        processes=SynapsePods(cluster),
        wrecker=PodWrecker(cluster, str(site.spec.values.get("postgres", {}).get("name") or DATABASE)),
        ca=base64.b64decode(authority["data"]["ca.crt"]).decode() if authority else None,
        address=edge_address(cluster, site),
    )


class SynapsePods:
    """The Synapse processes as pods, by the label that says which type of worker each is."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def pods(self, worker: str) -> list[Pod]:
        """All pods of this type of worker, ready or not, by name."""
        labels = f"app.kubernetes.io/name=synapse,app.kubernetes.io/component={worker}"
        return sorted(self._cluster.list("v1", "Pod", MATRIX, labels), key=lambda pod: str(pod["metadata"]["name"]))

    def count(self, worker: str) -> int:
        """How many run and are ready."""
        return sum(is_ready(pod) for pod in self.pods(worker))

    def counter(self, worker: str, name: str, **labels: str) -> float:
        """The sum of one of their own counters. Raises Disproved when one does not tell."""
        total = 0.0
        for pod in filter(is_ready, self.pods(worker)):
            pod_name = str(pod["metadata"]["name"])
            status, body = self._cluster.pod_proxy(MATRIX, pod_name, METRICS_PORT, METRICS_PATH)
            if status != 200:
                raise Disproved(f"pod {pod_name} answers {status} when asked for its metrics on {METRICS_PORT}")
            total += counter(body.decode(), name, **labels)
        return total


class PodWrecker:
    """Deletes pods of the running system and sees them come back."""

    def __init__(self, cluster: Cluster, database: str = DATABASE) -> None:
        self._cluster = cluster
        self._database = database
        self._synapse = SynapsePods(cluster)
        self._look: Callable[[], list[Pod]] = list
        self._wanted = 0
        self._killed_uid = ""

    def kill_worker(self, worker: str) -> str:
        """Delete one pod of this type of worker; its name."""
        return self._kill("pod", lambda: self._synapse.pods(worker), self._synapse.pods(worker))

    def kill_database_primary(self) -> str:
        """Delete the pod that holds the PostgreSQL primary; its name."""
        return self._kill("the primary's pod", self._database_pods, list(filter(_is_primary, self._database_pods())))

    def until_whole(self, timeout_seconds: float) -> tuple[float, str]:
        """Wait until as many pods are ready as before, the killed one gone, and a database has its primary."""
        started = time.monotonic()
        while True:
            ready = [pod for pod in self._look() if is_ready(pod)]
            took = time.monotonic() - started
            replaced = all(pod["metadata"]["uid"] != self._killed_uid for pod in ready)
            database = [pod for pod in ready if "cnpg.io/cluster" in pod["metadata"]["labels"]]
            led = not database or any(map(_is_primary, database))
            if len(ready) >= self._wanted and replaced and led:
                leader = "".join(f", primary {pod['metadata']['name']}" for pod in database if _is_primary(pod))
                return took, f"{len(ready)} ready{leader}"
            if took > timeout_seconds:
                raise Disproved(f"only {len(ready)} of {self._wanted} pods are ready {took:.0f} s after the deletion")
            time.sleep(1.0)

    def _kill(self, what: str, look: Callable[[], list[Pod]], victims: list[Pod]) -> str:
        alive = [pod for pod in victims if is_ready(pod)]
        if not alive:
            raise Disproved(f"there is no ready {what} to delete")
        victim = alive[0]["metadata"]
        self._look, self._wanted = look, sum(map(is_ready, look()))
        self._killed_uid = str(victim["uid"])
        self._cluster.delete("v1", "Pod", victim["name"], victim["namespace"], grace_seconds=KILL_GRACE_SECONDS)
        return f"{what} {victim['name']}"

    def _database_pods(self) -> list[Pod]:
        return self._cluster.list("v1", "Pod", DATA, f"cnpg.io/cluster={self._database},cnpg.io/podRole=instance")


def is_ready(pod: Pod) -> bool:
    """Whether a pod is ready and not on its way out."""
    conditions = pod.get("status", {}).get("conditions", [])
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return ready and not pod["metadata"].get("deletionTimestamp")


def _is_primary(pod: Pod) -> bool:
    return bool(pod["metadata"]["labels"].get("cnpg.io/instanceRole") == "primary")


def edge_address(cluster: Cluster, site: Site) -> str:
    """`host:port` at which the edge takes TLS: a proof must not depend on DNS. Raises ReleaseNotReady."""
    service = cluster.get("v1", "Service", EDGE_SERVICE, MATRIX)
    if service is None:
        raise ReleaseNotReady(release="synapse", seconds=0, detail=f"there is no Service {MATRIX}/{EDGE_SERVICE}")
    spec = service["spec"]
    (port,) = (one for one in spec["ports"] if one["name"] == "https")
    if spec["type"] == "NodePort":
        return f"{site.spec.edge.address}:{port['nodePort']}"
    if spec["type"] == "LoadBalancer":
        given = service.get("status", {}).get("loadBalancer", {}).get("ingress") or [{}]
        return f"{given[0].get('ip') or given[0].get('hostname') or site.spec.edge.address}:{port['port']}"
    return f"{spec['clusterIP']}:{port['port']}"

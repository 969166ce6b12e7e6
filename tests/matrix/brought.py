"""Edges that the demo does not have, brought for a case: their policies, and who stands at the other end.

The policies are the chart's own, rendered with the value that brings them. Who is not part of the demo (a collector of
metrics, another server, a service that uses Synapse) is a pod of the case, in a namespace of the case, with the labels
that the edge names; it runs the site's image of Synapse, for its Python. Requests are real packets from inside the
asking pod's network.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from subprocess import run
from typing import Any
from urllib.parse import urlsplit

from mxinstall.cluster import Object
from mxinstall.proof.reach import is_ready
from mxinstall.proof.steps import Disproved

from darksite import backup_host, pods
from tests.matrix import policies
from tests.matrix.registry import Wrong
from tests.matrix.trial import Pod, Trial, first
from tests.support.shipped_stack import rendered

STARTS_WITHIN_SECONDS = 120.0
ASK_SECONDS = 3.0
LABELS = {"app.kubernetes.io/name": "mxtrial"}
_SYNAPSE = "app.kubernetes.io/name=synapse,app.kubernetes.io/component="
_LISTEN = """
import http.server
class Here(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"mxtrial is here")
http.server.ThreadingHTTPServer(("", PORT), Here).serve_forever()
"""
_ASK = """
import http.client, json, socket, ssl, struct, sys
scheme, host, port, path, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], float(sys.argv[5])
try:
    if scheme == "postgres":
        with socket.create_connection((host, port), timeout=seconds) as connection:
            # SSLRequest of the protocol: the server says S or N before anybody logs in.
            connection.sendall(struct.pack("!II", 8, 80877103))
            told = {"status": 0, "body": connection.recv(1).decode()}
    else:
        if scheme == "https":
            blind = ssl.create_default_context()
            blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
            connection = http.client.HTTPSConnection(host, port, timeout=seconds, context=blind)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=seconds)
        connection.request("GET", path)
        answer = connection.getresponse()
        told = {"status": answer.status, "body": answer.read().decode(errors="replace")}
except (OSError, http.client.HTTPException) as fault:
    told = {"fault": str(fault) or type(fault).__name__}
print(json.dumps(told))
"""


@dataclass(frozen=True)
class Brought:
    """How one edge comes and who asks whom.

    values: the chart's, given the trial, the case's namespace and the listener's address. asks, answers: `NAMESPACE
    LABELS` of pods that the site has, or empty for the case's own. labels, inside: what the case's own asking pod has,
    and where it runs (empty: in the case's namespace). outside: an address outside the cluster that answers instead.
    says: what an answer must hold.
    """

    chart: str
    values: Callable[[Trial, str, str], dict[str, Any]]
    port: int
    scheme: str = "http"
    path: str = "/"
    says: str = ""
    asks: str = ""
    answers: str = ""
    labels: Mapping[str, str] | None = None
    inside: str = ""
    outside: Callable[[Trial], str] | None = None


def _monitoring(_trial: Trial, namespace: str, _listener: str) -> dict[str, Any]:
    return {"networkPolicies": {"monitoring": namespace}}


def _inner(_trial: Trial, namespace: str, _listener: str) -> dict[str, Any]:
    return {"networkPolicies": {"innerClients": [{"namespace": namespace, "labels": LABELS}]}}


def _recovered(_trial: Trial, _namespace: str, _listener: str) -> dict[str, Any]:
    return {
        "backup": {"endpoint": "https://backup.example.site", "bucket": "backups", "secret": "backup-s3"},
        "recovery": {"source": "postgres-before"},
    }


def _federated(_trial: Trial, _namespace: str, _listener: str) -> dict[str, Any]:
    return {"federation": {"enabled": True, "allow": ["*"]}}


def _allowed(_trial: Trial, _namespace: str, listener: str) -> dict[str, Any]:
    return {"allowedAddresses": [f"{listener}/32"]}


def _stored(trial: Trial, _namespace: str, _listener: str) -> dict[str, Any]:
    endpoint = backup_host.target(trial.site).endpoint
    return {"media": {"s3": {"endpoint": endpoint, "bucket": "media", "secret": "media-s3"}}}


def _store(trial: Trial) -> str:
    return str(urlsplit(backup_host.target(trial.site).endpoint).hostname)


_INSTANCE = "matrix-data cnpg.io/cluster=postgres,cnpg.io/instanceRole=primary"
_AFTER_RECOVERY = {
    "app.kubernetes.io/name": "postgres",
    "app.kubernetes.io/instance": "postgres",
    "app.kubernetes.io/component": "after-recovery",
}
BROUGHT: dict[str, Brought] = {
    "after-recovery-to-postgres": Brought(
        "postgres",
        _recovered,
        5432,
        scheme="postgres",
        says="S",
        answers=_INSTANCE,
        labels=_AFTER_RECOVERY,
        inside="matrix-data",
    ),
    "monitoring-to-postgres": Brought(
        "postgres", _monitoring, 9187, path="/metrics", says="cnpg_collector_up", answers=_INSTANCE
    ),
    "monitoring-to-pooler": Brought(
        "postgres",
        _monitoring,
        9127,
        path="/metrics",
        says="cnpg_pgbouncer",
        answers="matrix-data cnpg.io/poolerName=postgres-pooler",
    ),
    "inner-clients-to-routing": Brought(
        "synapse",
        _inner,
        8008,
        path="/_matrix/client/versions",
        says="versions",
        answers="matrix app.kubernetes.io/component=routing",
        labels=LABELS,
    ),
    "synapse-to-media-store": Brought(
        "synapse", _stored, backup_host.PORT, scheme="https", asks=f"matrix {_SYNAPSE}media-repository", outside=_store
    ),
    "synapse-to-other-servers": Brought("synapse", _federated, 8448, says="mxtrial", asks=f"matrix {_SYNAPSE}main"),
    "synapse-to-allowed-addresses": Brought("synapse", _allowed, 8009, says="mxtrial", asks=f"matrix {_SYNAPSE}main"),
    "monitoring-to-synapse": Brought(
        "synapse",
        _monitoring,
        9001,
        path="/_synapse/metrics",
        says="synapse_build_info",
        answers=f"matrix {_SYNAPSE}main",
    ),
    "monitoring-to-routing": Brought(
        "synapse",
        _monitoring,
        8405,
        path="/metrics",
        says="haproxy_process_",
        answers="matrix app.kubernetes.io/component=routing",
    ),
}
"""Every edge that profile demo lacks."""


@contextmanager
def brought(trial: Trial, edge: str) -> Iterator[Callable[[], None]]:
    """The edge is there for the length of the block. What is given asks once, and raises Disproved without an answer.

    Raises Wrong when the site has that edge already, or a pod of the case does not start.
    """
    how, namespace = BROUGHT[edge], f"mxtrial-{secrets.token_hex(4)}"
    known = [policy for policy in trial.cluster.list("networking.k8s.io/v1", "NetworkPolicy") if _is_of(policy, edge)]
    if known:
        raise Wrong(f"the installed system has edge {edge} already: the case would take it away at its end")
    with ExitStack() as undo:
        _made(trial, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}, undo)
        asking, answering = how.asks, how.answers
        if not asking:
            where, labels = how.inside or namespace, how.labels or LABELS
            asking = _pod(trial, where, "asking", labels, "import time\ntime.sleep(3600)", undo)
        if how.outside is None and not answering:
            answering = _pod(trial, namespace, "listening", LABELS, _LISTEN.replace("PORT", str(how.port)), undo)
        host = how.outside(trial) if how.outside else ""

        def ask() -> None:
            target = host or str(_ready(trial, answering)["status"]["podIP"])
            _asked(trial, _ready(trial, asking), how, target)

        listener = "" if how.answers or host else str(_ready(trial, answering)["status"]["podIP"])
        wanted = rendered(how.chart, policies.PROFILE, how.values(trial, namespace, listener))
        for policy in (entry for entry in wanted if entry["kind"] == "NetworkPolicy" and _is_of(entry, edge)):
            _made(trial, policy, undo)
        yield ask


def _is_of(policy: Object, edge: str) -> bool:
    return (policy["metadata"].get("annotations") or {}).get(policies.EDGE) == edge


def _made(trial: Trial, obj: Object, undo: ExitStack) -> None:
    meta = obj["metadata"]
    trial.cluster.create(obj)
    undo.callback(
        trial.cluster.delete, obj["apiVersion"], obj["kind"], meta["name"], meta.get("namespace"), grace_seconds=1
    )


def _pod(trial: Trial, namespace: str, role: str, labels: Mapping[str, str], program: str, undo: ExitStack) -> str:
    """A pod that runs `program` once it is ready; how it is found."""
    (container,) = trial.worker("main")["spec"]["containers"]
    name = f"mxtrial-{role}-{secrets.token_hex(3)}"
    own = {**labels, "mxbundle.io/trial": name}
    mine: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": own},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "python",
                    "image": container["image"],
                    "command": ["python3", "-I", "-c", program],
                    "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"memory": "96Mi"}},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
    _made(trial, mine, undo)
    where = f"{namespace} mxbundle.io/trial={name}"
    deadline = time.monotonic() + STARTS_WITHIN_SECONDS
    while not [pod for pod in trial.pods(*where.split(" ", 1)) if is_ready(pod)]:
        if time.monotonic() > deadline:
            raise Wrong(f"pod {namespace}/{name} of the case is not ready after {STARTS_WITHIN_SECONDS:.0f} s")
        time.sleep(0.5)
    return where


def _ready(trial: Trial, where: str) -> Pod:
    return first([pod for pod in trial.pods(*where.split(" ", 1)) if is_ready(pod)], f"ready pod {where}")


def _asked(trial: Trial, asking: Pod, how: Brought, host: str) -> None:
    network = pods.network_of_object(trial.site, asking)
    words = [how.scheme, host, str(how.port), how.path, str(ASK_SECONDS)]
    command = network.command(sys.executable, "-I", "-S", "-c", _ASK, *words)
    told = json.loads(run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
    if "fault" in told:
        raise Disproved(f"{how.scheme} {host}:{how.port}: {told['fault']}")
    if how.says not in told["body"]:
        raise Disproved(f"{how.scheme} {host}:{how.port} answers {told['status']} without {how.says}")

"""Runs on the operator's host: which certificate each server of the system really shows, as one JSON line.

Through `kubectl port-forward`, one pod after the other: no policy stands in between, and no Service picks a pod.
The handshake is a client's that checks nothing; servers that want a client's certificate have shown theirs by then
(TLS 1.3). `server` names what was asked, `secret` is what it should show, `serial` the certificate's, or why there is
none.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import struct
import subprocess
from dataclasses import dataclass
from typing import Any

from cryptography import x509

POSTGRESQL_WANTS_TLS = struct.pack("!ii", 8, 80877103)
"""SSLRequest: PostgreSQL, protocol-message-formats."""
ANSWER_SECONDS = 15.0


@dataclass(frozen=True)
class Servers:
    """Pods of one kind, the port where they speak TLS, and whose certificate they show (`namespace/secret`)."""

    namespace: str
    labels: str
    port: int
    secret: str
    postgresql: bool = False


VALKEY = "app.kubernetes.io/name=valkey,app.kubernetes.io/component"
POSTGRESQL = "cnpg.io/cluster=postgres,cnpg.io/podRole=instance"
OPERATOR = "app.kubernetes.io/name=cloudnative-pg"
EVERYBODY = (
    Servers("matrix", "app.kubernetes.io/component=routing", 8443, "matrix/edge-tls"),
    Servers("matrix-data", POSTGRESQL, 5432, "matrix-data/postgres-server-tls", postgresql=True),
    Servers(
        "matrix-data", "cnpg.io/poolerName=postgres-pooler", 5432, "matrix-data/postgres-pooler-tls", postgresql=True
    ),
    Servers("matrix-data", f"{VALKEY}=server", 6379, "matrix-data/valkey-tls"),
    Servers("matrix-data", f"{VALKEY}=sentinel", 26379, "matrix-data/valkey-tls"),
    # It passes on what the master shows: what a client sees.
    Servers("matrix-data", f"{VALKEY}=proxy", 6379, "matrix-data/valkey-tls"),
    Servers("cnpg-system", "app=barman-cloud", 9090, "cnpg-system/barman-cloud-server-tls"),
    Servers("cnpg-system", OPERATOR, 9443, "cnpg-system/cnpg-webhook-cert"),
)


def main() -> None:
    """Ask everybody once."""
    shown: list[dict[str, Any]] = []
    for servers in EVERYBODY:
        for pod in pods(servers):
            try:
                serial = ask(servers, pod)
            except (OSError, ValueError) as fault:
                serial = f"none: {fault!r}"
            server = f"{servers.namespace}/{pod}:{servers.port}"
            shown.append({"server": server, "secret": servers.secret, "serial": serial})
    print(json.dumps(shown))


def pods(servers: Servers) -> list[str]:
    """The names of the pods that run."""
    asked = ["kubectl", "-n", servers.namespace, "get", "pods", "-l", servers.labels, "-o", "json"]
    items = json.loads(subprocess.run(asked, check=True, capture_output=True, timeout=60).stdout)["items"]
    return [
        pod["metadata"]["name"]
        for pod in items
        if pod["status"].get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")
    ]


def ask(servers: Servers, pod: str) -> str:
    """The serial number of what `pod` shows, in hex. Raises OSError, ValueError."""
    forward = ["kubectl", "-n", servers.namespace, "port-forward", "--address", "127.0.0.1", f"pod/{pod}"]
    with subprocess.Popen(
        [*forward, "--pod-running-timeout=10s", f":{servers.port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as forwarding:
        try:
            assert forwarding.stdout is not None
            said = forwarding.stdout.readline()
            found = re.search(r"127\.0\.0\.1:(\d+) ->", said)
            if found is None:
                raise ValueError(said.strip() or "kubectl port-forward said nothing")
            return handshake(int(found[1]), postgresql=servers.postgresql)
        finally:
            forwarding.terminate()


def handshake(port: int, *, postgresql: bool) -> str:
    """The serial number of the certificate that is shown at a port of this host. Raises OSError, ValueError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as raw:
        if postgresql:
            raw.sendall(POSTGRESQL_WANTS_TLS)
            if (answer := raw.recv(1)) != b"S":
                raise ValueError(f"PostgreSQL answers {answer!r} to the wish for TLS")
        with context.wrap_socket(raw) as talking:
            shown = talking.getpeercert(binary_form=True)
    if shown is None:
        raise ValueError("no certificate was shown")
    return f"{x509.load_der_x509_certificate(shown).serial_number:x}"


if __name__ == "__main__":
    main()

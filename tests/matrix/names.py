"""Whether pods get names resolved: a real question to the cluster's DNS from inside each pod's own network."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from subprocess import run

from mxinstall.proof.reach import is_ready
from mxinstall.proof.steps import Disproved

from darksite import pods
from tests.matrix.trial import Trial, first

ASK_SECONDS = 3.0
_ASK = """
import socket, struct, sys
server, name, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
question = labels + bytes(1) + struct.pack("!HH", 1, 1)
try:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(seconds)
        sender.connect((server, 53))
        sender.send(struct.pack("!HHHHHH", 4711, 0x0100, 1, 0, 0, 0) + question)
        identity, flags, _, answers, _, _ = struct.unpack("!HHHHHH", sender.recv(1500)[:12])
    told = "resolved" if identity == 4711 and flags & 15 == 0 and answers else f"no answer, code {flags & 15}"
except OSError as fault:
    told = str(fault) or type(fault).__name__
print(told)
"""


def resolved(trial: Trial, asking: Iterable[str], name: str) -> None:
    """One ready pod of each `NAMESPACE LABELS` asks for `name`, a name of the cluster. Raises Disproved."""
    service = trial.cluster.get("v1", "Service", "kube-dns", "kube-system")
    server = str((service or {})["spec"]["clusterIP"])
    for where in asking:
        pod = first([one for one in trial.pods(*where.split(" ", 1)) if is_ready(one)], f"ready pod {where}")
        command = pods.network_of_object(trial.site, pod).command(
            sys.executable, "-I", "-S", "-c", _ASK, server, name, str(ASK_SECONDS)
        )
        told = run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
        if told != "resolved":
            raise Disproved(f"{pod['metadata']['namespace']}/{pod['metadata']['name']} asked for {name}: {told}")

"""A pod's network from inside: real packets from it and to it, whatever its image has or has not.

Programs of this machine run in the network namespace of the pod's sandbox; nothing of the pod is changed.
"""

import json
import subprocess
import sys
from dataclasses import dataclass

from darksite import cluster, machines, nodes
from darksite.errors import DarkSiteError
from darksite.site import Site

_CONNECT = """
import socket, sys, time
protocol, host, port, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
try:
    if protocol == "TCP":
        socket.create_connection((host, port), timeout=seconds).close()
    else:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.settimeout(seconds)
            sender.connect((host, port))
            sender.send(b"anybody there?")
            sender.recv(1500)
except TimeoutError:
    print("silence")
except OSError as fault:
    print(fault.strerror or fault)
else:
    print("answered")
"""


class PodNotFoundError(DarkSiteError):
    """The pod does not run, or its sandbox is not to be found on its node."""


@dataclass(frozen=True)
class PodNetwork:
    """The network namespace of one running pod."""

    site: Site
    namespace: str
    name: str
    node: str
    address: str
    prefix: tuple[str, ...]
    """The words before a command that make it run in the pod's network."""

    def command(self, *words: str) -> list[str]:
        """The command line that runs `words` in the pod's network."""
        return [*self.prefix, *words]

    def connect(self, host: str, port: int, protocol: str = "TCP", seconds: float = 2.0) -> str:
        """`answered` when HOST:PORT takes a connection (TCP) or answers a datagram (UDP) within `seconds`.

        Else what the kernel said: `Connection refused` (also when a policy rejects it), or `silence`.
        """
        arguments = ["-I", "-S", "-c", _CONNECT, protocol, host, str(port), str(seconds)]
        done = subprocess.run(
            self.command(sys.executable, *arguments), capture_output=True, text=True, check=True, timeout=seconds + 30
        )
        return done.stdout.strip()


def network_of(site: Site, namespace: str, name: str) -> PodNetwork:
    """The network of a running pod that has one of its own. Raises `PodNotFoundError`."""
    told = cluster.kubectl(site, f"--namespace={namespace}", "get", "pod", name, "--output=json", check=False)
    if told.returncode != 0:
        raise PodNotFoundError(told.stderr.strip())
    return network_of_object(site, json.loads(told.stdout))


def network_of_object(site: Site, pod: dict[str, object]) -> PodNetwork:
    """As `network_of`, for a pod as the API server shows it."""
    metadata, spec, status = (dict(pod[part]) for part in ("metadata", "spec", "status"))  # type: ignore[call-overload]
    named = f"{metadata['namespace']}/{metadata['name']}"
    node = site.node(str(spec["nodeName"]))
    labels = f'labels."io.kubernetes.pod.uid"=={metadata["uid"]},labels."io.cri-containerd.kind"==sandbox'
    sandboxes = nodes.ctr(site, node, "containers", "ls", "-q", labels).stdout.split()
    tasks = [line.split() for line in nodes.ctr(site, node, "tasks", "ls").stdout.splitlines()]
    running = [task[1] for task in tasks if task[0] in sandboxes and task[2] == "RUNNING"]
    if not running:
        raise PodNotFoundError(f"{named} has no running sandbox on {node.name}")
    inside = ("nsenter", f"--net=/proc/{running[-1]}/ns/net", "--")
    prefix = (*machines.enter(site, node), *inside)
    return PodNetwork(
        site, str(metadata["namespace"]), str(metadata["name"]), node.name, str(status.get("podIP", "")), prefix
    )

"""What a dark site consists of: its machines, addresses, namespaces and folders. Frozen; it touches nothing.

Every site has the same addresses: sites share no link with each other, nor with the machine that they run on.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

DEFAULT_NAME = "demo"
STATE_ROOT = Path("/var/lib/mxdark")
LAN = "10.90.0.0/24"
POD_RANGE = "10.90.128.0/17"
SERVICE_RANGE = "10.96.0.0/16"
SERVICE_API = "10.96.0.1"
SERVICE_DNS = "10.96.0.10"
CLUSTER_DOMAIN = "cluster.local"
API_PORT = 6443
REGISTRY_PORT = 5000
"""Where the installer's carried registry listens on the operator's host."""


@dataclass(frozen=True)
class Machine:
    """One machine of the site: a network namespace and, but for the operator's, namespaces of processes and mounts."""

    site: str
    name: str
    address: str

    @property
    def namespace(self) -> str:
        """The name of its network namespace, as `ip netns` shows it."""
        return f"mxd-{self.site}-{self.name}"

    @property
    def namespace_path(self) -> Path:
        """Where its network namespace is mounted."""
        return Path("/run/netns") / self.namespace

    @property
    def folder(self) -> Path:
        """Where its own parts of the file system are kept."""
        return STATE_ROOT / self.site / "machines" / self.name

    @property
    def cgroup(self) -> str:
        """Its cgroup, relative to the root of each hierarchy."""
        return f"mxdark/{self.site}/{self.name}"


@dataclass(frozen=True)
class Node(Machine):
    """A machine that runs pods, with a subnet for them."""

    pod_subnet: str
    zone: str


@dataclass(frozen=True)
class Site:
    """A site by name. Raises `ValueError` for a name that is not 1 to 8 lower-case letters and digits."""

    name: str = DEFAULT_NAME
    node_count: int = 3

    def __post_init__(self) -> None:
        # Interface and namespace names are short, and the name stands in paths.
        if not re.fullmatch(r"[a-z][a-z0-9]{0,7}", self.name):
            raise ValueError(f"{self.name!r} is not a site name: 1 to 8 lower-case letters and digits")

    @classmethod
    def from_environment(cls) -> "Site":
        """The site that `$MXDARK_SITE` names, else the default one."""
        return cls(os.environ.get("MXDARK_SITE") or DEFAULT_NAME)

    @property
    def operator(self) -> Machine:
        """The operator's install host. It has a link to the LAN and no route beyond it."""
        return Machine(self.name, "op", "10.90.0.100")

    @property
    def control_plane(self) -> Machine:
        """etcd, API server, controller manager and scheduler."""
        return Machine(self.name, "cp", "10.90.0.10")

    @property
    def backup_host(self) -> Machine:
        """The machine of the LAN that keeps backups. It is no part of the cluster."""
        return Machine(self.name, "bk", "10.90.0.90")

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes, n1 first."""
        return tuple(
            Node(
                self.name,
                f"n{number}",
                f"10.90.0.{10 + number}",
                pod_subnet=f"10.90.{128 + number}.0/24",
                zone=f"rack-{number}",
            )
            for number in range(1, self.node_count + 1)
        )

    @property
    def machines(self) -> tuple[Machine, ...]:
        """Every machine on the LAN."""
        return (self.operator, self.control_plane, self.backup_host, *self.nodes)

    @property
    def lan_namespace(self) -> str:
        """The namespace of the switch: a bridge and nothing else."""
        return f"mxd-{self.name}-lan"

    @property
    def state(self) -> Path:
        """Everything this site writes, its cgroups and namespaces aside."""
        return STATE_ROOT / self.name

    @property
    def logs(self) -> Path:
        """One file per daemon."""
        return self.state / "logs"

    @property
    def pki(self) -> Path:
        """Keys and certificates, before they are given to the machines."""
        return self.state / "pki"

    @property
    def kubeconfig(self) -> Path:
        """The operator's: cluster-admin."""
        return self.state / "operator.kubeconfig"

    @property
    def installer_state(self) -> Path:
        """What `mxinstall` keeps on the operator's host, in the demo and the tests."""
        return self.state / "mxinstall"

    @property
    def api_url(self) -> str:
        """Where the API server is reached from every machine of the site."""
        return f"https://{self.control_plane.address}:{API_PORT}"

    @property
    def registry(self) -> str:
        """host:port of the registry inside the site."""
        return f"{self.operator.address}:{REGISTRY_PORT}"

    def node(self, name: str) -> Node:
        """The node called `name`. Raises `KeyError`."""
        return {node.name: node for node in self.nodes}[name]

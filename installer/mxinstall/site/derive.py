"""A `site.yaml` for a cluster that nobody has described yet: chosen by looking, and every choice said.

Reads the cluster, changes nothing. What cannot be found out is a default that the operator may edit.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, Protocol
from urllib.parse import urlsplit

from mxinstall.site.model import EdgePlan, Hosts, Metadata, NetworkPlan, RegistryPlan, Site, SiteSpec, StoragePlan
from sitebundle.errors import StorageClassMissing
from sitebundle.manifest import BundleManifest
from sitebundle.stack import Stack

REGISTRY_PORT = 5000
_DEFAULT_CLASS = ("storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class")


class Looks(Protocol):
    """The part of `mxinstall.cluster.Cluster` that deriving needs."""

    server: str

    def list(self, api_version: str, kind: str, /) -> list[dict[str, Any]]: ...


@dataclass(frozen=True)
class Choice:
    """One value that was chosen, and why."""

    field: str
    value: str
    why: str

    def __str__(self) -> str:
        return f"{self.field}: {self.value} ({self.why})"


def derive(cluster: Looks, manifest: BundleManifest, stack: Stack, name: str = "site-1") -> tuple[Site, list[Choice]]:
    """A site that fits what is seen, and the choices made. Raises StorageClassMissing when there is no class."""
    nodes = cluster.list("v1", "Node")
    node_address = next((address for node in nodes if (address := internal_address(node))), None)
    own = own_address(node_address or (urlsplit(cluster.server).hostname or "127.0.0.1"))
    storage_class, why_class = _storage_class(cluster.list("storage.k8s.io/v1", "StorageClass"))
    api_server, api_server_ports = api_server_of(cluster.list("discovery.k8s.io/v1", "EndpointSlice"), nodes)
    profile = manifest.profile if manifest.profile in stack.profiles else stack.profiles[0]
    server_name = f"{name}.site"
    registry = f"{own}:{REGISTRY_PORT}"
    site = Site(
        metadata=Metadata(name=name),
        spec=SiteSpec(
            profile=profile,
            server_name=server_name,
            hosts=Hosts(
                matrix=f"matrix.{server_name}",
                element=f"chat.{server_name}",
                call=f"call.{server_name}",
                rtc=f"rtc.{server_name}",
                admin=f"admin.{server_name}",
            ),
            registry=RegistryPlan(push=registry, pull=registry),
            storage=StoragePlan(default=storage_class, database=storage_class, objects=storage_class),
            edge=EdgePlan(address=node_address or own),
            network=NetworkPlan(api_server=api_server, api_server_ports=api_server_ports),
        ),
    )
    return site, [
        Choice("metadata.name", name, "a default"),
        Choice("spec.profile", profile, "what the bundle was built for"),
        Choice("spec.serverName", server_name, "from the site's name; it can never be changed after the install"),
        Choice("spec.hosts", f"*.{server_name}", "from the server name"),
        Choice("spec.registry", registry, "this host's address towards the nodes"),
        Choice("spec.storage", storage_class, why_class),
        Choice("spec.edge.address", site.spec.edge.address, "the first node's address"),
        Choice(
            "spec.network.apiServer",
            ", ".join(api_server) or "any address",
            "where Service kubernetes leads, and the other addresses of the nodes that are there",
        ),
        Choice("spec.network.apiServerPorts", ", ".join(map(str, api_server_ports)), "the Service's and its own"),
        Choice(
            "spec.ports",
            f"relay {site.spec.ports.turn.relay}, media {site.spec.ports.livekit.udp}",
            "above the ports that the kernel hands out by itself",
        ),
    ]


def own_address(peer: str) -> str:
    """The address of this host that packets to `peer` leave from; nothing is sent."""
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((peer, 9))
        except OSError:
            return "127.0.0.1"
        address: str = probe.getsockname()[0]
    return f"[{address}]" if ":" in address else address


def internal_address(node: dict[str, Any]) -> str | None:
    """The first address that a node has inside the cluster's network."""
    addresses = node.get("status", {}).get("addresses", [])
    return next((entry["address"] for entry in addresses if entry.get("type") == "InternalIP"), None)


def api_server_of(slices: list[dict[str, Any]], nodes: list[dict[str, Any]]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The addresses behind Service `kubernetes`, each as a range of its own, and the ports of the API server.

    An address that is a node's brings what else packets of that node may come from: its other addresses, and the first
    one of its range of pods, which the devices of overlay networks (flannel's VXLAN) have.
    """
    found = [
        entry
        for entry in slices
        if entry["metadata"].get("namespace") == "default"
        and (entry["metadata"].get("labels") or {}).get("kubernetes.io/service-name") == "kubernetes"
    ]
    addresses = {
        ip_address(address)
        for entry in found
        for endpoint in entry.get("endpoints") or ()
        for address in endpoint["addresses"]
    }
    for node in nodes:
        own = {ip_address(address) for address in _addresses(node)}
        if own & addresses:
            addresses |= own
            addresses |= {ip_network(pods).network_address for pods in node.get("spec", {}).get("podCIDRs") or ()}
    ports = {int(port["port"]) for entry in found for port in entry.get("ports") or () if port.get("port")}
    ranges = tuple(str(ip_network(address)) for address in sorted(addresses, key=str))
    return ranges, tuple(sorted({443, *(ports or {6443})}))


def _addresses(node: dict[str, Any]) -> list[str]:
    told = node.get("status", {}).get("addresses", [])
    return [entry["address"] for entry in told if entry.get("type") in ("InternalIP", "ExternalIP")]


def default_classes(classes: list[dict[str, Any]]) -> list[str]:
    """The names of the StorageClasses that are marked as the cluster's default, sorted."""
    return sorted(
        entry["metadata"]["name"]
        for entry in classes
        if any((entry["metadata"].get("annotations") or {}).get(key) == "true" for key in _DEFAULT_CLASS)
    )


def _storage_class(classes: list[dict[str, Any]]) -> tuple[str, str]:
    names = sorted(entry["metadata"]["name"] for entry in classes)
    defaults = default_classes(classes)
    if defaults:
        return defaults[0], "the cluster's default StorageClass"
    if len(names) == 1:
        return names[0], "the only StorageClass"
    if names:
        return names[0], f"the first of {', '.join(names)}; none is the default"
    raise StorageClassMissing(wanted="any StorageClass", known="none")

"""What a cluster and this host tell a `site.yaml`: looked at once, changed nothing, and what could not be seen is said.

Only what a newcomer may be refused is optional: nodes, StorageClasses and the API server's addresses must be readable.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from mxinstall.site.derive import REGISTRY_PORT, Looks, api_server_of, default_classes, internal_address, own_address
from mxinstall.site.model import DnsPlan
from sitebundle.errors import ClusterRefused

Object = dict[str, Any]

_DNS_SERVICES = ("kube-dns", "coredns", "rke2-coredns-rke2-coredns", "dns-default")
_NETWORKS = {
    "cilium": "Cilium",
    "calico-node": "Calico",
    "canal": "Canal",
    "kube-router": "kube-router",
    "antrea-agent": "Antrea",
    "weave-net": "Weave Net",
    "ovnkube-node": "OVN-Kubernetes",
    "kube-flannel-ds": "flannel, which does not enforce network policies by itself",
    "kube-flannel": "flannel, which does not enforce network policies by itself",
}
_POOLS = (
    ("metallb.io/v1beta1", "IPAddressPool"),
    ("cilium.io/v2", "CiliumLoadBalancerIPPool"),
    ("cilium.io/v2alpha1", "CiliumLoadBalancerIPPool"),
)
_SUGGESTED = 3
_CONNECT_SECONDS = 2.0


@dataclass(frozen=True)
class StorageClass:
    """A class, who provides it, and whether the cluster takes it by default."""

    name: str
    provisioner: str
    default: bool


@dataclass(frozen=True)
class Node:
    """A node: its address inside the cluster's network, whether ordinary pods come to it, its labels."""

    name: str
    address: str | None
    usable: bool
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """Everything. `unseen`: what could not be looked at, in words."""

    server: str
    own: str
    registry_port: int
    nodes: tuple[Node, ...]
    classes: tuple[StorageClass, ...]
    api_server: tuple[str, ...]
    api_server_ports: tuple[int, ...]
    dns: DnsPlan = field(default_factory=DnsPlan)
    dns_from: str = "the usual one"
    network: str | None = None
    free_addresses: tuple[str, ...] = ()
    pod_ranges: tuple[IPv4Network | IPv6Network, ...] = ()
    service_ranges: tuple[IPv4Network | IPv6Network, ...] = ()
    unseen: tuple[str, ...] = ()

    @property
    def usable(self) -> tuple[Node, ...]:
        """The nodes that ordinary pods come to."""
        return tuple(node for node in self.nodes if node.usable)


def look(cluster: Looks) -> Seen:
    """Look at all. Raises ClusterRefused and ClusterUnreachable for what no site can be written without."""
    unseen: list[str] = []

    def optional(version: str, kind: str) -> list[Object]:
        try:
            return cluster.list(version, kind)
        except ClusterRefused as refusal:
            unseen.append(f"{kind} ({refusal.fields.get('status', 'refused')})")
            return []

    nodes = cluster.list("v1", "Node")
    slices = cluster.list("discovery.k8s.io/v1", "EndpointSlice")
    storage = cluster.list("storage.k8s.io/v1", "StorageClass")
    defaults = default_classes(storage)
    services = optional("v1", "Service")
    daemons = optional("apps/v1", "DaemonSet")
    pools = [block for version, kind in _POOLS for pool in optional(version, kind) for block in _blocks(pool)]
    ranges = optional("networking.k8s.io/v1", "ServiceCIDR")
    address = next((found for node in nodes if (found := internal_address(node))), None)
    own = own_address(address or (urlsplit(cluster.server).hostname or "127.0.0.1"))
    api_server, ports = api_server_of(slices, nodes)
    dns, dns_from = _dns(services, slices, daemons)
    return Seen(
        server=cluster.server,
        own=own,
        registry_port=_registry_port(own),
        nodes=tuple(map(_node, nodes)),
        classes=tuple(
            _class(entry, defaults) for entry in sorted(storage, key=lambda entry: entry["metadata"]["name"])
        ),
        api_server=api_server,
        api_server_ports=ports,
        dns=dns,
        dns_from=dns_from,
        network=next((_NETWORKS[n] for entry in daemons if (n := entry["metadata"]["name"]) in _NETWORKS), None),
        free_addresses=tuple(map(str, islice(_free(pools, services), _SUGGESTED))),
        pod_ranges=tuple({ip_network(text) for node in nodes for text in node.get("spec", {}).get("podCIDRs") or ()}),
        service_ranges=tuple(ip_network(text) for entry in ranges for text in entry.get("spec", {}).get("cidrs") or ()),
        unseen=tuple(dict.fromkeys(unseen)),
    )


def registry_answers(address: str) -> bool:
    """Whether somebody takes connections at HOST:PORT; bounded to a few seconds, sends nothing."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def _registry_port(own: str) -> int:
    """The usual port, or the next one that nobody but a registry holds on this host."""
    from mxinstall.registry.listeners import listener_at

    for port in range(REGISTRY_PORT, REGISTRY_PORT + 10):
        found = listener_at(own, port)
        if found is None or found.program == "registry":
            return port
    return REGISTRY_PORT


def _node(node: Object) -> Node:
    spec, status = node.get("spec", {}), node.get("status", {})
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
    closed = spec.get("unschedulable") or any(
        taint.get("effect") in ("NoSchedule", "NoExecute") for taint in spec.get("taints") or ()
    )
    metadata = node.get("metadata", {})
    return Node(
        str(metadata.get("name", "")), internal_address(node), ready and not closed, dict(metadata.get("labels") or {})
    )


def _class(entry: Object, defaults: Iterable[str]) -> StorageClass:
    name = entry["metadata"]["name"]
    return StorageClass(name, str(entry.get("provisioner", "an unknown provisioner")), name in defaults)


def _dns(services: list[Object], slices: list[Object], daemons: list[Object]) -> tuple[DnsPlan, str]:
    """The pods behind the cluster's DNS Service, the ports that they listen on, and a cache on each node."""
    caches = tuple(
        f"{address}/{ip_address(address).max_prefixlen}"
        for entry in daemons
        if entry["metadata"]["name"] == "node-local-dns"
        for container in entry["spec"]["template"]["spec"].get("containers") or ()
        for address in _local_addresses(container.get("args") or ())
    )
    beside = " and the cache on each node" if caches else ""
    found = next((entry for name in _DNS_SERVICES for entry in services if entry["metadata"]["name"] == name), None)
    if found is None:
        return DnsPlan(addresses=caches), f"the usual one; no Service of it was seen{beside}"
    name, namespace = found["metadata"]["name"], found["metadata"]["namespace"]
    ports = {
        int(port["port"])
        for entry in slices
        if entry["metadata"].get("namespace") == namespace
        and (entry["metadata"].get("labels") or {}).get("kubernetes.io/service-name") == name
        for port in entry.get("ports") or ()
        if port.get("port") and str(port.get("name", "dns")).startswith("dns")
    }
    labels = dict(found["spec"].get("selector") or {})
    plan = DnsPlan(
        namespace=namespace,
        labels={} if labels == {"k8s-app": "kube-dns"} else labels,
        ports=tuple(sorted(ports)) or (53,),
        addresses=caches,
    )
    return plan, f"Service {namespace}/{name}{beside}"


def _local_addresses(arguments: Iterable[str]) -> Iterator[str]:
    words = list(arguments)
    for place, word in enumerate(words):
        text = word.partition("=")[2] if word.startswith(("-localip=", "--localip=")) else ""
        if word in ("-localip", "--localip") and place + 1 < len(words):
            text = words[place + 1]
        for part in filter(None, text.split(",")):
            # The other addresses of the cache are the Service's own.
            if re.match(r"169\.254\.|fe80:", part):
                yield part


def _blocks(pool: Object) -> Iterator[tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address]]:
    """First and last address of each block of a load balancer's pool."""
    spec = pool.get("spec") or {}
    texts = [*(spec.get("addresses") or ())]
    for block in spec.get("blocks") or ():
        texts.append(block.get("cidr") or f"{block.get('start')}-{block.get('stop') or block.get('start')}")
    for text in texts:
        try:
            if "-" in text:
                first, _, last = text.partition("-")
                yield ip_address(first.strip()), ip_address(last.strip())
            else:
                network = ip_network(text.strip(), strict=False)
                yield network[0], network[-1]
        except ValueError:
            continue


def _free(
    blocks: Iterable[tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address]], services: Iterable[Object]
) -> Iterator[IPv4Address | IPv6Address]:
    """Addresses of the pools that no Service has, in order; of one block the first thousand are looked at."""
    taken = {
        entry.get("ip")
        for service in services
        for entry in ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    }
    for first, last in blocks:
        for number in range(int(first), min(int(last), int(first) + 1000) + 1):
            address = ip_address(number) if first.version == 4 else IPv6Address(number)
            ends = first.version == 4 and str(address).rpartition(".")[2] in ("0", "255") and first != last
            if str(address) not in taken and not ends:
                # A pool may be listed under two versions of its kind.
                taken.add(str(address))
                yield address

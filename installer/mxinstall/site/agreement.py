"""The values of a `site.yaml` against each other: each rule has an id, and says which field, what it met, what to do.

Pure. A rule that needs the bundle or the cluster is asked only where they are at hand. A rule of severity `fail` keeps
an install from working; `warn` is for what works, but hardly as somebody meant it. Not here: one value by itself
(`model`), and what only a look at the site can tell (`mxinstall.preflight`).
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from mxinstall.site.faults import Fault
from mxinstall.site.model import PortRange, Site
from mxinstall.site.source import PathParts, Source, dotted

if TYPE_CHECKING:
    from mxinstall.site.bundle_values import BundleValues

Severity = Literal["fail", "warn"]
Network = IPv4Network | IPv6Network

NODE_PORTS = PortRange("30000-32767")
"""The API server's default; it tells nobody another one."""
_KUBERNETES_PORTS = {2379: "etcd", 2380: "etcd", 10248: "the kubelet", 10250: "the kubelet", 10256: "kube-proxy"}
_EDGE_PORTS = {80: "http", 443: "https"}
_MOST_OF_A_TYPE = 100
_WORKER_FIELDS = ("replicas", "resources", "connections", "streams", "autoscaling")
_ONE_WRITER = ("typing", "to_device", "account_data", "presence", "push_rules")
"""Streams that Synapse lets one process write, by its own page on workers."""
_INSIDE = re.compile(r"(\.|^)svc(\..*)?$|\.cluster\.local$", re.IGNORECASE)


@dataclass(frozen=True)
class ClusterFacts:
    """What is known of the cluster; None where nobody could look."""

    storage_classes: tuple[str, ...] | None = None
    pod_ranges: tuple[Network, ...] = ()
    service_ranges: tuple[Network, ...] = ()


@dataclass(frozen=True)
class Known:
    """A site, and what else is at hand."""

    site: Site
    bundle: BundleValues | None = None
    cluster: ClusterFacts | None = None


@dataclass(frozen=True)
class Met:
    """What a rule met at one field."""

    path: PathParts
    seen: str
    todo: str


@dataclass(frozen=True)
class Rule:
    """One declared rule. `needs`: what must be at hand beside the file."""

    id: str
    title: str
    severity: Severity
    needs: Literal["file", "bundle", "cluster"]
    find: Callable[[Known], Iterator[Met]]


@dataclass(frozen=True)
class Disagreement:
    """A rule that a site breaks, and where."""

    rule: Rule
    met: Met

    @property
    def field(self) -> str:
        """The dotted path."""
        return dotted(self.met.path)

    def as_fault(self, source: Source | None = None) -> Fault:
        """With line and column where the file is at hand."""
        place = source.place(self.met.path, of_value=True) if source else (None, None)
        return Fault(self.rule.id, self.field, self.met.seen, self.met.todo, *place)


RULES: dict[str, Rule] = {}
"""All rules by id, in the order of declaration."""

_Finder = Callable[[Known], Iterator[Met]]


def rule(
    identity: str,
    title: str,
    severity: Severity = "fail",
    needs: Literal["file", "bundle", "cluster"] = "file",
) -> Callable[[_Finder], _Finder]:
    """Declare the decorated generator as a rule."""

    def declare(find: _Finder) -> _Finder:
        if identity in RULES:
            raise TypeError(f"rule id {identity!r} is taken")
        RULES[identity] = Rule(identity, title, severity, needs, find)
        return find

    return declare


def disagreements(
    site: Site, bundle: BundleValues | None = None, cluster: ClusterFacts | None = None
) -> list[Disagreement]:
    """Every rule that the site breaks, of those for which enough is at hand."""
    known = Known(site, bundle, cluster)
    at_hand = {"file", *(["bundle"] if bundle else []), *(["cluster"] if cluster else [])}
    return [Disagreement(entry, met) for entry in RULES.values() if entry.needs in at_hand for met in entry.find(known)]


# --- names ----------------------------------------------------------------------------------------------------


def _hosts(site: Site) -> dict[str, str]:
    return {name: value for name, value in site.spec.hosts.model_dump().items() if value}


def _domain(server_name: str) -> str:
    return server_name.partition(":")[0]


@rule("hosts.distinct", "No two services have one public name")
def _(known: Known) -> Iterator[Met]:
    hosts, domain = _hosts(known.site), _domain(known.site.spec.server_name)
    todo = "give each service a name of its own"
    for (one, name), (other, same) in itertools.combinations(hosts.items(), 2):
        if name == same:
            yield Met(("spec", "hosts", other), f"{name} is also spec.hosts.{one}", todo)
    for service, name in hosts.items():
        # The homeserver may have the server's own name: whoever looks for the server finds it there.
        if service != "matrix" and name == domain:
            seen = f"{name} is also spec.serverName, under which the homeserver answers"
            yield Met(("spec", "hosts", service), seen, todo)


@rule("hosts.names", "Public names are names, not addresses")
def _(known: Known) -> Iterator[Met]:
    named: dict[PathParts, str] = {("spec", "serverName"): _domain(known.site.spec.server_name)}
    named |= {("spec", "hosts", service): name for service, name in _hosts(known.site).items()}
    for path, name in named.items():
        if name.rpartition(".")[2].isdigit():
            yield Met(path, f"{name} is no name that a certificate can be made for", "write a name that DNS knows")


# --- ports ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Claim:
    path: PathParts
    ports: PortRange
    protocols: frozenset[str]

    @property
    def name(self) -> str:
        return f"{dotted(self.path)} ({self.ports.first if self.ports.first == self.ports.last else self.ports})"


def _claims(site: Site) -> list[_Claim]:
    turn, livekit = site.spec.ports.turn, site.spec.ports.livekit
    both, udp, tcp = frozenset({"udp", "tcp"}), frozenset({"udp"}), frozenset({"tcp"})
    return [
        _Claim(("spec", "ports", "turn", "listen"), PortRange(f"{turn.listen}-{turn.listen}"), both),
        _Claim(("spec", "ports", "turn", "tls"), PortRange(f"{turn.tls}-{turn.tls}"), both),
        _Claim(("spec", "ports", "turn", "relay"), turn.relay, udp),
        _Claim(("spec", "ports", "livekit", "tcp"), PortRange(f"{livekit.tcp}-{livekit.tcp}"), tcp),
        _Claim(("spec", "ports", "livekit", "udp"), livekit.udp, udp),
    ]


@rule("ports.disjoint", "The ranges of the port plan do not overlap")
def _(known: Known) -> Iterator[Met]:
    for one, other in itertools.combinations(_claims(known.site), 2):
        if one.protocols & other.protocols and one.ports.overlaps(other.ports.first, other.ports.last):
            first, last = max(one.ports.first, other.ports.first), min(one.ports.last, other.ports.last)
            ports = f"port {first}" if first == last else f"ports {first}-{last}"
            yield Met(other.path, f"{ports} also belong{'s' * (first == last)} to {one.name}", "move one of the two")


@rule("ports.node-ports", "The port plan stays out of the NodePort range")
def _(known: Known) -> Iterator[Met]:
    for claim in _claims(known.site):
        if claim.ports.overlaps(NODE_PORTS.first, NODE_PORTS.last):
            seen = f"{claim.name} reaches into the NodePorts {NODE_PORTS}, which kube-proxy takes"
            yield Met(claim.path, seen, "choose ports outside of them")


@rule("ports.kubernetes", "The port plan leaves a node's own ports alone")
def _(known: Known) -> Iterator[Met]:
    api = {port: "the API server" for port in known.site.spec.network.api_server_ports if port != 443}
    for claim in _claims(known.site):
        for port, owner in sorted({**_KUBERNETES_PORTS, **api}.items()):
            if "tcp" in claim.protocols and claim.ports.overlaps(port, port):
                yield Met(claim.path, f"port {port} is {owner}'s on a node", "choose another one")


@rule("ports.edge", "The port plan and the edge do not want one port", "warn")
def _(known: Known) -> Iterator[Met]:
    edge = dict(_EDGE_PORTS)
    if known.site.spec.federation.enabled and known.site.spec.federation.port != "delegated":
        edge[known.site.spec.federation.port] = "federation"
    for claim in _claims(known.site):
        for port, service in edge.items():
            if "tcp" in claim.protocols and claim.ports.overlaps(port, port):
                seen = f"TCP port {port} is also the edge's ({service})"
                yield Met(claim.path, seen, "choose another one, unless the edge has an address that is no node's")


# --- registry -------------------------------------------------------------------------------------------------


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]").lower(), int(port)


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or bool(address and address.is_loopback)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


@rule("registry.ports", "Ports beside a name are ports")
def _(known: Known) -> Iterator[Met]:
    spec = known.site.spec
    named: dict[PathParts, str] = {
        ("spec", "registry", "push"): spec.registry.push,
        ("spec", "registry", "pull"): spec.registry.pull,
        ("spec", "serverName"): spec.server_name,
        **{("spec", "federation", "allow", place): name for place, name in enumerate(spec.federation.allow)},
    }
    for path, text in named.items():
        port = re.search(r":([0-9]+)$", text)
        if port and not 1 <= int(port[1]) <= 65535:
            yield Met(path, f"{text}: {port[1]} is no port", "choose one of 1-65535")


@rule("registry.listens", "The carried registry listens where the nodes can reach it")
def _(known: Known) -> Iterator[Met]:
    registry = known.site.spec.registry
    (push, _), (pull, _) = _split(registry.push), _split(registry.pull)
    if registry.mode == "host" and _is_loopback(push) and not _is_loopback(pull):
        seen = f"the registry would listen on {push} alone, and nodes pull from {pull}"
        yield Met(("spec", "registry", "push"), seen, "write an address of this host that nodes reach")


@rule("registry.same", "Nodes pull from where the carried registry is filled", "warn")
def _(known: Known) -> Iterator[Met]:
    registry = known.site.spec.registry
    if (
        registry.mode != "host"
        or _split(registry.push) == _split(registry.pull)
        or _is_loopback(_split(registry.push)[0])
    ):
        return
    seen = f"the registry listens on {registry.push}, and nodes pull from {registry.pull}"
    yield Met(("spec", "registry", "pull"), seen, "write the same, unless something passes the one on to the other")


@rule("registry.loopback", "Nodes do not pull from themselves", "warn")
def _(known: Known) -> Iterator[Met]:
    pull = known.site.spec.registry.pull
    if _is_loopback(_split(pull)[0]):
        yield Met(("spec", "registry", "pull"), f"{pull} is another place on each node", "write what nodes reach it by")


@rule("registry.tls", "The carried registry is asked as it answers")
def _(known: Known) -> Iterator[Met]:
    registry = known.site.spec.registry
    if registry.mode == "host" and registry.scheme == "https":
        seen = "the carried registry has no certificate, and speaks http alone"
        yield Met(("spec", "registry", "scheme"), seen, "write http, or take an external registry: mode external")


@rule("registry.unused", "What the registry's other settings leave without effect is not set", "warn")
def _(known: Known) -> Iterator[Met]:
    registry = known.site.spec.registry
    if registry.ca is not None and registry.scheme == "http":
        seen = "a CA is given, and the registry is reached by http"
        yield Met(("spec", "registry", "ca"), seen, "write scheme: https, or take the line away")
    if registry.mode == "host" and registry.pull_secret is not None:
        seen = "the carried registry asks nobody for a password"
        yield Met(("spec", "registry", "pullSecret"), seen, "take the line away, or write mode: external")


# --- edge -----------------------------------------------------------------------------------------------------


@rule("edge.address", "The public names resolve to something that clients can reach")
def _(known: Known) -> Iterator[Met]:
    text = known.site.spec.edge.address
    address = _address(text)
    path = ("spec", "edge", "address")
    if address is None and not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", text):
        yield Met(path, f"{text[:80]!r} is neither an address nor a name", "write an address like 10.90.0.200")
    elif address is None and text.rpartition(".")[2].isdigit():
        yield Met(path, f"{text} is no address", "write four numbers of 0 to 255")
    elif address is not None and (address.is_unspecified or address.is_multicast):
        yield Met(path, f"{text} is nobody's address", "write the one that clients reach")


@rule("edge.loopback", "The public names do not lead each client to itself", "warn")
def _(known: Known) -> Iterator[Met]:
    text = known.site.spec.edge.address
    if _is_loopback(text):
        yield Met(("spec", "edge", "address"), f"{text} is each client itself", "write the one that clients reach")


@rule("edge.trusted-proxies", "Trusted proxies are addresses or ranges")
def _(known: Known) -> Iterator[Met]:
    for place, text in enumerate(known.site.spec.edge.trusted_proxies):
        try:
            ip_network(text, strict=False)
        except ValueError:
            seen = f"{text[:80]!r} is no address and no range"
            yield Met(("spec", "edge", "trustedProxies", place), seen, "write 10.90.0.1 or 10.90.0.0/24")


@rule("edge.trust-everybody", "Not everybody is a trusted proxy", "warn")
def _(known: Known) -> Iterator[Met]:
    for place, text in enumerate(known.site.spec.edge.trusted_proxies):
        if text.endswith("/0"):
            seen = f"{text} believes every client about its own address: limits on logins no longer hold"
            yield Met(("spec", "edge", "trustedProxies", place), seen, "name the proxies alone")


@rule("edge.two-addresses", "The edge asks for the address that the names resolve to", "warn")
def _(known: Known) -> Iterator[Met]:
    edge = known.site.spec.edge
    asked, told = edge.load_balancer_address, _address(edge.address)
    if asked is not None and told is not None and ip_address(asked) != told and not edge.trusted_proxies:
        seen = f"{asked} is asked for, and the public names resolve to {edge.address}"
        todo = "write the same, unless something passes the one on to the other"
        yield Met(("spec", "edge", "loadBalancerAddress"), seen, todo)


@rule("edge.no-load-balancer", "An address is asked for only where there is a load balancer", "warn", "bundle")
def _(known: Known) -> Iterator[Met]:
    kind = _edge_type(known)
    if known.site.spec.edge.load_balancer_address is not None and kind not in (None, "LoadBalancer"):
        seen = f"the edge of profile {known.site.spec.profile} is a {kind}, which asks for no address"
        yield Met(("spec", "edge", "loadBalancerAddress"), seen, "take the line away")


def _edge_type(known: Known) -> str | None:
    values = known.bundle.of("synapse") if known.bundle else None
    kind = _at(values, "edge", "service", "type")
    return str(kind) if kind else None


# --- federation -----------------------------------------------------------------------------------------------


@rule("federation.allow", "A server that federates names with whom")
def _(known: Known) -> Iterator[Met]:
    federation = known.site.spec.federation
    path = ("spec", "federation", "allow")
    if federation.enabled and not federation.allow:
        yield Met(path, "federation is on, and nobody is named", 'name the servers, or ["*"] for every one')
    elif "*" in federation.allow and len(federation.allow) > 1:
        yield Met(path, '"*" stands for every server, and others stand beside it', "leave one or the other")


@rule("federation.unused", "What federation needs is set only where it is on", "warn")
def _(known: Known) -> Iterator[Met]:
    federation = known.site.spec.federation
    if federation.enabled:
        return
    for field, spelt in (("allow", "allow"), ("peer_ports", "peerPorts")):
        if getattr(federation, field):
            seen = "federation is off, so that this has no effect"
            yield Met(("spec", "federation", spelt), seen, "write enabled: true, or take the line away")


@rule("federation.port", "Other servers reach this one where its name sends them", "warn")
def _(known: Known) -> Iterator[Met]:
    spec = known.site.spec
    _, _, port = spec.server_name.partition(":")
    if spec.federation.enabled and port and port != str(spec.federation.port):
        # A name with a port is used as it is, without /.well-known: Server-server API, "Resolving server names".
        seen = f"the server's name sends other servers to port {port}, and this says {spec.federation.port}"
        yield Met(("spec", "federation", "port"), seen, f"let something pass port {port} on to the edge")


@rule("federation.node-port", "The edge has a port that other servers expect", "warn", "bundle")
def _(known: Known) -> Iterator[Met]:
    federation = known.site.spec.federation
    if federation.enabled and federation.port == 8448 and _edge_type(known) == "NodePort":
        seen = "the edge is a NodePort, whose number is another one; other servers ask at 8448"
        yield Met(
            ("spec", "federation", "port"), seen, "let something pass 8448 on to the NodePort, or write delegated"
        )


# --- backups --------------------------------------------------------------------------------------------------


def _store(known: Known) -> str | None:
    target = known.site.spec.backups.s3
    return None if target is None else urlsplit(target.endpoint).netloc.rpartition("@")[2]


_ENDPOINT = ("spec", "backups", "s3", "endpoint")


@rule("backups.outside", "Backups leave the cluster")
def _(known: Known) -> Iterator[Met]:
    place = _store(known)
    if place is None:
        return
    host = re.sub(r":[0-9]*$", "", place).strip("[]").lower()
    if _INSIDE.search(host):
        yield Met(_ENDPOINT, f"{host} is a Service of a cluster", "name a store that outlives this cluster")
    elif _is_loopback(host):
        yield Met(_ENDPOINT, f"{host} is each pod itself", "name a store that outlives this cluster")
    elif host == known.site.spec.edge.address or host in _hosts(known.site).values():
        yield Met(_ENDPOINT, f"{host} is the edge of this system itself", "name a store that outlives this cluster")


@rule("backups.port", "The store's port is a port")
def _(known: Known) -> Iterator[Met]:
    place = _store(known)
    port = re.search(r":([0-9]*)$", re.sub(r"^\[[^\]]*\]", "", place)) if place else None
    if port and not (port[1] and 1 <= int(port[1]) <= 65535):
        yield Met(_ENDPOINT, f"{port[1] or 'nothing'} is no port", "choose one of 1-65535")


@rule("backups.ca", "A CA is given where there is a certificate", "warn")
def _(known: Known) -> Iterator[Met]:
    target = known.site.spec.backups.s3
    if target is not None and target.ca_in_secret and target.endpoint.startswith("http://"):
        seen = "the store is reached by http, which shows no certificate"
        yield Met(("spec", "backups", "s3", "caInSecret"), seen, "write https in the endpoint, or false here")


# --- against the cluster --------------------------------------------------------------------------------------


@rule("storage.known", "The StorageClasses exist", needs="cluster")
def _(known: Known) -> Iterator[Met]:
    classes = known.cluster.storage_classes if known.cluster else None
    if classes is None:
        return
    for field, name in known.site.spec.storage.model_dump().items():
        if name not in classes:
            close = difflib.get_close_matches(name, classes, n=1)
            todo = f"did you mean {close[0]}?" if close else f"there are: {', '.join(classes) or 'none'}"
            yield Met(("spec", "storage", field), f"there is no StorageClass {name}", todo)


@rule("addresses.outside", "Addresses of the site are none of the cluster's own", needs="cluster")
def _(known: Known) -> Iterator[Met]:
    spec = known.site.spec
    named: dict[PathParts, str | None] = {
        ("spec", "edge", "address"): spec.edge.address,
        ("spec", "edge", "loadBalancerAddress"): spec.edge.load_balancer_address,
        ("spec", "registry", "push"): _split(spec.registry.push)[0],
        ("spec", "registry", "pull"): _split(spec.registry.pull)[0],
        _ENDPOINT: re.sub(r":[0-9]*$", "", _store(known) or "") or None,
    }
    assert known.cluster is not None
    ranges = [(found, "pods") for found in known.cluster.pod_ranges]
    ranges += [(found, "Services") for found in known.cluster.service_ranges]
    for path, text in named.items():
        address = _address(text) if text else None
        for network, owner in ranges:
            if address is not None and address.version == network.version and address in network:
                seen = f"{address} is in {network}, the range of the cluster's {owner}"
                yield Met(path, seen, "write an address of the network that clients and nodes are in")


# --- against the bundle ---------------------------------------------------------------------------------------


@rule("profile.known", "The bundle has the profile", needs="bundle")
def _(known: Known) -> Iterator[Met]:
    assert known.bundle is not None
    name, profiles = known.site.spec.profile, known.bundle.profiles
    if name not in profiles:
        close = difflib.get_close_matches(name, profiles, n=1)
        todo = f"did you mean {close[0]}?" if close else f"there are: {', '.join(profiles)}"
        yield Met(("spec", "profile"), f"the bundle has no profile {name}", todo)


@rule("values.release", "Values are for releases that the bundle has", needs="bundle")
def _(known: Known) -> Iterator[Met]:
    assert known.bundle is not None
    for name in known.site.spec.values:
        if name not in known.bundle.releases:
            close = difflib.get_close_matches(name, known.bundle.releases, n=1)
            todo = f"did you mean {close[0]}?" if close else f"there are: {', '.join(known.bundle.releases)}"
            yield Met(("spec", "values", name), f"the bundle has no release {name}", todo)


@rule("values.profile", "Values are for releases that the profile deploys", "warn", "bundle")
def _(known: Known) -> Iterator[Met]:
    assert known.bundle is not None
    for name in known.site.spec.values:
        if known.bundle.of_profile and name in known.bundle.releases and name not in known.bundle.of_profile:
            seen = f"profile {known.site.spec.profile} does not deploy {name}"
            yield Met(("spec", "values", name), seen, "take it away, or choose another profile")


@rule("workers.type", "Workers are of types that there are", needs="bundle")
def _(known: Known) -> Iterator[Met]:
    assert known.bundle is not None
    types = [entry.name for entry in known.bundle.worker_types]
    for name, entry in known.site.spec.workers.items():
        if types and name not in types:
            close = difflib.get_close_matches(name, types, n=1)
            todo = f"did you mean {close[0]}?" if close else f"there are: {', '.join(types)}"
            yield Met(("spec", "workers", name), f"there is no type of worker {name}", todo)
        for field in entry:
            if field not in _WORKER_FIELDS:
                close = difflib.get_close_matches(str(field), _WORKER_FIELDS, n=1)
                todo = f"did you mean {close[0]}?" if close else f"known here: {', '.join(_WORKER_FIELDS)}"
                yield Met(("spec", "workers", name, field), "is not a field of a worker", todo)


@rule("workers.replicas", "A number of processes is a number that can run")
def _(known: Known) -> Iterator[Met]:
    for name, entry in known.site.spec.workers.items():
        for path, value in _counts(entry):
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_OF_A_TYPE:
                seen = f"{value!r} is no number of processes"
                yield Met(("spec", "workers", name, *path), seen, f"write a whole number, 0 to {_MOST_OF_A_TYPE}")


def _counts(entry: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if "replicas" in entry:
        yield ("replicas",), entry["replicas"]
    scaling = entry.get("autoscaling")
    if isinstance(scaling, Mapping) and "maximum" in scaling:
        yield ("autoscaling", "maximum"), scaling["maximum"]


@rule("workers.one", "What only one process may do is done by one", needs="bundle")
def _(known: Known) -> Iterator[Met]:
    assert known.bundle is not None
    table = _at(known.bundle.of("synapse"), "workers") or {}
    for kind in known.bundle.worker_types:
        entry = table.get(kind.name) or {}
        written = {*kind.streams, *(entry.get("streams") or ())}
        if _whole(entry.get("replicas")) <= 1:
            continue
        path = ("spec", "workers", kind.name, "replicas")
        seen = f"{entry['replicas']} processes"
        if kind.single:
            yield Met(path, f"{seen}, and at most one may run", "write 1")
        for stream in _ONE_WRITER:
            if stream in written:
                yield Met(path, f"{seen}, and exactly one may write {stream}", "write 1")


@rule("workers.scaling", "Only types that no configuration names grow by themselves", needs="bundle")
def _(known: Known) -> Iterator[Met]:
    assert known.bundle is not None
    elastic = {kind.name for kind in known.bundle.worker_types if kind.elastic}
    for name, entry in known.site.spec.workers.items():
        scaling = entry.get("autoscaling")
        path = ("spec", "workers", name, "autoscaling")
        if not isinstance(scaling, Mapping):
            continue
        if elastic and name not in elastic:
            yield Met(path, f"the number of {name} stands in every process's configuration", "write replicas alone")
        elif _whole(scaling.get("maximum")) < _whole(entry.get("replicas")):
            seen = f"{scaling.get('maximum')} is below replicas"
            yield Met((*path, "maximum"), seen, "write at least as many")


@rule("workers.off", "A type of worker is asked for where it runs", "warn", "bundle")
def _(known: Known) -> Iterator[Met]:
    assert known.bundle is not None
    values = known.bundle.of("synapse")
    for kind in known.bundle.worker_types:
        asked = _whole(known.site.spec.workers.get(kind.name, {}).get("replicas"))
        if asked > 0 and kind.needs and not _at(values, kind.needs, "enabled"):
            seen = f"{kind.name} runs only with {kind.needs}, which is off"
            todo = "write spec.federation.enabled: true" if kind.needs == "federation" else "turn it on in spec.values"
            yield Met(("spec", "workers", kind.name), seen, f"{todo}, or take it away")


@rule("connections.range", "A process may open at least what it keeps", needs="bundle")
def _(known: Known) -> Iterator[Met]:
    for name, running in _running(known):
        least, most = (_whole(_at(running, "connections", key)) for key in ("min", "max"))
        if most < least:
            yield Met(
                _connections_of(known, name), f"{name}: max is {most}, and min is {least}", "raise max, or lower min"
            )


@rule("connections.budget", "The database has connections for all processes", needs="bundle")
def _(known: Known) -> Iterator[Met]:
    running = _running(known)
    values = known.bundle.of("synapse") if known.bundle else None
    if not running or values is None:
        return
    needed = {name: _most(entry) * _whole(_at(entry, "connections", "max")) for name, entry in running}
    room = _whole(_at(values, "database", "maxConnections")) - _whole(_at(values, "database", "reserve"))
    total = sum(needed.values())
    if total > room:
        largest = ", ".join(f"{name} {needed[name]}" for name in sorted(needed, key=lambda n: -needed[n])[:3])
        seen = f"all processes may open {total} connections, and the database has {room} for them (most: {largest})"
        yield Met(("spec", "workers"), seen, "lower replicas or connections.max, or take a larger profile")


@rule("connections.sides", "PostgreSQL serves as many connections as Synapse may open", needs="bundle")
def _(known: Known) -> Iterator[Met]:
    synapse, postgres = (known.bundle.of(name) if known.bundle else None for name in ("synapse", "postgres"))
    if synapse is None or postgres is None:
        return
    room = _whole(_at(synapse, "database", "maxConnections")) - _whole(_at(synapse, "database", "reserve"))
    clients = _whole(_at(postgres, "clients"))
    if room > clients:
        seen = f"Synapse may open {room} connections, and PostgreSQL's pooler takes {clients}"
        todo = "let synapse.database.maxConnections - reserve be at most postgres.clients"
        yield Met(("spec", "values"), seen, todo)
    if _at(postgres, "pooler", "enabled") and (others := _whole(_at(postgres, "pooler", "instances")) - 1) > 0:
        open_at_most = (others + 1) * -(-clients // others)
        has = _whole(_at(postgres, "maxConnections")) - _whole(_at(postgres, "reserve"))
        if open_at_most > has:
            seen = f"the pooler's pods may open {open_at_most} connections, and PostgreSQL has {has} for them"
            yield Met(("spec", "values", "postgres"), seen, "raise postgres.maxConnections, or lower postgres.clients")


def _running(known: Known) -> list[tuple[str, Mapping[str, Any]]]:
    """Every kind of process that would run, with defaults under it: what the chart's own rule counts."""
    assert known.bundle is not None
    values = known.bundle.of("synapse")
    if values is None:
        return []
    found: list[tuple[str, Mapping[str, Any]]] = [("main", {**(values.get("main") or {}), "replicas": 1})]
    for kind in known.bundle.worker_types:
        entry = (values.get("workers") or {}).get(kind.name) or {}
        if _whole(entry.get("replicas")) > 0 and (not kind.needs or _at(values, kind.needs, "enabled")):
            defaults = _at(values, "workerDefaults", "connections") or {}
            found.append((kind.name, {**entry, "connections": {**defaults, **(entry.get("connections") or {})}}))
    return found


def _connections_of(known: Known, name: str) -> PathParts:
    given = known.site.spec.workers.get(name, {})
    return ("spec", "workers", name, "connections") if "connections" in given else ("spec", "workers", name)


def _most(entry: Mapping[str, Any]) -> int:
    return max(_whole(entry.get("replicas")), _whole(_at(entry, "autoscaling", "maximum")))


def _whole(value: Any) -> int:
    """A number as it stands; 0 for what is none, which another rule or the chart's schema tells."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _at(node: Any, *path: str) -> Any:
    for part in path:
        node = node.get(part) if isinstance(node, Mapping) else None
    return node

"""The port plan: ranges that do not meet each other, NodePorts, or the ports that the kernel hands out."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from mxinstall.preflight.context import Context
from mxinstall.preflight.model import Verdict, check
from mxinstall.site import PortRange

NODE_PORTS = PortRange("30000-32767")
"""The API server's default; another one cannot be read through the API."""
_LOCAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_RESERVED = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")


@dataclass(frozen=True)
class Claim:
    """Ports that one service of the plan takes on a node."""

    name: str
    ports: PortRange
    protocols: frozenset[str]


def claims(context: Context) -> list[Claim]:
    """The plan of site.yaml."""
    turn, livekit = context.site.spec.ports.turn, context.site.spec.ports.livekit
    both, udp, tcp = frozenset({"udp", "tcp"}), frozenset({"udp"}), frozenset({"tcp"})
    return [
        Claim("turn.listen", PortRange(f"{turn.listen}-{turn.listen}"), both),
        Claim("turn.tls", PortRange(f"{turn.tls}-{turn.tls}"), both),
        Claim("turn.relay", turn.relay, udp),
        Claim("livekit.tcp", PortRange(f"{livekit.tcp}-{livekit.tcp}"), tcp),
        Claim("livekit.udp", livekit.udp, udp),
    ]


@check(
    id="ports.disjoint",
    title="The ranges of the port plan do not overlap",
    protects="Two services on one node would take each other's packets.",
)
def disjoint(context: Context) -> Verdict:
    """Pairs that share a protocol and a port."""
    met = [
        f"{one.name} {one.ports} and {other.name} {other.ports}"
        for one, other in itertools.combinations(claims(context), 2)
        if one.protocols & other.protocols and one.ports.overlaps(other.ports.first, other.ports.last)
    ]
    return Verdict.judge(
        not met,
        seen="; ".join(met) or ", ".join(f"{claim.name} {claim.ports}" for claim in claims(context)),
        expected="no port twice for one protocol",
        todo="Change spec.ports in site.yaml.",
    )


@check(
    id="ports.node-ports",
    title="The port plan stays out of the NodePort range, and our NodePorts are free",
    protects="kube-proxy takes packets to a NodePort away from whoever listens there.",
    needs=("list services in all namespaces",),
)
def node_ports(context: Context) -> Verdict:
    """The default range, and the NodePorts that rendered Services ask for by number."""
    inside = [
        f"{claim.name} {claim.ports} is inside {NODE_PORTS}"
        for claim in claims(context)
        if claim.ports.overlaps(NODE_PORTS.first, NODE_PORTS.last)
    ]
    wanted = {
        int(port["nodePort"]): (obj["metadata"].get("namespace"), obj["metadata"]["name"])
        for objects in context.rendered.values()
        for obj in objects
        if obj.get("kind") == "Service"
        for port in obj.get("spec", {}).get("ports") or ()
        if port.get("nodePort")
    }
    taken = [
        f"{port['nodePort']} belongs to Service {service['metadata']['namespace']}/{service['metadata']['name']}"
        for service in context.cluster.list("v1", "Service")
        for port in service.get("spec", {}).get("ports") or ()
        if port.get("nodePort") in wanted
        and wanted[port["nodePort"]] != (service["metadata"]["namespace"], service["metadata"]["name"])
    ]
    return Verdict.judge(
        not inside and not taken,
        seen="; ".join(inside + taken) or f"NodePorts wanted: {', '.join(map(str, sorted(wanted))) or 'none'}",
        expected=f"nothing of the plan in {NODE_PORTS} (the default, the API tells no other), our NodePorts free",
        todo="Change spec.ports in site.yaml, or the nodePort under spec.values.",
    )


@check(
    id="ports.ephemeral",
    title="The port plan stays out of the ports that the kernel hands out",
    protects="A connection of anybody on the node may hold a port of the range when the service wants it.",
    severity="warn",
    applies=lambda context: context.uses("ports"),
)
def ephemeral(context: Context) -> Verdict:
    """This host's kernel can show that a plan is bad, not that it is good: nodes may hand out other ports."""
    first, last = (int(word) for word in _LOCAL_RANGE.read_text().split())
    reserved = _ranges(_RESERVED.read_text())
    inside = [
        f"{claim.name} {claim.ports}"
        for claim in claims(context)
        if claim.ports.overlaps(first, last)
        and not any(low <= claim.ports.first and claim.ports.last <= high for low, high in reserved)
    ]
    expected = "nothing of the plan there, or reserved (ip_local_reserved_ports)"
    if inside:
        todo = "Choose ports outside in site.yaml: spec.ports, or reserve them on the WebRTC nodes by sysctl."
        return Verdict("fail", f"{', '.join(inside)} inside {first}-{last}", expected, todo)
    return Verdict(
        "not-checked",
        f"this host's kernel hands out {first}-{last}; the nodes' were not looked at",
        expected,
        "Compare `sysctl net.ipv4.ip_local_port_range` on the WebRTC nodes, then --skip ports.ephemeral=REASON.",
    )


def _ranges(text: str) -> list[tuple[int, int]]:
    """`1,5-7` as pairs."""
    found = []
    for part in filter(None, text.strip().split(",")):
        low, _, high = part.partition("-")
        found.append((int(low), int(high or low)))
    return found

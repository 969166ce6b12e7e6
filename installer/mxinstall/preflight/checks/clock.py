"""Clocks: this host's, and each node's as its kubelet renews its lease."""

from __future__ import annotations

import time
from datetime import datetime

from mxinstall.preflight.context import Context, name_of
from mxinstall.preflight.model import Verdict, check

_LEASES = "kube-node-lease"
_AHEAD_SECONDS = 5.0
_BEHIND_SECONDS = 60.0
"""A kubelet renews every 10 s; a Ready node that has not for a minute has another idea of the time."""


@check(
    id="clock.host",
    title="This host's clock is later than the making of the bundle",
    protects="Certificates that are made now would be valid in another time, and windows of trust are judged by it.",
)
def host(context: Context) -> Verdict:
    """The bundle's own time is a lower bound."""
    now, made = time.time(), context.manifest.created
    return Verdict.judge(
        now >= made,
        seen=_utc(now),
        expected=f"after {_utc(made)}, when the bundle was made",
        todo="Set this host's clock.",
    )


@check(
    id="clock.nodes",
    title="The nodes' clocks agree with this host's",
    protects="Certificates, tokens and leases fail between hosts that disagree about the time.",
    needs=("list leases in kube-node-lease",),
)
def nodes(context: Context) -> Verdict:
    """How long ago each Ready node says it renewed its lease."""
    leases = {name_of(lease): lease for lease in context.cluster.list("coordination.k8s.io/v1", "Lease", _LEASES)}
    now = time.time()
    off: list[str] = []
    seen: list[str] = []
    for node in context.usable_nodes:
        renewed = (leases.get(name_of(node), {}).get("spec") or {}).get("renewTime")
        if renewed is None:
            off.append(f"{name_of(node)} has no lease")
            continue
        age = now - datetime.fromisoformat(renewed).timestamp()
        text = f"{name_of(node)} {age:.0f} s ago"
        (seen if -_AHEAD_SECONDS <= age <= _BEHIND_SECONDS else off).append(text)
    return Verdict.judge(
        not off,
        seen="; ".join(off) or f"leases renewed: {', '.join(seen)}",
        expected=f"renewed at most {_BEHIND_SECONDS:.0f} s ago and not in the future",
        todo="Set the clocks of the nodes named above, and of this host, from one source.",
    )


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))

"""Whether the site's network enforces NetworkPolicies, and who does: kube-router's firewall, one per node.

Its routing and its service proxy stay off: routes are `network`'s, services are kube-proxy's. It answers with ICMP
what it refuses. A pod that has just started is open until its node has seen it: about a second.
"""

import os
import shlex
import subprocess
from pathlib import Path

from darksite import machines, processes
from darksite.site import SERVICE_RANGE, Node, Site

DAEMON = "kube-router"
USER = "mxdark:kube-router"
"""Who it is to the API server; what it may read is in `addons/access.yaml`."""
VARIABLE = "MXDARK_NETWORK_POLICY"
_HOOKS = ("INPUT", "FORWARD", "OUTPUT")


def decide(site: Site, asked: bool | None) -> bool:
    """Whether policies are enforced from now on: what is `asked`, else as decided before, else as $VARIABLE, else yes.

    The decision is kept with the site. It takes effect on a node when `settle` is called for it.
    """
    enforced = is_enforced(site) if asked is None else asked
    _record(site).parent.mkdir(parents=True, exist_ok=True)
    growing = _record(site).with_name(".network-policy")
    growing.write_text("enforced\n" if enforced else _OFF)
    growing.replace(_record(site))
    return enforced


def is_enforced(site: Site) -> bool:
    """What was decided; before that, what would be."""
    try:
        return _record(site).read_text() != _OFF
    except FileNotFoundError:
        return os.environ.get(VARIABLE, "1") not in ("0", "no", "off", "false")


def settle(site: Site, node: Node) -> None:
    """Starts or ends the enforcer of a node, as was decided. Doing it twice changes nothing."""
    if is_enforced(site):
        _start(site, node)
    else:
        _stop(site, node)


def told(site: Site) -> str:
    """The decision for people."""
    return f"network policies: {'enforced' if is_enforced(site) else 'not enforced'}"


_OFF = "not enforced\n"
"""Nothing else turns enforcement off: a file that was cut short does not."""


def _record(site: Site) -> Path:
    return site.state / "network-policy"


def _start(site: Site, node: Node) -> None:
    machines.start_daemon(
        site,
        node,
        DAEMON,
        [
            machines.product(DAEMON),
            "--kubeconfig=/etc/kubernetes/kube-router.kubeconfig",
            f"--hostname-override={node.name}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--run-firewall=true",
            "--run-router=false",
            "--run-service-proxy=false",
            "--enable-cni=false",
            "--health-port=0",
            "--v=1",
        ],
    )


def _stop(site: Site, node: Node) -> None:
    ledger, part = machines.ledger_of(site), f"{node.name}-{DAEMON}"
    running = ledger.find(part)
    if running is not None:
        processes.end([*processes.children(running.pid), running])
    ledger.forget(part)
    # Its chains stay, and nothing leads to them: the next start clears them away.
    for hook in _HOOKS:
        for rule in _iptables(site, node, "-S", hook).splitlines():
            if "-j KUBE-ROUTER-" in rule:
                _iptables(site, node, "-D", *shlex.split(rule)[1:])


def _iptables(site: Site, node: Node, *arguments: str) -> str:
    enter = ["nsenter", f"--net={node.namespace_path}", "--"]
    return subprocess.run([*enter, "iptables", "-w", *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout

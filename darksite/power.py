"""Accidents of machines: the power goes and comes back, a cable is pulled and put in again.

Nothing is ended in an orderly way: what was not on the disk is lost. Waiting for what comes back is not done here.
What was broken is asked of the kernel, never of a note: `mend` undoes it also when whoever broke it was killed.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from darksite import cgroups, cluster, control_plane, machines, network, network_policy, nodes, processes
from darksite.errors import ClusterStartError
from darksite.site import Machine, Node, Site

_STARTS = 3
_PATIENCE_SECONDS = 20.0
_RUNTIME_SECONDS = 120.0
"""A containerd that comes back first looks at every container it had; on a machine whose nodes all boot, slowly."""


def off(site: Site, machine: Machine) -> None:
    """The power of a node or of the control plane goes: its processes are killed, its network is forgotten.

    Without effect on a machine that is off. Raises `TimeoutError` when a process survives.
    """
    ledger = machines.ledger_of(site)
    first = ledger.find(machine.name)
    if first is not None:
        # The kernel ends everything in the machine with it: daemons, containers, their shims.
        processes.end([first])
    strays = (processes.identify(pid) for pid in cgroups.members(machine.cgroup))
    processes.end(each for each in strays if each is not None)
    # A kernel that starts anew knows no cgroups (a kubelet asks long after every container whose cgroup it finds), no
    # bridges, no rules and no connections.
    cgroups.remove(machine.cgroup, _PATIENCE_SECONDS)
    network.renew(site, machine)


def on(site: Site, machine: Machine) -> None:
    """The power comes back; the machine starts what it starts at boot. Returns when that was started.

    Raises `MachineStartError`, `ClusterStartError`, OSError.
    """
    if _is_off(site, machine):
        # A machine is up when it says so last in its log, and so it did at its boot before.
        with (site.logs / f"{machine.name}.log").open("a") as log:
            log.write("power comes back\n")
    machines.start(site, machine)
    if isinstance(machine, Node):
        nodes.start_runtime(site, machine)
        nodes.wait_for_runtime(site, machine, _RUNTIME_SECONDS)
        _start_node(site, machine)
        return
    _start_control_plane(site)


def tend(site: Site, machine: Machine) -> None:
    """Start again what has ended of a node's or the control plane's daemons, as a real machine's service manager does.

    A node that boots before its control plane has daemons that give up. Nothing on a machine without power.
    """
    if _is_off(site, machine):
        return
    if isinstance(machine, Node):
        nodes.start_runtime(site, machine)
        _start_node(site, machine)
    else:
        control_plane.start_api(site)
        control_plane.start_controllers(site)


def _start_node(site: Site, node: Node) -> None:
    nodes.start_kubelet(site, node)
    nodes.start_proxy(site, node)
    network_policy.settle(site, node)


def _start_control_plane(site: Site) -> None:
    for tries_left in range(_STARTS, 0, -1):
        control_plane.start_api(site)
        try:
            cluster.wait_for_api(site)
            break
        except ClusterStartError:
            # A real machine starts a daemon again that ended.
            if tries_left == 1:
                raise
    control_plane.start_controllers(site)


def unplug(site: Site, machine: Machine) -> None:
    """The machine runs on, and nobody hears of it. Doing it twice changes nothing."""
    _cable(site, machine, "down")


def plug(site: Site, machine: Machine) -> None:
    """The cable is in again."""
    _cable(site, machine, "up")


@contextmanager
def unplugged(site: Site, machine: Machine) -> Iterator[None]:
    """The machine's cable is pulled for the length of the block. Who is killed in it leaves that to `mend`."""
    unplug(site, machine)
    try:
        yield
    finally:
        plug(site, machine)


def mend(site: Site) -> tuple[str, ...]:
    """Put every pulled cable in and give every machine its power back; what was done, in words.

    The site must have been up: one that is not there is left alone. Raises what `off` and `on` raise.
    """
    if site.lan_namespace not in network.of_site(site):
        return ()
    done = []
    for machine in site.machines:
        if machine.name in _pulled(site):
            plug(site, machine)
            done.append(f"{machine.name} is plugged in again")
    # The control plane first: a node is ready only when there is one.
    for machine in (site.control_plane, *site.nodes):
        if _is_off(site, machine):
            # Whoever was killed may have ended its processes alone.
            off(site, machine)
            on(site, machine)
            done.append(f"{machine.name} has its power back")
        else:
            tend(site, machine)
    return tuple(done)


def _is_off(site: Site, machine: Machine) -> bool:
    return machines.ledger_of(site).find(machine.name) is None


def _pulled(site: Site) -> set[str]:
    """The machines whose end of the cable at the switch is down."""
    shown = subprocess.run(
        ["ip", "-n", site.lan_namespace, "-json", "link", "show"], stdout=subprocess.PIPE, text=True, check=True
    )
    return {str(link["ifname"]) for link in json.loads(shown.stdout) if "UP" not in link["flags"]}


def _cable(site: Site, machine: Machine, state: str) -> None:
    subprocess.run(["ip", "-n", site.lan_namespace, "link", "set", machine.name, state], check=True)

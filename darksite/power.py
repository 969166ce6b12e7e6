"""Accidents of machines: the power goes and comes back, a cable is pulled and put in again.

Nothing is ended in an orderly way: what was not on the disk is lost. Waiting for what comes back is not done here.
"""

from __future__ import annotations

import subprocess

from darksite import cgroups, cluster, control_plane, machines, network, network_policy, nodes, processes
from darksite.errors import ClusterStartError
from darksite.site import Machine, Node, Site

_STARTS = 3


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
    # A kernel that starts anew knows no bridges, no rules and no connections.
    network.renew(site, machine)


def on(site: Site, machine: Machine) -> None:
    """The power comes back; the machine starts what it starts at boot. Returns when that was started.

    Raises `MachineStartError`, `ClusterStartError`, OSError.
    """
    machines.start(site, machine)
    if isinstance(machine, Node):
        nodes.start_runtime(site, machine)
        nodes.wait_for_runtime(site, machine)
        nodes.start_kubelet(site, machine)
        nodes.start_proxy(site, machine)
        network_policy.settle(site, machine)
        return
    _start_control_plane(site)


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


def _cable(site: Site, machine: Machine, state: str) -> None:
    subprocess.run(["ip", "-n", site.lan_namespace, "link", "set", machine.name, state], check=True)

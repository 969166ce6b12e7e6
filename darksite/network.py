"""The site's network: one switch in a namespace of its own, and a cable from it to each machine.

No interface of it ever exists outside these namespaces, no machine has a default route, and the switch has no
address: there is no way out to close.
"""

import shutil
import subprocess
from collections.abc import Iterable, Sequence

from darksite.site import POD_RANGE, SERVICE_RANGE, Machine, Node, Site


def namespaces() -> set[str]:
    """The network namespaces that have a name on this machine."""
    if shutil.which("ip") is None:
        return set()
    listed = subprocess.run(["ip", "netns", "list"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines()}


def of_site(site: Site) -> set[str]:
    """The names of the namespaces that belong to `site` and exist."""
    return {name for name in namespaces() if name.startswith(f"mxd-{site.name}-")}


def create(site: Site) -> None:
    """Lays the whole network. Nothing of it may exist. Raises `subprocess.CalledProcessError`."""
    lan = site.lan_namespace
    _ip([f"netns add {name}" for name in (lan, *(machine.namespace for machine in site.machines))])
    _ip(["link add lan type bridge", "link set lan up", "link set lo up"], lan)
    _lay_cables(site, site.machines)


def renew(site: Site, machine: Machine) -> None:
    """Gives the machine an empty network again: no bridge, rule or connection of before. Nothing may run in it."""
    lan = site.lan_namespace
    if machine.name in _links(lan):
        # The kernel clears a namespace away some time after its name is gone; the cable's name is wanted now.
        _ip([f"link delete {machine.name}"], lan)
    _ip([f"netns delete {machine.namespace}", f"netns add {machine.namespace}"])
    _lay_cables(site, [machine])


def remove(site: Site) -> None:
    """Removes every namespace of the site that there is; cables and the switch go with them."""
    for name in sorted(of_site(site)):
        subprocess.run(["ip", "netns", "delete", name], check=True)


def _lay_cables(site: Site, ends: Sequence[Machine]) -> None:
    lan = site.lan_namespace
    _ip([f"link add eth0 netns {end.namespace} type veth peer name {end.name} netns {lan}" for end in ends])
    _ip([f"link set {end.name} {state}" for end in ends for state in ("master lan", "up")], lan)
    for end in ends:
        _connect(site, end)


def _links(namespace: str) -> set[str]:
    listed = subprocess.run(["ip", "-n", namespace, "-o", "link"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return {line.split()[1].rstrip(":").partition("@")[0] for line in listed.splitlines()}


def _connect(site: Site, machine: Machine) -> None:
    commands = ["link set lo up", f"addr add {machine.address}/24 dev eth0", "link set eth0 up"]
    others = [node for node in site.nodes if node != machine]
    if machine != site.operator:
        # The operator's host knows the LAN alone: it reaches services at the nodes' addresses.
        commands += [f"route add {node.pod_subnet} via {node.address}" for node in others]
    _ip(commands, machine.namespace)
    if isinstance(machine, Node):
        # Without a default route a packet to a service has no route, and is dropped before kube-proxy's rules
        # could send it elsewhere: netfilter's output hook comes after the route look-up.
        _ip(
            [
                f"route add {SERVICE_RANGE} dev eth0 src {machine.address}",
                f"route add unreachable {POD_RANGE}",
            ],
            machine.namespace,
        )
        _set_kernel(
            machine,
            {
                "net/ipv4/ip_forward": "1",
                "net/ipv4/conf/all/rp_filter": "0",
                "net/ipv4/conf/default/rp_filter": "0",
                # Pods of one node reach each other's services through the bridge: its traffic must meet the rules.
                "net/bridge/bridge-nf-call-iptables": "1",
            },
        )


def _set_kernel(machine: Machine, settings: dict[str, str]) -> None:
    # /proc/sys/net shows the settings of the namespace of who looks.
    script = "; ".join(f"echo {value} > /proc/sys/{name}" for name, value in settings.items())
    subprocess.run(
        ["nsenter", f"--net={machine.namespace_path}", "sh", "-ec", script],
        check=True,
    )


def _ip(commands: Iterable[str], namespace: str = "") -> None:
    inside = ["-n", namespace] if namespace else []
    text = "".join(f"{command}\n" for command in commands)
    # It dies with us: it must not lay another cable after somebody has taken the network down.
    command = ["setpriv", "--pdeathsig=KILL", "ip", *inside, "-batch", "-"]
    subprocess.run(command, input=text, text=True, check=True)

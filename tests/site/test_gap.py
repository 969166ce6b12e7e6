"""The gap: nothing inside the site reaches anything outside it, and the nodes know no way around that."""

import json
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from darksite import cluster, machines, node_images, nodes, upstream
from darksite.site import Machine, Site

NAMESPACE = "gap"
NODE_PORT = 30917
"""One that the installed system does not have."""
_TRY = """
import json, socket, sys
reached = []
for address, port in json.loads(sys.argv[1]):
    try:
        socket.create_connection((address, port), timeout=0.5).close()
        reached.append([address, port])
    except OSError:
        pass
print(json.dumps(reached))
"""


@dataclass(frozen=True)
class Outside:
    """What answers outside the site: `reachable` (address, port) pairs that were reached from outside."""

    reachable: tuple[tuple[str, int], ...]


@pytest.fixture(scope="module")
def outside(site: Site) -> Iterator[Outside]:
    """A listener on every address of this machine, and upstream, each shown to answer from out here."""
    status = upstream.status(site)
    assert status.addresses is not None
    host, port = status.addresses.registry.rsplit(":", 1)
    with socket.create_server(("", 0)) as witness:
        witness_port = int(witness.getsockname()[1])
        threading.Thread(target=_accept_all, args=(witness,), daemon=True).start()
        targets = [(address, witness_port) for address in _addresses_of_this_machine()]
        targets.append((host, int(port)))
        assert _reached(targets, []) == targets
        yield Outside(tuple(targets))


@pytest.fixture(scope="module")
def pods(site: Site) -> Iterator[Callable[[str], str]]:
    """Runs a shell command in a pod on the first node; a web server is in a pod on the second, behind service `web`."""
    first, second = site.nodes[:2]
    cluster.kubectl(site, "delete", "namespace", NAMESPACE, "--ignore-not-found")
    _apply(
        site,
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        _pod("client", first.name, "sleep 3600"),
        _pod("web", second.name, "mkdir /www && echo from-the-other-node > /www/index.html && httpd -f -h /www"),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": NAMESPACE},
            "spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80, "nodePort": NODE_PORT}]},
        },
    )
    _kubectl(site, "wait", "--for=condition=Ready", "--timeout=60s", "pod/client", "pod/web")

    def run(command: str) -> str:
        return _kubectl(site, "exec", "client", "--", "sh", "-c", command)

    yield run
    cluster.kubectl(site, "delete", "namespace", NAMESPACE, "--wait=false")


def test_the_operators_host_reaches_nothing_outside(site: Site, outside: Outside) -> None:
    assert _reached(outside.reachable, _network_of(site.operator)) == []


def test_no_node_and_no_control_plane_reaches_anything_outside(site: Site, outside: Outside) -> None:
    for machine in (site.control_plane, *site.nodes):
        assert _reached(outside.reachable, _network_of(machine)) == [], machine.name


def test_a_pod_reaches_nothing_outside(outside: Outside, pods: Callable[[str], str], site: Site) -> None:
    # The same command does reach what is inside, so its silence about the rest means something.
    inside = _kubectl(site, "get", "pod", "web", "--output=jsonpath={.status.podIP}")
    tries = [f"nc -w 1 {address} {port} </dev/null" for address, port in outside.reachable]
    told = pods(
        f"nc -w 1 {inside} 80 </dev/null && echo reached inside; "
        + "; ".join(f"{attempt} && echo reached {attempt!r}" for attempt in tries)
        + "; true"
    )
    assert told.split("\n")[0] == "reached inside"
    assert told.count("reached") == 1, told


def test_no_machine_has_a_way_out(site: Site) -> None:
    for machine in site.machines:
        routes = json.loads(_output([*_network_of(machine), "ip", "-j", "route"]))
        assert "default" not in [route["dst"] for route in routes], machine.name
    links = json.loads(_output(["ip", "-n", site.lan_namespace, "-j", "link"]))
    assert sorted(link["ifname"] for link in links) == sorted(
        ["lo", "lan", *(machine.name for machine in site.machines)]
    )


def test_the_nodes_know_one_registry_and_no_mirror(site: Site) -> None:
    for node in site.nodes:
        listed = machines.run(site, node, ["find", "/etc/containerd/certs.d", "-type", "f"]).stdout.split()
        assert listed == [f"/etc/containerd/certs.d/{site.registry}/hosts.toml"], node.name
        hosts = machines.run(site, node, ["cat", listed[0]]).stdout
        assert hosts.count("http://") == 2
        assert hosts.count(f'"http://{site.registry}"') == 2
        dump = machines.run(site, node, [machines.product("containerd", "containerd"), "config", "dump"])
        assert dump.returncode == 0
        assert "mirrors" not in dump.stdout


def test_a_node_cannot_pull_by_an_upstream_name(site: Site) -> None:
    names = [name for name in upstream.status(site).images if name.startswith("ghcr.io/")]
    assert names, "upstream has nothing of ghcr.io, so a failed pull would mean nothing"
    for node in site.nodes:
        pulled = nodes.ctr(site, node, "images", "pull", "--hosts-dir=/etc/containerd/certs.d", names[0], check=False)
        assert pulled.returncode != 0, node.name
        assert names[0] not in nodes.ctr(site, node, "images", "ls", "-q").stdout.split()


def test_a_pod_resolves_a_service_and_reaches_it_on_the_other_node(pods: Callable[[str], str]) -> None:
    assert pods(f"timeout 5 wget -q -O - http://web.{NAMESPACE}.svc.cluster.local/").strip() == "from-the-other-node"
    assert "10.96.0.1" in pods("nslookup kubernetes.default.svc.cluster.local")


def test_the_operators_host_reaches_a_service_at_every_nodes_address(site: Site, pods: Callable[[str], str]) -> None:
    assert pods("true") == ""
    for node in site.nodes:
        fetch = f"import urllib.request as u; print(u.urlopen('http://{node.address}:{NODE_PORT}/', timeout=5).read())"
        said = _output([*_network_of(site.operator), sys.executable, "-c", fetch])
        assert "from-the-other-node" in said, node.name


def _accept_all(witness: socket.socket) -> None:
    while True:
        try:
            connection, _peer = witness.accept()
        except OSError:
            return
        connection.close()


def _addresses_of_this_machine() -> list[str]:
    links = json.loads(_output(["ip", "-4", "-j", "addr"]))
    return [entry["local"] for link in links for entry in link["addr_info"]]


def _network_of(machine: Machine) -> list[str]:
    return ["nsenter", f"--net={machine.namespace_path}", "--"]


def _reached(targets: Sequence[tuple[str, int]], enter: list[str]) -> list[tuple[str, int]]:
    said = _output([*enter, sys.executable, "-c", _TRY, json.dumps(targets)])
    return [(address, port) for address, port in json.loads(said)]


def _output(command: list[str]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout


def _kubectl(site: Site, *arguments: str) -> str:
    done = cluster.kubectl(site, f"--namespace={NAMESPACE}", *arguments, check=False)
    assert done.returncode == 0, f"kubectl {shlex.join(arguments)}: {done.stderr}"
    return done.stdout


def _apply(site: Site, *documents: object) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
    target = site.state / "gap-test.json"
    target.write_text(json.dumps(listed))
    _kubectl(site, "apply", "--server-side", f"--filename={target}")
    target.unlink()


def _pod(name: str, node: str, command: str) -> dict[str, object]:
    container = {
        "name": name,
        "image": node_images.SHELL,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", command],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        },
    }

"""The site's network enforces NetworkPolicies as Kubernetes defines them: real pods, real packets, each rule alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from darksite import cluster, lifecycle, machines, network_policy, node_images, pods, processes
from darksite.pods import PodNetwork
from darksite.site import Site

CASES = yaml.safe_load((Path(__file__).parent / "network_policy_cases.yaml").read_text())
NAMESPACES = ("np-a", "np-b")
PODS = {
    # name@namespace: (node, listens)
    "server@np-a": (0, True),
    "far@np-a": (1, True),
    "near@np-a": (0, True),
    "away@np-a": (1, False),
    "stranger@np-b": (0, False),
    "idle@np-b": (1, True),
}
TAKES_EFFECT_SECONDS = 3.0
"""What a cluster may take to enforce a change; measured here: below one second on an idle machine."""
LISTENER = """
import selectors, socket, sys
chosen = selectors.DefaultSelector()
for port in (8080, 8081, 8090, 8091, 8092):
    chosen.register(socket.create_server(("", port)), selectors.EVENT_READ, "stream")
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("", 8080))
chosen.register(datagrams, selectors.EVENT_READ, "datagram")
chosen.register(sys.stdin, selectors.EVENT_READ, "end")
print("listening", flush=True)
while True:
    for key, _ in chosen.select():
        if key.data == "end":
            sys.exit()
        if key.data == "datagram":
            said, peer = datagrams.recvfrom(1500)
            datagrams.sendto(said, peer)
        elif key.data == "stream":
            connection, _ = key.fileobj.accept()
            chosen.register(connection, selectors.EVENT_READ, "talk")
        elif said := key.fileobj.recv(1500):
            key.fileobj.sendall(said)
        else:
            chosen.unregister(key.fileobj)
            key.fileobj.close()
"""


class Field:
    """The pods of these tests, and what they can reach."""

    def __init__(self, site: Site, networks: dict[str, PodNetwork], service: str) -> None:
        self.site = site
        self.networks = networks
        self._service = service

    def address(self, target: str) -> tuple[str, int, str]:
        """Host, port and protocol of a target as the cases write it."""
        place, _, port = target.partition(":")
        number, _, protocol = port.partition("/")
        if place == "web":
            return self._service, int(number), "TCP"
        host = self.networks[place].address if "@" in place else place
        return host, int(number), protocol or "TCP"

    def reached(self, pair: Sequence[str]) -> bool:
        """Whether the first of the pair gets an answer from the second."""
        host, port, protocol = self.address(pair[1])
        return self.networks[pair[0]].connect(host, port, protocol, seconds=1.0) == "answered"

    def wrong(self, case: dict[str, Any]) -> list[str]:
        """What is not as the case says."""
        wanted = [(pair, True) for pair in case.get("open", [])] + [(pair, False) for pair in case.get("shut", [])]
        with ThreadPoolExecutor(max_workers=6) as at_once:
            seen = list(at_once.map(self.reached, [pair for pair, _ in wanted]))
        return [
            f"{pair[0]} -> {pair[1]} is {'open' if found else 'shut'}"
            for (pair, opened), found in zip(wanted, seen, strict=True)
            if found != opened
        ]

    def apply(self, policies: Sequence[dict[str, Any]]) -> None:
        """Exactly these policies, in np-a."""
        items = [_policy(f"case-{number}", spec) for number, spec in enumerate(policies)]
        cluster.kubectl(self.site, "--namespace=np-a", "delete", "networkpolicies", "--all")
        if items:
            _apply(self.site, items)


@pytest.fixture(scope="module")
def field(site: Site) -> Iterator[Field]:
    assert network_policy.is_enforced(site), "the site was brought up with --no-network-policy"
    _delete_namespaces(site)
    _apply(site, [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in NAMESPACES])
    _apply(site, [_pod(site, *who.split("@"), node) for who, (node, _) in PODS.items()])
    _apply(site, [_service()])
    for namespace in NAMESPACES:
        _kubectl(site, namespace, "wait", "--for=condition=Ready", "--timeout=60s", "pod", "--all")
    networks = {who: pods.network_of(site, *reversed(who.split("@"))) for who in PODS}
    service = _kubectl(site, "np-a", "get", "service", "web", "--output=jsonpath={.spec.clusterIP}")
    with ExitStack() as listeners:
        for who, (_, listens) in PODS.items():
            if listens:
                listeners.enter_context(listening(networks[who]))
        yield Field(site, networks, service)
    _delete_namespaces(site)


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_a_policy_means_what_kubernetes_says(field: Field, case: dict[str, Any]) -> None:
    everything = {"open": [*case.get("open", []), *case.get("shut", [])]}
    field.apply([])
    _soon(field, everything)
    field.apply(case["policies"])
    _soon(field, case)


def test_the_node_reaches_its_pods_whatever_their_policies_say(field: Field) -> None:
    node = field.site.nodes[0]
    field.apply([{"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}])
    _soon(field, {"shut": [["stranger@np-b", "server@np-a:8080"]]})
    here, there = (
        _from_node(field.site, place, field.networks["server@np-a"].address) for place in (node, field.site.nodes[1])
    )
    assert (here, there) == ("answered", "refused")


def test_a_connection_that_stands_outlives_the_policy_that_allowed_it(field: Field) -> None:
    allowed = {"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [{"ports": [{"port": 8080}]}]}
    field.apply([allowed])
    pair = ["away@np-a", "server@np-a:8080"]
    _soon(field, {"open": [pair], "shut": [["away@np-a", "server@np-a:8081"]]})
    talk = (
        "import socket, sys\n"
        "c = socket.create_connection((sys.argv[1], 8080), timeout=5)\n"
        "for line in sys.stdin:\n"
        "    c.sendall(line.encode())\n"
        "    print(c.recv(1500).decode().strip(), flush=True)\n"
    )
    network = field.networks["away@np-a"]
    command = network.command(sys.executable, "-I", "-S", "-c", talk, field.networks["server@np-a"].address)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as standing:
        assert standing.stdin is not None
        assert standing.stdout is not None
        for word, policies in (("before", [allowed]), ("after", [{"podSelector": {}, "policyTypes": ["Ingress"]}])):
            field.apply(policies)
            _soon(field, {"open": [pair]} if word == "before" else {"shut": [pair]})
            standing.stdin.write(f"{word}\n")
            standing.stdin.flush()
            assert standing.stdout.readline().strip() == word
        standing.stdin.close()


def test_a_pod_that_starts_is_shut_within_seconds(field: Field) -> None:
    field.apply([{"podSelector": {}, "policyTypes": ["Ingress"]}])
    _soon(field, {"shut": [["stranger@np-b", "server@np-a:8080"]]})
    site = field.site
    _kubectl(site, "np-a", "delete", "pod", "late", "--ignore-not-found", "--now")
    _apply(site, [_pod(site, "late", "np-a", 0)])
    _kubectl(site, "np-a", "wait", "--for=condition=Ready", "--timeout=60s", "pod/late")
    ready = time.monotonic()
    network = pods.network_of(site, "np-a", "late")
    with listening(network):
        while field.networks["stranger@np-b"].connect(network.address, 8080, seconds=1.0) == "answered":
            assert time.monotonic() - ready < TAKES_EFFECT_SECONDS


def test_the_source_address_of_a_pod_is_kept(field: Field) -> None:
    field.apply([])
    _soon(field, {"open": [["away@np-a", "server@np-a:8080"]]})
    listen = (
        "import socket\n"
        "with socket.create_server(('', 7777)) as s:\n"
        "    print('listening', flush=True)\n"
        "    print(s.accept()[1][0], flush=True)\n"
    )
    server = field.networks["server@np-a"].command(sys.executable, "-I", "-S", "-c", listen)
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as listening:
        assert listening.stdout is not None
        assert listening.stdout.readline() == "listening\n"
        asking = field.networks["away@np-a"]
        assert asking.connect(field.networks["server@np-a"].address, 7777) == "answered"
        assert listening.stdout.readline().strip() == asking.address


def test_enforcement_comes_back_when_its_process_died(field: Field) -> None:
    """What was programmed stays while nobody is there to change it; `up` starts the process again."""
    site = field.site
    shut = {"shut": [["near@np-a", "server@np-a:8080"]]}
    field.apply([{"podSelector": {}, "policyTypes": ["Ingress"]}])
    _soon(field, shut)
    died = machines.ledger_of(site).find("n1-kube-router")
    assert died is not None
    processes.end([*processes.children(died.pid), died])
    assert not lifecycle.status(site).up
    assert field.wrong(shut) == []
    lifecycle.up(site, print)
    field.apply([])
    _soon(field, {"open": shut["shut"]}, seconds=15)


def test_a_site_can_be_told_not_to_enforce_and_remembers_it(field: Field) -> None:
    site = field.site
    pair = ["stranger@np-b", "server@np-a:8080"]
    field.apply([{"podSelector": {}, "policyTypes": ["Ingress"]}])
    _soon(field, {"shut": [pair]})
    try:
        lifecycle.up(site, print, enforce=False)
        assert field.wrong({"open": [pair]}) == []
        lifecycle.up(site, print)
        assert lifecycle.status(site).network_policy == "network policies: not enforced"
        assert field.wrong({"open": [pair]}) == []
    finally:
        lifecycle.up(site, print, enforce=True)
    _soon(field, {"shut": [pair]}, seconds=15)


def _soon(field: Field, case: dict[str, Any], seconds: float = TAKES_EFFECT_SECONDS) -> None:
    """Fails unless everything is as the case says within `seconds`, and stays so."""
    deadline = time.monotonic() + seconds
    while wrong := field.wrong(case):
        if time.monotonic() > deadline:
            pytest.fail(f"after {seconds:.0f} s: {'; '.join(wrong)}")
        time.sleep(0.1)


@contextmanager
def listening(network: PodNetwork) -> Iterator[None]:
    """Something answers on the pod's ports. It ends when its input does, also when we are killed."""
    command = network.command(sys.executable, "-I", "-S", "-c", LISTENER)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdin is not None
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listening\n"
        yield
        listener.stdin.close()


def _from_node(site: Site, node: Any, address: str) -> str:
    script = (
        "import socket, sys\n"
        "try:\n    socket.create_connection((sys.argv[1], 8080), timeout=1).close()\n"
        "except OSError:\n    print('refused')\n"
        "else:\n    print('answered')\n"
    )
    enter = ["nsenter", f"--net={node.namespace_path}", "--"]
    done = subprocess.run(
        [*enter, sys.executable, "-I", "-S", "-c", script, address],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout.strip()


def _policy(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "np-a"},
        "spec": spec,
    }


def _pod(site: Site, name: str, namespace: str, node: int) -> dict[str, Any]:
    labels = {"app": name, **({"role": "asks"} if name in ("near", "away") else {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "nodeName": site.nodes[node].name,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "waits",
                    "image": node_images.SHELL,
                    "imagePullPolicy": "Never",
                    "command": ["sleep", "3600"],
                    "ports": [{"name": "web", "containerPort": 8080}],
                }
            ],
        },
    }


def _service() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "np-a"},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": "web"}]},
    }


def _delete_namespaces(site: Site) -> None:
    cluster.kubectl(site, "delete", "namespace", *NAMESPACES, "--ignore-not-found")


def _kubectl(site: Site, namespace: str, *arguments: str) -> str:
    done = cluster.kubectl(site, f"--namespace={namespace}", *arguments, check=False)
    assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def _apply(site: Site, items: Sequence[dict[str, Any]]) -> None:
    target = site.state / "network-policy-test.json"
    target.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(items)}))
    done = cluster.kubectl(site, "apply", "--server-side", "--force-conflicts", f"--filename={target}", check=False)
    target.unlink()
    assert done.returncode == 0, done.stderr

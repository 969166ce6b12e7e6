"""The valkey chart as it is rendered, with the real servers, sentinels and HAProxy: who serves, and who never does.

Each pod has a network namespace of its own (sandboxes.py), so that a node can be cut off. Needs root.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mxinstall.deploy.authority import issue, new_authority
from sandboxes import Rack, Sandbox, rack
from shipped_stack import named, rendered, stack, unpack_image

PASSWORD = 'pa ss"w$rd\\#1'
"""Nothing in it may matter to a shell, to Valkey's configuration or to HAProxy's."""
BEGIN_SECONDS = 60
FAILOVER_SECONDS = 15
SERVERS = tuple(f"valkey-server-{n}" for n in range(3))
SENTINELS = tuple(f"valkey-sentinel-{n}" for n in range(3))
PROXIES = ("valkey-proxy-a", "valkey-proxy-b")
ASK_MASTER = "printf 'GET /master HTTP/1.0\\r\\n\\r\\n' | socat -T2 - TCP:127.0.0.1:8405"
SUBSCRIBE = ("SUBSCRIBE", "news")
PLAIN: dict[str, Any] = {"tls": {"enabled": False}}
ROLE_HERE = ". /etc/valkey/common.sh; ask 127.0.0.1 6379 ROLE"


@dataclass
class System:
    """Three servers, three sentinels, two proxies and a client's pod."""

    rack: Rack

    @property
    def pods(self) -> dict[str, Sandbox]:
        return self.rack.pods

    def ask(self, *command: str, via: str = PROXIES[0], seconds: int = 5) -> str:
        """One command by valkey-cli through a proxy (or at a server); what it printed, errors too."""
        done = self.pods["client"].execute("/bin/sh", "/client.sh", str(seconds), self.pods[via].address, *command)
        return done.stdout.strip()

    def keep(self, value: str) -> None:
        """Writes `kept` and waits until both replicas have it; WAIT speaks of its own connection only."""
        script = (
            f"printf 'SET kept \"{value}\"\\nWAIT 2 10000\\n' | /bin/sh /client.sh 15 {self.pods[PROXIES[0]].address}"
        )
        said = self.pods["client"].execute("/bin/sh", "-c", script).stdout
        assert said.split() == ["OK", "2"], said

    @contextlib.contextmanager
    def subscriber(self, via: str = PROXIES[0]) -> Iterator[subprocess.Popen[str]]:
        """A client that is subscribed to `news`, and ends when its connection does."""
        process = self.pods["client"].background("/bin/sh", "/client.sh", "120", self.pods[via].address, *SUBSCRIBE)
        assert process.stdout is not None
        with process:
            try:
                assert [process.stdout.readline().strip() for _ in range(3)] == ["subscribe", "news", "1"]
                yield process
            finally:
                process.kill()

    @contextlib.contextmanager
    def watched(self) -> Iterator[Callable[[], list[tuple[str, float, float]]]]:
        """Asks each proxy ten times a second whom it serves; the account so far: server, first and last time."""
        loop = f"while read up idle < /proc/uptime; do echo $up $({ASK_MASTER} | tail -n 1); sleep 0.1; done"
        watches = [self.pods[proxy].background("/bin/sh", "-c", loop) for proxy in PROXIES]
        seen: dict[str, list[float]] = {}

        def listen(watch: subprocess.Popen[str]) -> None:
            assert watch.stdout is not None
            with watch.stdout as lines:
                for line in lines:
                    at, _, server = line.strip().partition(" ")
                    if server in SERVERS:
                        seen.setdefault(server, []).append(float(at))

        def account() -> list[tuple[str, float, float]]:
            return sorted(((name, min(at), max(at)) for name, at in dict(seen).items()), key=lambda entry: entry[1])

        listeners = [threading.Thread(target=listen, args=(watch,), daemon=True) for watch in watches]
        for listener in listeners:
            listener.start()
        try:
            yield account
        finally:
            for watch, listener in zip(watches, listeners, strict=True):
                watch.kill()
                listener.join(10)
                watch.wait(10)

    def master(self, via: str = PROXIES[0]) -> str:
        """The server that a proxy serves now; empty when there is none."""
        answer = self.pods[via].execute("/bin/sh", "-c", ASK_MASTER).stdout
        return answer.split()[-1] if " 200 " in answer else ""

    def masters(self) -> set[str]:
        return {self.master(proxy) for proxy in PROXIES}

    def claims(self) -> dict[str, str]:
        """Server → the role that it gives itself; servers that do not answer are left out."""
        said = {}
        for name in SERVERS:
            lines = self.ask("ROLE", via=name).splitlines()
            if lines and lines[0] in ("master", "slave"):
                said[name] = lines[0]
        return said

    def names(self, sentinel: str) -> str:
        """The server that a sentinel names as the master."""
        asked = ["-p", "26379", "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "valkey"]
        address = (self.ask(*asked, via=sentinel).splitlines() or [""])[0]
        return next((name for name in SERVERS if self.pods[name].address == address), "")

    @contextlib.contextmanager
    def cut_off(self, names: Sequence[str]) -> Iterator[None]:
        """These pods hear each other and nobody else."""
        for name in names:
            self.pods[name].move(elsewhere=True)
        try:
            yield
        finally:
            for name in names:
                self.pods[name].move(elsewhere=False)

    def kill(self, *names: str) -> None:
        for name in names:
            self.pods[name].kill()

    def start(self, *names: str) -> None:
        for name in names:
            self.pods[name].start()

    def settled(self) -> bool:
        """One master that both proxies serve, and two replicas in step with it."""
        claims = self.claims()
        return (
            sorted(claims.values()) == ["master", "slave", "slave"]
            and self.masters() == {name for name, role in claims.items() if role == "master"}
            and all(self.pods[name].ready() for name in SERVERS)
        )

    def await_settled(self, seconds: float = BEGIN_SECONDS) -> float:
        return until(self.settled, seconds, self.account)

    def account(self) -> str:
        logs = (f"--- {name}\n{pod.log.read_text()[-1500:]}" for name, pod in self.pods.items() if pod.log.exists())
        return f"claims {self.claims()}, served {self.masters()}\n" + "\n".join(logs)


def until(true: Callable[[], bool], seconds: float, account: Callable[[], str] = str) -> float:
    """Seconds until it was true. Raises AssertionError."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, account()
        time.sleep(0.2)
    return time.monotonic() - began


def template_of(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    pod: dict[str, Any] = named(objects, kind, name)["spec"]["template"]["spec"]
    return pod


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("images")
    return {name: unpack_image(name, folder / name) for name in ("valkey", "haproxy")}


CLIENT = {
    "securityContext": {"runAsUser": 999, "runAsGroup": 1000},
    "containers": [
        {"command": ["sleep", "3600"], "volumeMounts": [{"name": "client", "mountPath": "/secrets/client"}]}
    ],
    "volumes": [{"name": "client", "secret": {"secretName": "client"}}],
}
CLIENT_SCRIPT = """\
cd /secrets/client
seconds=$1 options="--no-auth-warning $(cat options) -h $2"
shift 2
REDISCLI_AUTH=$(cat password) exec timeout "$seconds" valkey-cli $options "$@" 2>&1
"""


@pytest.fixture(scope="module")
def certificates() -> dict[str, str]:
    """As the installer makes them for what stack.yaml says."""
    authority = new_authority("site")
    (plan,) = (plan for plan in stack().secrets if plan.name == "valkey-tls")
    assert plan.certificate is not None
    pair = issue(authority, plan.certificate.common_name, plan.certificate.dns, plan.certificate.usages)
    return {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authority.certificate}


def assembled(
    built: Rack, roots: dict[str, Path], certificates: dict[str, str], over: dict[str, Any] | None = None
) -> System:
    """The release as it is shipped, with `over` on top; nothing is started."""
    objects = rendered("valkey", "demo", over)
    sources = {entry["metadata"]["name"]: entry["data"] for entry in objects if entry["kind"] == "ConfigMap"}
    sources["valkey-auth"] = {"password": PASSWORD}
    sources["valkey-tls"] = certificates
    options = "" if over == PLAIN else "--tls --cacert ca.crt"
    sources["client"] = {"password": PASSWORD, "options": options, "ca.crt": certificates["ca.crt"]}
    valkey, haproxy = roots["valkey"], roots["haproxy"]
    for component, names in (("server", SERVERS), ("sentinel", SENTINELS)):
        for name in names:
            built.add(name, valkey, template_of(objects, "StatefulSet", f"valkey-{component}"), sources)
    for name in PROXIES:
        built.add(name, haproxy, template_of(objects, "Deployment", "valkey-proxy"), sources)
    built.add("client", valkey, CLIENT, sources)
    (valkey / "client.sh").write_text(CLIENT_SCRIPT)
    for root in roots.values():
        built.publish(root, "matrix-data")
    return System(built)


@pytest.fixture(scope="module")
def system(
    roots: dict[str, Path], certificates: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("rack")
    folder.chmod(0o755)
    with rack(folder) as built:
        running = assembled(built, roots, certificates)
        running.start(*SERVERS, *SENTINELS, *PROXIES)
        running.await_settled()
        yield running


@pytest.fixture
def calm(system: System) -> Iterator[System]:
    """The system with everything up; whatever a test did to it is put right."""
    system.await_settled()
    yield system
    system.start(*(name for name in (*SERVERS, *SENTINELS, *PROXIES) if system.pods[name].running is None))


def test_a_new_system_has_one_master_and_both_proxies_serve_it(calm: System) -> None:
    assert calm.ask("SET", "colour", "blue") == "OK"
    assert calm.ask("GET", "colour", via=PROXIES[1]) == "blue"


def test_nobody_is_served_without_the_password(calm: System) -> None:
    for name, port in ((PROXIES[0], "6379"), (SERVERS[0], "6379"), (SENTINELS[0], "26379")):
        asked = ["--tls", "--cacert", "/secrets/client/ca.crt", "-h", calm.pods[name].address, "-p", port, "PING"]
        assert "NOAUTH" in calm.pods["client"].execute("valkey-cli", *asked).stdout


def test_a_killed_master_is_replaced_within_seconds_and_nothing_that_it_replicated_is_lost(calm: System) -> None:
    (before,) = calm.masters()
    calm.keep("yes")
    with calm.watched() as account:
        calm.kill(before)
        took = until(lambda: calm.ask("GET", "kept") == "yes", FAILOVER_SECONDS, calm.account)
        assert took > 4
        until(lambda: "" not in calm.masters() and len(account()) == 2, FAILOVER_SECONDS)
    (first, _, gone), (second, came, _) = account()
    assert (first, second != first) == (before, True)
    assert gone < came
    calm.start(before)
    calm.await_settled()
    assert calm.claims()[before] == "slave"


def test_a_master_that_comes_back_empty_at_once_is_not_the_master_any_more(calm: System) -> None:
    """Faster than the sentinels can notice: they still name it, its replicas would drop all they have."""
    (before,) = calm.masters()
    calm.keep("still")
    calm.pods[before].renew()
    calm.start(before)
    roles = set()

    def served_again() -> bool:
        roles.add(calm.claims().get(before, "silent"))
        return calm.ask("GET", "kept") == "still"

    until(served_again, FAILOVER_SECONDS, calm.account)
    calm.await_settled()
    assert roles <= {"silent", "slave"}
    assert before not in calm.masters()
    assert calm.ask("GET", "kept") == "still"


def test_a_client_that_comes_while_there_is_no_master_is_held_until_there_is_one(calm: System) -> None:
    (before,) = calm.masters()
    calm.kill(before)
    until(lambda: calm.master() == "", 5)
    began = time.monotonic()
    assert calm.ask("PING", seconds=20) == "PONG"
    assert time.monotonic() - began > 1
    calm.start(before)


def test_a_subscriber_is_cut_off_when_its_master_is_demoted_and_the_next_one_hears(calm: System) -> None:
    """The hook that runs before a server is stopped on purpose: nothing dies, and nothing but a check can tell."""
    (before,) = calm.masters()
    calm.keep("handed over")
    with calm.subscriber() as subscriber:
        left = calm.pods[before].execute(*calm.pods[before].container["lifecycle"]["preStop"]["exec"]["command"])
        assert left.returncode == 0, left.stdout
        assert "closed" in subscriber.communicate(timeout=10)[0]
    assert calm.master() not in ("", before)
    assert calm.ask("GET", "kept") == "handed over"
    with calm.subscriber() as subscriber:
        assert calm.ask("PUBLISH", "news", "heard", via=PROXIES[1]) == "1"
        assert subscriber.stdout is not None
        assert [subscriber.stdout.readline().strip() for _ in range(3)] == ["message", "news", "heard"]


def test_a_master_that_is_cut_off_serves_nobody_before_another_is_elected(calm: System) -> None:
    """A node with the master, a sentinel and a proxy loses its network: both sides live, one is served."""
    (before,) = calm.masters()
    lost = (before, SENTINELS[SERVERS.index(before)], PROXIES[1])
    with calm.watched() as account:
        # The lost pods still reach each other: a switch that lost its uplink.
        with calm.cut_off(lost):
            until(lambda: calm.master() not in ("", before), FAILOVER_SECONDS, calm.account)
            assert calm.master(PROXIES[1]) == ""
            role = calm.pods[before].execute("/bin/sh", "-c", ROLE_HERE).stdout.split()[0]
            assert role == "master"
        calm.await_settled()
    assert calm.claims()[before] == "slave"
    (first, _, gone), (_, came, _) = account()
    assert first == before
    assert gone < came


@pytest.mark.long
def test_a_sentinel_less_changes_nothing_and_cuts_nobody(calm: System) -> None:
    (before,) = calm.masters()
    with calm.subscriber() as subscriber:
        calm.pods[SENTINELS[1]].renew()
        time.sleep(4)
        assert calm.masters() == {before}
        calm.start(SENTINELS[1])
        until(lambda: calm.names(SENTINELS[1]) == before, 40, calm.account)
        assert calm.ask("PUBLISH", "news", "heard", via=PROXIES[1]) == "1"
        assert subscriber.poll() is None


@pytest.mark.long
def test_sentinels_that_all_lost_what_they_knew_find_the_master_that_there_is(calm: System) -> None:
    if calm.master() == SERVERS[0]:
        # What they would say who know nothing must be wrong.
        hook = calm.pods[SERVERS[0]].container["lifecycle"]["preStop"]["exec"]["command"]
        assert calm.pods[SERVERS[0]].execute(*hook).returncode == 0
        calm.await_settled()
    (before,) = calm.masters()
    assert before != SERVERS[0]
    calm.keep("by the servers")
    for name in SENTINELS:
        calm.pods[name].renew()
    calm.start(*SENTINELS)
    until(lambda: {calm.names(sentinel) for sentinel in SENTINELS} == {before}, 30, calm.account)
    until(lambda: calm.masters() == {before}, 10, calm.account)
    assert calm.ask("GET", "kept") == "by the servers"


@pytest.mark.long
def test_a_sentinel_that_the_others_contradict_fails_its_probe_and_learns_from_them(calm: System) -> None:
    (before,) = calm.masters()
    odd = calm.pods[SENTINELS[2]]
    probe = odd.container["livenessProbe"]["exec"]["command"]
    assert odd.execute(*probe).returncode == 0
    wrong = next(name for name in SERVERS if name != before)
    forget, take = "SENTINEL REMOVE valkey", f"SENTINEL MONITOR valkey {calm.pods[wrong].address} 6379 2"
    here = "ask 127.0.0.1 26379"
    odd.execute("/bin/sh", "-c", f". /etc/valkey/common.sh; {here} {forget}; {here} {take}")
    assert calm.names(SENTINELS[2]) == wrong
    assert odd.execute(*probe).returncode == 1
    assert calm.masters() == {before}
    odd.kill()
    odd.start()
    until(lambda: odd.execute(*probe).returncode == 0, 40, calm.account)
    assert calm.names(SENTINELS[2]) == before


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2))
def test_servers_that_all_died_at_once_come_back_to_one_master_in_any_order(calm: System, seed: int) -> None:
    """The sentinels live on and name one of them."""
    order = random.Random(seed)
    for name in SERVERS:
        calm.pods[name].renew()
    time.sleep(order.choice([0, 3, 8]))
    for name in order.sample(SERVERS, k=3):
        calm.start(name)
        time.sleep(order.uniform(0, 4))
    calm.await_settled()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_everything_that_died_at_once_comes_back_to_one_master_in_any_order(calm: System, seed: int) -> None:
    order = random.Random(seed)
    names = (*SERVERS, *SENTINELS, *PROXIES)
    for name in names:
        calm.pods[name].renew()
    for name in order.sample(names, k=len(names)):
        calm.start(name)
        time.sleep(order.uniform(0, 3))
    calm.await_settled()
    assert calm.ask("SET", "colour", "green") == "OK"


@pytest.mark.long
def test_a_server_that_is_alone_with_the_sentinels_word_serves(calm: System) -> None:
    """Two servers are gone for good; all died. Nobody has data, and waiting for it would be an outage."""
    (before,) = calm.masters()
    for name in SERVERS:
        calm.pods[name].renew()
    calm.start(before)
    until(lambda: calm.ask("PING") == "PONG", 40, calm.account)
    calm.start(*(name for name in SERVERS if name != before))
    calm.await_settled()


def test_who_speaks_plainly_is_refused(calm: System) -> None:
    plainly = ["timeout", "5", "valkey-cli", "-h", calm.pods[PROXIES[0]].address, "PING"]
    said = calm.pods["client"].execute(*plainly).stdout
    assert "PONG" not in said
    assert "NOAUTH" not in said


def test_a_proxy_takes_no_server_and_no_sentinel_with_a_certificate_of_another_authority(calm: System) -> None:
    proxy = calm.pods[PROXIES[0]]
    stranger = {**proxy.sources["valkey-tls"], "ca.crt": new_authority("another").certificate}
    odd = calm.rack.add("valkey-proxy-odd", proxy.root, proxy.pod, {**proxy.sources, "valkey-tls": stranger})
    odd.start()
    until(lambda: odd.log.read_text().count("SSL handshake failure") >= 6, 20, odd.log.read_text)
    assert calm.master(odd.name) == ""
    odd.kill()


def test_another_ca_reaches_one_pod_after_the_other_and_nobody_meets_a_certificate_that_he_does_not_trust(
    roots: dict[str, Path], certificates: dict[str, str], tmp_path: Path
) -> None:
    """What `certificates renew --ca` and `forget-old-ca` do to these pods, from when all trust both CAs."""
    old, new = certificates["ca.crt"], new_authority("site", dated=True)
    (plan,) = (plan for plan in stack().secrets if plan.name == "valkey-tls")
    assert plan.certificate is not None
    pair = issue(new, plan.certificate.common_name, plan.certificate.dns, plan.certificate.usages)
    renewed = {"tls.crt": pair.certificate, "tls.key": pair.key}
    both = new.certificate + old
    tmp_path.chmod(0o755)
    with rack(tmp_path / "rack") as built:
        system = assembled(built, roots, {**certificates, "ca.crt": both})
        system.start(*SERVERS, *SENTINELS, *PROXIES)
        system.await_settled()
        system.keep("through")
        for held in (
            {**renewed, "ca.crt": both},
            {**renewed, "ca.crt": new.certificate},
        ):
            for name in (*SERVERS, *SENTINELS, *PROXIES):
                pod = system.pods[name]
                pod.sources = {**pod.sources, "valkey-tls": held}
                pod.renew()
                pod.start()
                system.await_settled()
                assert system.ask("GET", "kept") == "through"
        distrust = ("certificate verify failed", "unknown ca", "SSL handshake failure")
        said = {name: pod.log.read_text() for name, pod in system.pods.items() if pod.log.exists()}
        assert {name: word for name, text in said.items() for word in distrust if word in text} == {}
        # It is the new one's certificate that is shown: who knows the old CA alone does not take it.
        only_old = file_with_one_ca(system, old)
        asked = ["--tls", "--cacert", only_old, "-h", system.pods[PROXIES[0]].address, "PING"]
        assert "certificate verify failed" in system.pods["client"].execute("valkey-cli", *asked).stdout


def file_with_one_ca(system: System, text: str) -> str:
    """A file in the client's pod that holds one CA; its path there."""
    client = system.pods["client"]
    (client.folder / "volumes/client/one-ca.crt").write_text(text)
    (client.folder / "volumes/client/one-ca.crt").chmod(0o444)
    return "/secrets/client/one-ca.crt"


def test_without_tls_a_killed_master_is_replaced_too(
    roots: dict[str, Path], certificates: dict[str, str], tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    with rack(tmp_path / "rack") as built:
        system = assembled(built, roots, certificates, PLAIN)
        system.start(*SERVERS, *SENTINELS, *PROXIES)
        system.await_settled()
        (before,) = system.masters()
        system.keep("plain")
        system.kill(before)
        until(lambda: system.ask("GET", "kept") == "plain", FAILOVER_SECONDS, system.account)
        system.start(before)
        system.await_settled()


@pytest.mark.parametrize("over", [None, PLAIN, {"proxy": {"holdSeconds": 0}}], ids=["shipped", "plain", "no-hold"])
def test_haproxy_takes_its_configuration_without_a_warning(
    roots: dict[str, Path], certificates: dict[str, str], tmp_path: Path, over: dict[str, Any] | None
) -> None:
    tmp_path.chmod(0o755)
    with rack(tmp_path / "rack") as built:
        system = assembled(built, roots, certificates, over)
        proxy = system.pods[PROXIES[0]]
        # The script as it is, with a check of both files in place of its last line.
        check = "s/^exec haproxy -db/haproxy -c -dW -V/"
        steps = f"sed '{check}' /usr/local/etc/haproxy/proxy.sh > /run/haproxy/check.sh; . /run/haproxy/check.sh"
        checked = proxy.execute("/bin/sh", "-c", steps)
        assert checked.returncode == 0, checked.stdout
        assert "Configuration file is valid" in checked.stdout
        assert "WARNING" not in checked.stdout


def test_the_password_is_in_no_argument_and_in_no_environment(calm: System) -> None:
    for name in (*SERVERS, *SENTINELS, *PROXIES):
        pod = calm.pods[name]
        assert "env" not in pod.container
        assert PASSWORD not in str(pod.pod)
        told = pod.execute("/bin/sh", "-c", "cat /secrets/auth/password").stdout
        assert told == PASSWORD
        assert pod.running is not None
        seen = [proc for proc in descendants(pod.running.pid) for proc in (proc / "cmdline", proc / "environ")]
        assert len(seen) >= 4
        assert [str(path) for path in seen if PASSWORD.encode() in path.read_bytes()] == []


def descendants(pid: int) -> list[Path]:
    """The processes below `pid`, with itself."""
    found = [Path(f"/proc/{pid}")]
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += descendants(int(child))
    return found

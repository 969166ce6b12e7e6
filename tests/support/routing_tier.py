"""The real HAProxy with the rendered configuration, before processes that say who they are.

HAProxy is the stand-in of its image contract, run as the contract's user. Needs root; everything is on the loopback, in
a /24 of its own: only the addresses after `bind` are changed, the processes are found by DNS at their real ports.
"""

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import loopback_names
from mxinstall.deploy.authority import KeyPair, issue, new_authority
from shipped_stack import named, rendered

from darksite.images import isolation

FOLDER = "/usr/local/etc/haproxy"
HOST = "matrix.example.site"
SERVER_NAME = "example.site"
READY_SECONDS = 20
CERTIFICATES_SECONDS = "0.3"
"""How often start.sh looks at its certificates here."""


class Process:
    """Stands for one Synapse process: answers with its name and what it was asked; can be stopped and started.

    A request with `hold=SECONDS` in its query is answered after that time, as a long poll.
    """

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.at_once = 0
        self.most_at_once = 0
        self._lock = threading.Lock()
        self._servers: list[ThreadingHTTPServer] = []

    def start(self) -> None:
        process = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                if hold := re.search(r"[?&]hold=([0-9.]+)", self.path):
                    with process._lock:
                        process.at_once += 1
                        process.most_at_once = max(process.most_at_once, process.at_once)
                    time.sleep(float(hold[1]))
                    with process._lock:
                        process.at_once -= 1
                body = json.dumps({"name": process.name, "path": self.path, "headers": headers}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Silent."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 512

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Health checks hang up early."""

        # Requests, and health.
        self._servers = [Server((self.address, port), Handler) for port in (8008, 8080)]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers = []


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def backend(self) -> str:
        return self.headers["x-mx-worker"].split("/")[0]

    @property
    def worker(self) -> str:
        return str(self.body["name"])


@dataclass
class Tier:
    """HAProxy replicas before one set of processes."""

    addresses: list[str]
    authority: KeyPair
    certificates: Path
    processes: dict[str, Process] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """What DNS says: the process's name in the cluster, and its address."""
    running: list["subprocess.Popen[str]"] = field(default_factory=list)

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        replica: int = 0,
        connection: http.client.HTTPConnection | None = None,
    ) -> Answer:
        """One request by plain HTTP at port 8008, or on `connection`, which stays open."""
        using = connection or http.client.HTTPConnection(self.addresses[replica], 8008, timeout=30)
        try:
            using.request(method, path, headers=dict(headers or {}))
            response = using.getresponse()
            raw = response.read()
        finally:
            if connection is None:
                using.close()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, json.loads(raw) if raw else {})

    def tls(self, name: str = HOST, port: int = 8443, alpn: str = "http/1.1") -> http.client.HTTPSConnection:
        """A connection by TLS that asks for `name` and verifies it against the site's CA; not opened yet."""
        context = ssl.create_default_context(cadata=self.authority.certificate)
        context.set_alpn_protocols([alpn])
        connection = http.client.HTTPSConnection(self.addresses[0], port, timeout=30, context=context)
        # http.client checks the name that it connects to, which is an address here.
        connect = http.client.HTTPConnection.connect

        def connect_as() -> None:
            connect(connection)
            connection.sock = context.wrap_socket(connection.sock, server_hostname=name)

        connection.connect = connect_as  # type: ignore[method-assign]
        return connection

    def ask_tls(
        self, method: str, path: str, host: str = HOST, headers: Mapping[str, str] | None = None, port: int = 8443
    ) -> Answer:
        """One request by TLS for `host`."""
        connection = self.tls(port=port)
        try:
            return self.ask(method, path, {"Host": host, **(headers or {})}, connection=connection)
        finally:
            connection.close()

    def sync(self, token: str, replica: int = 0) -> Answer:
        return self.ask("GET", "/_matrix/client/v3/sync?since=s1", {"Authorization": f"Bearer {token}"}, replica)

    def wait_for(self, up: Mapping[str, int]) -> None:
        """Until each replica sees as many servers of each backend up. Raises AssertionError after READY_SECONDS."""
        deadline = time.monotonic() + READY_SECONDS
        seen: list[dict[str, int]] = []
        while time.monotonic() < deadline:
            seen = [self._up(address) for address in self.addresses]
            if all(state.get(backend) == count for state in seen for backend, count in up.items()):
                return
            time.sleep(0.2)
        raise AssertionError(f"wanted {up}, seen {seen}")

    def _up(self, address: str) -> dict[str, int]:
        connection = http.client.HTTPConnection(address, 8405, timeout=5)
        try:
            connection.request("GET", "/metrics?scope=backend")
            text = connection.getresponse().read().decode()
        except OSError:
            return {}
        finally:
            connection.close()
        pattern = r'^haproxy_backend_active_servers\{proxy="([^"]+)"\} (\d+)'
        return {name: int(count) for name, count in re.findall(pattern, text, re.M)}

    def appear(self, name: str) -> None:
        """A process that was missing is started, and DNS knows it."""
        self.processes[name].start()
        kind = re.sub(r"-\d+$", "", name)
        self.names[f"{name}.{kind}.matrix.svc.cluster.local"] = self.processes[name].address

    def renew(self) -> str:
        """A new certificate takes the old one's place, all at one moment as the kubelet does it; its PEM text."""
        fresh = issue(self.authority, "edge", (HOST, SERVER_NAME), ("server",))
        lay_down(self.certificates, {"tls.crt": fresh.certificate, "tls.key": fresh.key})
        return fresh.certificate

    def spoil(self) -> None:
        """A certificate whose key is that of another one."""
        pairs = [issue(self.authority, "edge", (HOST,), ("server",)) for _ in range(2)]
        lay_down(self.certificates, {"tls.crt": pairs[0].certificate, "tls.key": pairs[1].key})

    def tell_to_go(self) -> None:
        """The image's stop signal to the first process of the first replica's container, as the kubelet sends it."""
        found = below(self.running[0].pid)
        (first,) = (
            pid for pid in found if b"start.sh" in command_of(pid) and b"start.sh" not in command_of(parent(pid))
        )
        os.kill(first, signal.SIGUSR1)

    @contextlib.contextmanager
    def without(self, part: str) -> Iterator[list[Process]]:
        """The processes whose names contain `part` are gone for the length of the block."""
        lost = [process for name, process in self.processes.items() if part in name]
        for process in lost:
            process.stop()
        try:
            yield lost
        finally:
            for process in lost:
                process.start()


def below(root: int) -> list[int]:
    """The processes that come from `root`, parents first."""
    found = [root]
    for pid in found:
        with contextlib.suppress(OSError):
            found += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found


def command_of(pid: int) -> bytes:
    """The second word of its command line: what a shell runs."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return words[1] if len(words) > 1 else b""


def parent(pid: int) -> int:
    """Its parent's process id."""
    return int(re.findall(r"^PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)[0])


def lay_down(folder: Path, files: Mapping[str, str]) -> None:
    """A Secret as the kubelet mounts it: links through `..data`, which is exchanged by rename."""
    old = (folder / "..data").readlink() if (folder / "..data").is_symlink() else None
    content = folder / f"..{time.time_ns()}"
    content.mkdir(parents=True)
    content.chmod(0o755)
    for name, text in files.items():
        (content / name).write_text(text)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..new").symlink_to(content.name)
    (folder / "..new").rename(folder / "..data")
    if old is not None:
        shutil.rmtree(folder / old)


def configuration(over: Mapping[str, Any], profile: str = "demo") -> dict[str, str]:
    """The files of the rendered ConfigMap; each answer says who gave it."""
    saying = {**over, "routing": {"sayWho": True, **over.get("routing", {})}}
    data: dict[str, str] = named(rendered("synapse", profile, saying), "ConfigMap", "synapse-routing")["data"]
    return data


def run_haproxy(
    root: Path, folder: Path, certificates: Path, resolv_conf: Path, *command: str
) -> "subprocess.Popen[str]":
    """`command` in the image, as uid 99 with a read-only root, on this loopback; mounts as the Deployment has them."""
    running = isolation.enter(root, command, {"PATH": isolation.PATH}, (99, 99), "/var/lib/haproxy")
    steps = [
        isolation.words("mkdir", "-p", root / "tls"),
        isolation.words("mount", "--bind", root, root),
        isolation.words("mount", "--bind", folder, f"{root}{FOLDER}"),
        isolation.words("mount", "--bind", resolv_conf, root / "etc/resolv.conf"),
        isolation.words("mount", "--bind", certificates, root / "tls"),
        isolation.words("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", root / "var/lib/haproxy"),
        isolation.words("mount", "-o", "remount,bind,ro", root),
        *isolation.kernel_mounts(root),
        # Below a shell that stays root: a process that changes its user outlives the one that started it.
        running.removeprefix("exec "),
        "exit 0",
    ]
    return subprocess.Popen(
        isolation.isolated(steps), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@contextlib.contextmanager
def running_tier(
    root: Path,
    scratch: Path,
    over: Mapping[str, Any],
    replicas: int = 1,
    dns_delay_seconds: float = 0.0,
    missing: Collection[str] = (),
) -> Iterator[Tier]:
    """A tier that sees all its processes. Health is asked for ten times as often as in a cluster.

    The processes `missing` are not there: they neither run nor have a name; `Tier.appear` brings them.
    """
    data = configuration(over)
    net = f"127.{random.randrange(1, 255)}.{random.randrange(1, 255)}"
    authority = new_authority("example")
    resolv_conf = scratch / "resolv.conf"
    scratch.mkdir(parents=True, exist_ok=True)
    resolv_conf.write_text(f"nameserver {net}.254\n")
    certificates = scratch / "tls"
    tier = Tier([f"{net}.{1 + replica}" for replica in range(replicas)], authority, certificates)
    tier.renew()
    for name, fqdn in re.findall(r"^    server (\S+) (\S+):8008 ", data["haproxy.cfg"], re.M):
        if name not in tier.processes:
            tier.processes[name] = Process(name, f"{net}.{10 + len(tier.processes)}")
            if name not in missing:
                tier.names[fqdn] = tier.processes[name].address
    backends = re.findall(r"^backend (\S+)\n(.*?)(?=\n\n|\Z)", data["haproxy.cfg"], re.M | re.S)
    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(loopback_names.serving(f"{net}.254", tier.names, dns_delay_seconds))
        for name, process in tier.processes.items():
            if name not in missing:
                process.start()
            cleanup.callback(process.stop)
        for replica in range(replicas):
            folder = scratch / str(replica)
            folder.mkdir()
            for name, text in data.items():
                (folder / name).write_text(text)
            written = (
                data["haproxy.cfg"].replace("bind *:", f"bind {net}.{1 + replica}:").replace("inter 2s", "inter 200ms")
            )
            (folder / "haproxy.cfg").write_text(written)
            command = ("/bin/sh", f"{FOLDER}/start.sh", CERTIFICATES_SECONDS)
            running = run_haproxy(root, folder, certificates, resolv_conf, *command)
            tier.running.append(running)
            cleanup.callback(end, running)
        tier.wait_for(
            {name: len(set(re.findall(r"^    server (\S+)", text, re.M)) - set(missing)) for name, text in backends}
        )
        yield tier


def end(running: "subprocess.Popen[str]") -> str:
    """Ends HAProxy with its namespace; what it said."""
    running.kill()
    return running.communicate(timeout=10)[0]

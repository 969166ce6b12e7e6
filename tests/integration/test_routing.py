"""The rendered configuration in the real HAProxy, before processes that say who they are. Proves who answers what.

HAProxy is the stand-in of its image contract, run as the contract's user. Needs root; everything is on the loopback.
"""

import contextlib
import http.client
import json
import re
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from shipped_stack import named, rendered, unpack_image

from darksite.images import isolation

FOLDER = "/usr/local/etc/haproxy"
WORKERS = {
    "workers": {
        "synchrotron": {"replicas": 3},
        "client-reader": {"replicas": 2},
        "event-creator": {"replicas": 2},
        "media-repository": {"replicas": 1},
    },
    "database": {"maxConnections": 300},
}
READY_SECONDS = 20


class Process:
    """Stands for one Synapse process: answers with its name and what it was asked; can be stopped and started."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        name = self.name

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                said = {"name": name, "path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}}
                body = json.dumps(said).encode()
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

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Health checks hang up early."""

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


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

    ports: list[int] = field(default_factory=list)
    status_ports: list[int] = field(default_factory=list)
    processes: dict[str, Process] = field(default_factory=dict)

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None, replica: int = 0) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[replica], timeout=30)
        try:
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, json.loads(raw) if raw else {})

    def sync(self, token: str, replica: int = 0) -> Answer:
        return self.ask("GET", "/_matrix/client/v3/sync", {"Authorization": f"Bearer {token}"}, replica)

    def wait_for(self, up: dict[str, int]) -> None:
        """Until each replica sees as many servers of each backend up. Raises AssertionError after READY_SECONDS."""
        deadline = time.monotonic() + READY_SECONDS
        seen: list[dict[str, int]] = []
        while time.monotonic() < deadline:
            seen = [self._up(port) for port in self.status_ports]
            if all(state.get(backend) == count for state in seen for backend, count in up.items()):
                return
            time.sleep(0.2)
        raise AssertionError(f"wanted {up}, seen {seen}")

    def _up(self, port: int) -> dict[str, int]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/metrics?scope=backend")
            text = connection.getresponse().read().decode()
        except OSError:
            return {}
        finally:
            connection.close()
        pattern = r'^haproxy_backend_active_servers\{proxy="([^"]+)"\} (\d+)'
        return {name: int(count) for name, count in re.findall(pattern, text, re.M)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def for_the_loopback(text: str, ports: dict[str, int], port: int, status_port: int) -> str:
    """The rendered configuration with addresses of the loopback; nothing else is changed."""
    text = text.replace("bind *:8008", f"bind 127.0.0.1:{port}").replace("bind *:8405", f"bind 127.0.0.1:{status_port}")
    # Names of the cluster's DNS and the one health port of all pods do not exist here.
    text = text.replace(" resolvers cluster resolve-prefer ipv4 init-addr none", "").replace("check port 8080", "check")
    text = text.replace("inter 2s", "inter 200ms")
    return re.sub(r"(server (\S+)) \S+:8008$", lambda m: f"{m[1]} 127.0.0.1:{ports[m[2]]}", text, flags=re.M)


@pytest.fixture(scope="module")
def haproxy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = unpack_image("haproxy", tmp_path_factory.mktemp("images") / "haproxy")
    # As the kubelet gives it to each container.
    (root / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    return root


def run_haproxy(root: Path, folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """HAProxy of the image with `folder` as its configuration, as uid 99 with a read-only root, on this loopback."""
    running = isolation.enter(
        root, ["haproxy", *arguments, "-f", f"{FOLDER}/haproxy.cfg"], {"PATH": isolation.PATH}, (99, 99)
    )
    steps = [
        isolation.words("mount", "--bind", root, root),
        isolation.words("mount", "--bind", folder, f"{root}{FOLDER}"),
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
def running_tier(root: Path, scratch: Path, replicas: int) -> Iterator[Tier]:
    data = named(rendered("synapse", "demo", WORKERS), "ConfigMap", "synapse-routing")["data"]
    tier = Tier()
    for name in re.findall(r"^    server (\S+) ", data["haproxy.cfg"], re.M):
        tier.processes.setdefault(name, Process(name))
    for process in tier.processes.values():
        process.start()
    ports = {name: process.port for name, process in tier.processes.items()}
    with contextlib.ExitStack() as cleanup:
        for process in tier.processes.values():
            cleanup.callback(process.stop)
        for replica in range(replicas):
            folder = scratch / str(replica)
            folder.mkdir(parents=True)
            tier.ports.append(free_port())
            tier.status_ports.append(free_port())
            for name, text in data.items():
                fitting = for_the_loopback(text, ports, tier.ports[-1], tier.status_ports[-1])
                (folder / name).write_text(fitting if name == "haproxy.cfg" else text)
            running = run_haproxy(root, folder, "-db")
            cleanup.callback(end, running)
        tier.wait_for({"main": 1, "synchrotron-by-token": 3, "client-reader": 2})
        yield tier


def end(running: "subprocess.Popen[str]") -> None:
    running.kill()
    running.communicate(timeout=10)


@pytest.fixture(scope="module")
def tier(haproxy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tier]:
    with running_tier(haproxy_root, tmp_path_factory.mktemp("tier"), replicas=2) as running:
        yield running


@pytest.mark.parametrize("profile", ["demo", "small"])
def test_haproxy_accepts_the_configuration_as_it_is_shipped(haproxy_root: Path, tmp_path: Path, profile: str) -> None:
    for name, text in named(rendered("synapse", profile), "ConfigMap", "synapse-routing")["data"].items():
        (tmp_path / name).write_text(text)
    tmp_path.chmod(0o755)
    checking = run_haproxy(haproxy_root, tmp_path, "-c", "-dW")
    said, _ = checking.communicate(timeout=60)
    assert (checking.returncode, [line for line in said.splitlines() if "WARNING" in line or "ALERT" in line]) == (
        0,
        [],
    )


ROOM = "/_matrix/client/v3/rooms/!r:example.site"

ROUTES = [
    # synchrotron
    ("GET", "/_matrix/client/v3/sync", "synchrotron-by-token"),
    ("GET", "/_matrix/client/r0/sync?since=s1&timeout=30000", "synchrotron-by-token"),
    ("GET", "/_matrix/client/v3/events", "synchrotron-by-token"),
    ("GET", "/_matrix/client/v3/initialSync", "synchrotron-by-token"),
    ("GET", f"{ROOM}/initialSync", "synchrotron-by-token"),
    ("POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", "synchrotron-by-token"),
    # client-reader
    ("GET", f"{ROOM}/messages?dir=b", "client-reader-by-room"),
    ("GET", "/_matrix/client/v3/publicRooms", "client-reader"),
    ("GET", f"{ROOM}/members", "client-reader"),
    ("GET", f"{ROOM}/joined_members", "client-reader"),
    ("GET", f"{ROOM}/state", "client-reader"),
    ("GET", f"{ROOM}/context/$e", "client-reader"),
    ("GET", f"{ROOM}/event/$e", "client-reader"),
    ("GET", "/_matrix/client/v1/rooms/!r:x/hierarchy", "client-reader"),
    ("GET", "/_matrix/client/v1/rooms/!r:x/threads", "client-reader"),
    ("GET", "/_matrix/client/v1/rooms/!r:x/relations/$e", "client-reader"),
    ("GET", "/_matrix/client/unstable/im.nheko.summary/summary/!r:x", "client-reader"),
    ("GET", "/_matrix/client/v1/room_summary/!r:x", "client-reader"),
    ("GET", "/_matrix/client/v3/account/whoami", "client-reader"),
    ("GET", "/_matrix/client/v3/account/3pid", "client-reader"),
    ("GET", "/_matrix/client/versions", "client-reader"),
    ("GET", "/_matrix/client/v3/voip/turnServer", "client-reader"),
    ("GET", "/_matrix/client/v3/joined_rooms", "client-reader"),
    ("POST", "/_matrix/client/v3/search", "client-reader"),
    ("GET", f"{ROOM}/aliases", "client-reader"),
    ("POST", "/_matrix/client/v3/user/@u:x/filter", "client-reader"),
    ("GET", "/_matrix/client/v3/user/@u:x/filter/1", "client-reader"),
    ("GET", "/_matrix/client/v3/directory/room/%23a:x", "client-reader"),
    ("GET", "/_matrix/client/v3/capabilities", "client-reader"),
    ("GET", "/_matrix/client/v3/notifications", "client-reader"),
    ("GET", "/_matrix/client/unstable/org.matrix.msc4140/delayed_events", "client-reader"),
    ("POST", "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/d1/restart", "client-reader"),
    ("GET", "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports", "client-reader"),
    ("POST", "/_matrix/client/v3/keys/query", "client-reader"),
    ("POST", "/_matrix/client/v3/keys/claim", "client-reader"),
    ("GET", "/_matrix/client/v3/room_keys/version", "client-reader"),
    ("POST", "/_matrix/client/v3/login", "client-reader"),
    ("POST", "/_matrix/client/v3/register", "client-reader"),
    ("GET", "/_matrix/client/v3/register/available", "client-reader"),
    ("GET", "/_matrix/client/v1/register/m.login.registration_token/validity", "client-reader"),
    ("GET", "/_matrix/client/v3/password_policy", "client-reader"),
    # event-creator
    ("PUT", f"{ROOM}/send/m.room.message/t1", "event-creator-by-room"),
    ("PUT", f"{ROOM}/redact/$e/t1", "event-creator-by-room"),
    ("PUT", f"{ROOM}/state/m.room.topic/", "event-creator-by-room"),
    ("POST", f"{ROOM}/join", "event-creator-by-room"),
    ("POST", f"{ROOM}/kick", "event-creator-by-room"),
    ("POST", "/_matrix/client/v3/join/!r:x", "event-creator-by-room"),
    ("GET", "/_matrix/client/v3/profile/@u:x", "event-creator-by-room"),
    ("POST", "/_matrix/client/v3/createRoom", "event-creator-by-token"),
    # media-repository
    ("POST", "/_matrix/media/v3/upload", "media-repository"),
    ("GET", "/_matrix/client/v1/media/download/x/y", "media-repository"),
    # main: what no pattern names, and near misses
    ("POST", "/_matrix/client/v3/logout", "main"),
    ("POST", "/_matrix/client/v3/refresh", "main"),
    ("POST", "/_matrix/client/v3/account/3pid/add", "main"),
    ("POST", "/_matrix/client/v3/keys/upload", "main"),
    ("PUT", f"{ROOM}/typing/@u:x", "main"),
    ("POST", f"{ROOM}/receipt/m.read/$e", "main"),
    ("POST", f"{ROOM}/upgrade", "main"),
    ("PUT", "/_matrix/client/v3/user/@u:x/account_data/m.direct", "main"),
    ("GET", "/_matrix/client/v3/pushrules/", "main"),
    ("GET", "/_matrix/client/v3/syncing", "main"),
    ("GET", "/_matrix/federation/v1/openid/userinfo", "main"),
    ("GET", "/", "main"),
    # where two patterns could claim a request, the earlier one has it
    ("GET", f"{ROOM}/state/m.room.topic", "event-creator-by-room"),
    ("PUT", f"{ROOM}/send/m.room.message/messages", "client-reader-by-room"),
    ("PUT", f"{ROOM}/send/m.room.message/state", "client-reader"),
    ("GET", f"{ROOM}/event/join", "client-reader"),
    ("GET", "/_matrix/client/v1/media/rooms/x/join", "media-repository"),
]


@pytest.mark.parametrize(("method", "path", "backend"), ROUTES)
def test_a_request_reaches_the_type_that_serves_it(tier: Tier, method: str, path: str, backend: str) -> None:
    answer = tier.ask(method, path)
    assert (answer.status, answer.backend) == (200, backend)
    assert answer.headers["x-mx-worker"] == f"{backend}/{answer.worker}"


def test_a_path_arrives_as_the_client_wrote_it(tier: Tier) -> None:
    path = "/_matrix/client/v3/rooms/%21a%2Fb%3Aexample.site/send/m.room.message/..%2F//t%201?x=%2F"
    assert tier.ask("PUT", path).body["path"] == path


def test_a_client_cannot_say_where_it_comes_from(tier: Tier) -> None:
    lie = {"X-Forwarded-For": "8.8.8.8", "Forwarded": "for=8.8.8.8", "X-Forwarded-Proto": "https"}
    headers = tier.ask("GET", "/_matrix/client/versions", lie).body["headers"]
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert "forwarded" not in headers


def test_a_browser_is_told_that_it_may_ask(tier: Tier) -> None:
    answer = tier.ask("OPTIONS", "/_matrix/client/v3/sync")
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "Authorization" in answer.headers["access-control-allow-headers"]


def test_too_big_an_upload_ends_before_it_reaches_synapse(tier: Tier) -> None:
    answer = tier.ask("POST", "/_matrix/media/v3/upload", {"Content-Length": str((50 << 20) + 1)})
    assert (answer.status, answer.body["errcode"]) == (413, "M_TOO_LARGE")


@pytest.mark.parametrize(
    "path", ["/_synapse/admin/v1/register", "/_synapse/admin/v2/users/@u:x", "/_synapse/%61dmin/v1/register"]
)
def test_the_admin_api_is_closed_to_the_outside(tier: Tier, path: str) -> None:
    assert tier.ask("GET", path).status == 403


def test_one_token_stays_on_one_process_whichever_replica_it_meets(tier: Tier) -> None:
    for number in range(40):
        token = f"syt_{number}_secret"
        by_query = tier.ask("GET", f"/_matrix/client/v3/sync?access_token={token}").worker
        assert {tier.sync(token).worker, tier.sync(token, replica=1).worker, by_query} == {by_query}


def test_tokens_spread_over_all_synchrotrons(tier: Tier) -> None:
    share = Counter(tier.sync(f"mat_{number}").worker for number in range(300))
    assert len(share) == 3
    assert min(share.values()) > 300 * 0.15


def test_one_room_stays_on_one_process_however_it_is_written(tier: Tier) -> None:
    for number in range(10):
        plain = f"/_matrix/client/v3/rooms/!{number}:example.site/messages"
        encoded = plain.replace("!", "%21").replace(":", "%3A")
        assert tier.ask("GET", plain).worker == tier.ask("GET", encoded, replica=1).worker


def test_other_requests_take_turns(tier: Tier) -> None:
    assert len({tier.ask("GET", "/_matrix/client/versions").worker for _ in range(4)}) == 2


def test_a_lost_synchrotron_moves_only_its_own_clients_and_gets_them_back(tier: Tier) -> None:
    tokens = [f"tok_{number}" for number in range(120)]
    before = {token: tier.sync(token).worker for token in tokens}
    lost = tier.processes["synapse-synchrotron-1"]
    lost.stop()
    try:
        # At once, before any health check: a connection that is refused is tried elsewhere.
        assert {tier.sync(token).status for token in tokens} == {200}
        tier.wait_for({"synchrotron-by-token": 2})
        during = {token: tier.sync(token, replica=1).worker for token in tokens}
    finally:
        lost.start()
    moved = {token for token in tokens if before[token] != during[token]}
    assert moved == {token for token in tokens if before[token] == lost.name}
    assert moved
    tier.wait_for({"synchrotron-by-token": 3})
    assert {token: tier.sync(token).worker for token in tokens} == before


def test_main_syncs_while_no_synchrotron_is_there(tier: Tier) -> None:
    lost = [process for name, process in tier.processes.items() if "synchrotron" in name]
    for process in lost:
        process.stop()
    try:
        tier.wait_for({"synchrotron-by-token": 0})
        assert tier.sync("any").worker == "synapse-main-0"
    finally:
        for process in lost:
            process.start()
    tier.wait_for({"synchrotron-by-token": 3})


def test_media_is_never_asked_of_main_and_the_client_is_told_to_come_again(tier: Tier) -> None:
    media = tier.processes["synapse-media-repository-0"]
    media.stop()
    try:
        tier.wait_for({"media-repository": 0})
        answer = tier.ask("GET", "/_matrix/client/v1/media/download/x/y")
    finally:
        media.start()
    assert (answer.status, answer.body["errcode"]) == (429, "M_LIMIT_EXCEEDED")
    assert answer.body["retry_after_ms"] > 0
    assert answer.headers["access-control-allow-origin"] == "*"
    tier.wait_for({"media-repository": 1})


def test_a_replica_is_ready_without_synapse(haproxy_root: Path, tmp_path: Path) -> None:
    with running_tier(haproxy_root, tmp_path, replicas=1) as alone:
        for process in alone.processes.values():
            process.stop()
        alone.wait_for({"main": 0})
        connection = http.client.HTTPConnection("127.0.0.1", alone.status_ports[0], timeout=5)
        connection.request("GET", "/health")
        status = connection.getresponse().status
        connection.close()
        assert (status, alone.ask("GET", "/_matrix/client/versions").status) == (200, 429)

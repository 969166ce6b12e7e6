"""A real registry (distribution) and a proxy before it that plays faults: for tests of what moves bytes.

A fault is data: which requests, how often, what goes wrong. Every request that reaches the proxy is recorded.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from darksite import binaries


@contextlib.contextmanager
def running_registry(folder: Path) -> Iterator[str]:
    """A distribution registry on loopback that keeps its data in `folder`; yields `host:port`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": {"addr": address},
        "validation": {"manifests": {"indexes": {"platforms": "none"}}},
    }
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "registry.log").open("ab") as log:
        process = subprocess.Popen(
            [binaries.ensure("registry"), "serve", str(folder / "config.yml")],
            stdout=log,
            stderr=log,
            # Without this the registry looks for a collector of traces on port 4318.
            env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
        )
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((folder / "registry.log").read_text()) from None
                time.sleep(0.05)
        yield address
    finally:
        process.kill()
        process.wait()


Kind = Literal["status", "cut-answer", "cut-request", "lose-answer", "corrupt", "ignore-range", "wrong-range"]


@dataclass
class Fault:
    """What goes wrong with the next `times` requests that fit `method` and `path` (a regular expression).

    cut-answer: the connection is reset after `after` body bytes. cut-request: after `after` bytes of the request's
    body were passed on. lose-answer: the registry acts, its answer is lost. wrong-range: 206 for another place.
    """

    kind: Kind
    method: str = "GET"
    path: str = ""
    times: int = 1
    after: int = 0
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Seen:
    """One request that reached the proxy; `received` and `sent` count body bytes."""

    method: str
    path: str
    headers: dict[str, str]
    status: int
    received: int
    sent: int


@dataclass
class TokenAuth:
    """Bearer (or Basic) authentication as the distribution project's token specification has it."""

    username: str = "robot"
    password: str = "secret"
    basic: bool = False
    anonymous_pull: bool = False
    life_seconds: int = 300
    issued: list[tuple[str, ...]] = field(default_factory=list)
    valid: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def revoke(self) -> None:
        """All tokens end now."""
        self.valid.clear()


class FaultyProxy:
    """An HTTP proxy before a registry; `url` is what a client is given."""

    def __init__(self, upstream: str, auth: TokenAuth | None = None) -> None:
        self.upstream = upstream
        self.auth = auth
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.lock = threading.RLock()
        self.idle = threading.Condition(self.lock)
        self.under_way = 0
        proxy = self

        class Handler(_Handler):
            faulty = proxy

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self.url = f"http://{self.address}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def take(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def requests(self, method: str, path: str = "") -> list[Seen]:
        """What was seen of `method` on paths that fit, once all requests are over."""
        with self.idle:
            assert self.idle.wait_for(lambda: self.under_way == 0, timeout=10)
            return [seen for seen in self.seen if seen.method == method and re.search(path, seen.path)]


class _Cut(Exception):
    pass


class _Handler(BaseHTTPRequestHandler):
    faulty: FaultyProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def _any(self) -> None:
        proxy = self.faulty
        self.received = self.sent = 0
        status = 0
        with proxy.lock:
            proxy.under_way += 1
        try:
            if urlsplit(self.path).path == "/token":
                status = self._token()
                return
            if proxy.auth is not None and not self._allowed(proxy.auth):
                status = 401
                self._drain()
                self._answer(401, self._challenge(proxy.auth), b'{"errors":[{"code":"UNAUTHORIZED"}]}')
                return
            status = self._pass(proxy.take(self.command, self.path))
        except (_Cut, ConnectionError):
            self.close_connection = True
            # A reset instead of an orderly end: what a dying middlebox does.
            with contextlib.suppress(OSError):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.shutdown(socket.SHUT_RDWR)
        finally:
            with proxy.idle:
                proxy.seen.append(Seen(self.command, self.path, dict(self.headers), status, self.received, self.sent))
                proxy.under_way -= 1
                proxy.idle.notify_all()

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _any  # noqa: N815 - http.server's names

    def _pass(self, fault: Fault | None) -> int:
        if fault is not None and fault.kind == "status":
            self._drain()
            self._answer(fault.status, fault.headers, fault.body)
            return fault.status
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection", "authorization")}
        if fault is not None and fault.kind == "ignore-range":
            headers.pop("Range", None)
        upstream = http.client.HTTPConnection(self.faulty.upstream, timeout=30)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            upstream.putheader("Host", self.headers["Host"])
            for name, value in headers.items():
                upstream.putheader(name, value)
            upstream.endheaders()
            left = int(self.headers.get("Content-Length", 0))
            while left:
                limit = fault.after - self.received if fault is not None and fault.kind == "cut-request" else left
                if limit <= 0:
                    raise _Cut
                data = self.rfile.read(min(left, limit, 65536))
                if not data:
                    raise _Cut
                upstream.send(data)
                self.received += len(data)
                left -= len(data)
            answer = upstream.getresponse()
            if fault is not None and fault.kind == "lose-answer":
                answer.read()
                raise _Cut
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                wrong = fault is not None and fault.kind == "wrong-range" and name.lower() == "content-range"
                if name.lower() not in ("connection", "date", "transfer-encoding"):
                    self.send_header(name, "bytes 1-2/3" if wrong else value)
            length = answer.getheader("Content-Length")
            if length is None and self.command != "HEAD" and answer.status not in (204, 304):
                self.send_header("Connection", "close")
            self.end_headers()
            while self.command != "HEAD" and (data := answer.read(65536)):
                if fault is not None and fault.kind == "corrupt":
                    data = bytes([data[0] ^ 1]) + data[1:]
                if fault is not None and fault.kind == "cut-answer" and self.sent + len(data) > fault.after:
                    self.wfile.write(data[: fault.after - self.sent])
                    self.wfile.flush()
                    self.sent = fault.after
                    # Let the bytes reach the client before the reset throws away what is still buffered.
                    time.sleep(0.05)
                    raise _Cut
                self.wfile.write(data)
                self.sent += len(data)
            return answer.status
        finally:
            upstream.close()

    def _drain(self) -> None:
        left = int(self.headers.get("Content-Length", 0))
        while left and (data := self.rfile.read(min(left, 65536))):
            left -= len(data)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.sent = len(body)

    # --- authentication -----------------------------------------------------------------------------------------

    def _wanted(self) -> str:
        match = re.match(r"/v2/(.+?)/(?:manifests|blobs)/", self.path)
        if match is None:
            return ""
        return f"repository:{match[1]}:" + ("pull" if self.command in ("GET", "HEAD") else "pull,push")

    def _allowed(self, auth: TokenAuth) -> bool:
        given = self.headers.get("Authorization", "")
        if auth.basic:
            return given == "Basic " + base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()
        granted = auth.valid.get(given.removeprefix("Bearer "))
        if granted is None:
            return False
        wanted = self._wanted()
        return not wanted or any(scope == wanted or scope == wanted.replace(":pull", ":pull,push") for scope in granted)

    def _challenge(self, auth: TokenAuth) -> dict[str, str]:
        if auth.basic:
            return {"WWW-Authenticate": 'Basic realm="test"'}
        scope = f',scope="{self._wanted()}"' if self._wanted() else ""
        return {"WWW-Authenticate": f'Bearer realm="{self.faulty.url}/token",service="test registry"{scope}'}

    def _token(self) -> int:
        auth = self.faulty.auth
        assert auth is not None
        self._drain()
        scopes = tuple(parse_qs(urlsplit(self.path).query).get("scope", []))
        expected = "Basic " + base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()
        given = self.headers.get("Authorization")
        anonymous = given is None and auth.anonymous_pull and all(scope.endswith(":pull") for scope in scopes)
        if given != expected and not anonymous:
            self._answer(401, {}, b"{}")
            return 401
        token = f"token-{len(auth.issued)}"
        auth.issued.append(scopes)
        auth.valid[token] = scopes
        self._answer(200, {}, json.dumps({"token": token, "expires_in": auth.life_seconds}).encode())
        return 200

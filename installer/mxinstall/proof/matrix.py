"""A small Matrix client that behaves as a real one does: it retries what the protocol makes safe to repeat.

Sends carry a transaction id, so that a repeated send is the same message. Not here: what is proved with it.
"""

from __future__ import annotations

import itertools
import json
import random
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

Json = dict[str, Any]
PATIENCE_SECONDS = 30.0
"""How long a request that may be repeated is repeated before it counts as failed."""


class MatrixError(Exception):
    """A request did not get the answer it should."""


class MatrixRefused(MatrixError):
    """The homeserver answered with an error; `retry_after_seconds` when it asks to come back later."""

    def __init__(self, request: str, status: int, body: bytes) -> None:
        try:
            answer = json.loads(body)
            self.code, detail = str(answer.get("errcode", "")), str(answer.get("error", ""))
            self.retry_after_seconds = float(answer.get("retry_after_ms") or 0) / 1000
        except (ValueError, AttributeError, TypeError):
            self.code, detail, self.retry_after_seconds = "", body[:200].decode(errors="replace"), 0.0
        self.status = status
        super().__init__(f"{request} was answered with {status} {self.code} {detail}".rstrip())


class MatrixUnreachable(MatrixError):
    """No answer came: no connection, a broken one, or too late."""


@dataclass(frozen=True)
class Account:
    """A user that we made and whose password we know."""

    user_id: str
    password: str


class Homeserver:
    """The client API at one base URL, as users reach it. Thread-safe.

    `ca` (PEM) is what a certificate is verified against, besides its name, which is always the one in the URL.
    `address` (`host:port`) is connected to where the site's DNS does not know that name on this host.

    `method` calls raise MatrixRefused or MatrixUnreachable. GET, PUT and DELETE are repeated for `patience_seconds`
    on a broken connection, 429, 500, 502, 503, 504; POST only when it surely was not handled (429, no connection).
    """

    def __init__(self, base_url: str, ca: str | None = None, address: str | None = None, connections: int = 16) -> None:
        self.base_url = base_url.rstrip("/")
        options: dict[str, Any] = {"ca_cert_data": ca} if ca else {}
        self._headers: dict[str, str] = {}
        self._connected = self.base_url
        if address:
            public = urlsplit(self.base_url)
            self._connected = f"{public.scheme}://{address}"
            self._headers["Host"] = public.netloc
            if public.scheme == "https":
                options |= {"server_hostname": public.hostname, "assert_hostname": public.hostname}
        self._pool = urllib3.PoolManager(maxsize=connections, retries=False, **options)

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        token: str | None = None,
        query: Mapping[str, str | int] | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        timeout_seconds: float = 30.0,
    ) -> bytes:
        """The body of a 2xx answer. `timeout_seconds` bounds one attempt."""
        end = time.monotonic() + patience_seconds
        for attempt in itertools.count(1):
            try:
                return self._once(method, path, body, token=token, query=query, timeout_seconds=timeout_seconds)
            except MatrixError as fault:
                pause = max(_backoff_seconds(attempt), getattr(fault, "retry_after_seconds", 0.0))
                if not _repeatable(method, fault) or time.monotonic() + pause >= end:
                    raise
                time.sleep(pause)
        raise AssertionError("unreachable")

    def _once(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | None,
        *,
        token: str | None,
        query: Mapping[str, str | int] | None,
        timeout_seconds: float,
    ) -> bytes:
        headers = {**self._headers, **({"Authorization": f"Bearer {token}"} if token else {})}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        url = self._connected + path + (f"?{urlencode(query)}" if query else "")
        timeout = urllib3.Timeout(connect=5.0, read=timeout_seconds)
        try:
            answer = self._pool.request(method, url, body=data, headers=headers, timeout=timeout)
        except HTTPError as fault:
            unsent = isinstance(fault, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError)
            raise (_NotSent if unsent else MatrixUnreachable)(f"{method} {path}: {fault}") from fault
        if not 200 <= answer.status < 300:
            raise MatrixRefused(f"{method} {path}", answer.status, answer.data)
        return answer.data

    def json(self, method: str, path: str, body: Mapping[str, Any] | None = None, **options: Any) -> Json:
        """As `call`, with a JSON object as the answer."""
        parsed: Json = json.loads(self.call(method, path, body, **options))
        return parsed

    def versions(self) -> list[str]:
        """The versions of the specification that the homeserver speaks; needs no account."""
        return [str(version) for version in self.json("GET", "/_matrix/client/versions")["versions"]]

    def login(self, account: Account, device_name: str = "mxinstall proof") -> Session:
        """A new device of `account`, by its password."""
        name = {"type": "m.id.user", "user": account.user_id}
        request = {"type": "m.login.password", "identifier": name, "password": account.password}
        answer = self.json("POST", "/_matrix/client/v3/login", {**request, "initial_device_display_name": device_name})
        return Session(self, account, str(answer["access_token"]), str(answer["device_id"]))


def _backoff_seconds(attempt: int) -> float:
    # Jitter, so that many senders that failed together do not come back together.
    return float(min(0.2 * 2**attempt, 5.0)) * random.uniform(0.5, 1.0)


class _NotSent(MatrixUnreachable):
    """No connection came about, so the request was surely not handled."""


def _repeatable(method: str, fault: MatrixError) -> bool:
    if isinstance(fault, _NotSent):
        return True
    if isinstance(fault, MatrixRefused):
        return fault.status == 429 or (method != "POST" and fault.status in (500, 502, 503, 504))
    return method != "POST"


@dataclass(frozen=True)
class Message:
    """A text message as a client finds it in a timeline."""

    event_id: str
    sender: str
    body: str


class Session:
    """One logged-in device."""

    def __init__(self, server: Homeserver, account: Account, token: str, device_id: str) -> None:
        self.server = server
        self.account = account
        self.device_id = device_id
        self.token = token

    def json(self, method: str, path: str, body: Mapping[str, Any] | None = None, **options: Any) -> Json:
        """A JSON call as this device."""
        return self.server.json(method, path, body, token=self.token, **options)

    def whoami(self) -> str:
        """The user id that the homeserver sees behind this token."""
        return str(self.json("GET", "/_matrix/client/v3/account/whoami")["user_id"])

    def create_room(self, name: str, invite: str) -> str:
        """A private room with one invited user; its id."""
        body = {"preset": "private_chat", "name": name, "invite": [invite]}
        return str(self.json("POST", "/_matrix/client/v3/createRoom", body)["room_id"])

    def join(self, room_id: str) -> None:
        """Accept an invitation."""
        self.json("POST", f"/_matrix/client/v3/join/{quote(room_id, safe='')}", {})

    def send(self, room_id: str, body: str, transaction: str, **options: Any) -> str:
        """Send a text; its event id. The same `transaction` of this device is the same message, however often sent."""
        path = f"/_matrix/client/v3/rooms/{quote(room_id, safe='')}/send/m.room.message/{quote(transaction, safe='')}"
        return str(self.json("PUT", path, {"msgtype": "m.text", "body": body}, **options)["event_id"])

    def sync(
        self, since: str | None = None, timeout_seconds: float = 0.0, request_timeout_seconds: float = 60.0
    ) -> Json:
        """One /sync; the homeserver holds it for at most `timeout_seconds` when there is nothing new."""
        shown = json.dumps({"presence": {"types": []}, "room": {"timeline": {"limit": 1000}}})
        query: dict[str, str | int] = {"timeout": int(timeout_seconds * 1000), "filter": shown}
        if since:
            query["since"] = since
        return self.json("GET", "/_matrix/client/v3/sync", query=query, timeout_seconds=request_timeout_seconds)

    def history(self, room_id: str, page: int = 100, before: str | None = None) -> Iterator[Message]:
        """Every text message of the room, or those from the token `before` on, the newest first, page by page as far
        back as there is any."""
        path = f"/_matrix/client/v3/rooms/{quote(room_id, safe='')}/messages"
        query: dict[str, str | int] = {"dir": "b", "limit": page}
        if before:
            query["from"] = before
        for _ in range(10_000):
            answer = self.json("GET", path, query=query)
            yield from texts(answer.get("chunk", []))
            if not answer.get("end"):
                return
            query["from"] = answer["end"]

    def upload(self, content: bytes, name: str) -> str:
        """Upload media; its mxc:// URI."""
        answer = self.server.call(
            "POST", "/_matrix/media/v3/upload", content, token=self.token, query={"filename": name}, timeout_seconds=60
        )
        return str(json.loads(answer)["content_uri"])

    def download(self, uri: str) -> bytes:
        """The bytes behind an mxc:// URI, as a logged-in user gets them."""
        path = f"/_matrix/client/v1/media/download/{uri.removeprefix('mxc://')}"
        return self.server.call("GET", path, token=self.token, timeout_seconds=60)

    def deactivate(self) -> None:
        """End this account for good, by its password."""
        name = {"type": "m.id.user", "user": self.account.user_id}
        proof = {"type": "m.login.password", "identifier": name, "password": self.account.password}
        self.json("POST", "/_matrix/client/v3/account/deactivate", {"auth": proof, "erase": True})


def texts(events: list[Json]) -> Iterator[Message]:
    """The text messages among timeline events."""
    for event in events:
        if event.get("type") == "m.room.message" and "body" in event.get("content", {}):
            yield Message(str(event["event_id"]), str(event["sender"]), str(event["content"]["body"]))


def texts_of_room(sync: Json, room_id: str) -> list[Message]:
    """The text messages that one /sync answer shows of a joined room."""
    return list(texts(_timeline(sync, room_id).get("events", [])))


def gap_of_room(sync: Json, room_id: str) -> str | None:
    """Where the gap ends that one /sync answer leaves in a joined room, as a token for `history`; None without one.

    A homeserver shows no more of a timeline than its `filter_timeline_limit`, 100 in Synapse, whatever a client asks
    for; after a silence more than that may be new, and a client reads the rest from the room's history.
    """
    timeline = _timeline(sync, room_id)
    return str(timeline["prev_batch"]) if timeline.get("limited") else None


def _timeline(sync: Json, room_id: str) -> Json:
    found: Json = sync.get("rooms", {}).get("join", {}).get(room_id, {}).get("timeline", {})
    return found


def transaction_id() -> str:
    """An id that no other send of this device has."""
    return f"mxproof-{secrets.token_hex(8)}"

"""A blob on its way to a registry, which is asked how far it came after every fault."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol
from urllib.parse import urlencode, urljoin

from sitebundle.digest import Digest
from sitebundle.errors import RegistryRefused
from sitebundle.oci.exchange import Exchange
from sitebundle.oci.retry import Passing
from sitebundle.oci.transport import Body, Response

CHUNK_BYTES = 64 << 20
"""Of one PATCH: large enough that its round trip does not show, small enough for proxies with a body limit."""
WHOLE_BYTES = 4 << 20
"""A blob up to this size goes in one PUT, without PATCH."""
BUFFER_BYTES = 1 << 20
SLOWEST_STORE_BYTES = 16 << 20
"""Per second: what the disk of a slow registry does while it hashes and syncs a whole blob before it answers."""


class Readable(Protocol):
    """What a blob is read from."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the front of `buffer`; how many bytes were filled, 0 at the end."""
        ...


class _SourceFault(Exception):
    """Carries what a source raised through urllib3, which would take an OSError for the network's."""


class Upload:
    """One blob on its way to a registry."""

    def __init__(
        self,
        exchange: Exchange,
        repository: str,
        digest: Digest,
        size: int,
        *,
        source: Callable[[int], AbstractContextManager[Readable]],
        progress: Callable[[int], None],
        opened: Callable[[str], None],
    ) -> None:
        self._exchange = exchange
        self._repository = repository
        self._scopes = exchange.push(repository)
        self._digest = digest
        self._size = size
        self._source = source
        self._progress = progress
        self._opened = opened
        self._action = f"upload of {digest} to {repository}"
        self._patience = exchange.patience(self._action)
        self._sent = 0
        self._reported = 0
        self._furthest = 0
        self._resumed = False
        self._spoilt = False

    def run(self, session: str | None = None) -> int:
        """Send it, on from `session`; how many bytes were really sent, the ones sent twice included."""
        offset = 0
        broken = session is not None
        while True:
            try:
                if broken:
                    if self._already_there():
                        self._report(self._size)
                        return self._sent
                    session, offset = self._where(session)
                    broken = False
                if session is None:
                    session, offset = self._open(), 0
                while offset < self._size and self._size > WHOLE_BYTES:
                    session, offset = self._patch(session, offset)
                    self._advanced(offset)
                    self._report(offset)
                self._commit(session, offset)
                self._report(self._size)
                return self._sent
            except Passing as fault:
                self._patience.wait(fault)
                broken = True
            except _SourceFault as fault:
                raise fault.__cause__ or fault from None

    def _advanced(self, offset: int) -> None:
        """Only what no attempt reached before is progress: a blob that never gets further is not sent for ever."""
        if offset > self._furthest:
            self._patience.progressed(offset - self._furthest)
            self._furthest = offset

    def _open(self) -> str:
        url = self._exchange.url(self._repository, "blobs/uploads/")
        with self._call("POST", url, body=b"") as response:
            if response.status != 202 or "location" not in response.headers:
                raise self._refused(response)
            session = urljoin(response.url, response.headers["location"])
        self._resumed = self._spoilt = False
        if self._size > WHOLE_BYTES:
            self._opened(session)
        return session

    def _patch(self, session: str, offset: int) -> tuple[str, int]:
        """Send one chunk; the next session URL and the registry's own offset."""
        length = min(CHUNK_BYTES, self._size - offset)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(length),
            "Content-Range": f"{offset}-{offset + length - 1}",
        }
        with self._call("PATCH", session, headers, lambda: self._chunk(offset, length)) as response:
            if response.status in (404, 416):
                raise Passing(f"{response.status} for an upload under way", status=response.status)
            if response.status not in (202, 204):
                raise self._refused(response)
            reached = _reached(response)
            if reached is not None and not offset < reached <= offset + length:
                raise Passing(f"{length} bytes sent from {offset} on, and it says that it has {reached}")
            session = urljoin(response.url, response.headers.get("location", session))
        self._opened(session)
        return session, offset + length if reached is None else reached

    def _commit(self, session: str, offset: int) -> None:
        """Close the upload; a small blob's bytes go along."""
        headers = {"Content-Type": "application/octet-stream"}
        body: Body = b""
        if offset < self._size:
            length = self._size - offset
            headers["Content-Length"] = str(length)
            body = lambda: self._chunk(offset, length)  # noqa: E731
        url = session + ("&" if "?" in session else "?") + urlencode({"digest": self._digest})
        with self._call("PUT", url, headers, body, answer_seconds=self._size / SLOWEST_STORE_BYTES) as response:
            if response.status == 404:
                raise Passing("404 for an upload under way", status=404)
            if response.status == 400 and self._resumed:
                # Two requests may have written at once: ours, and what was left of the broken one. Then all anew.
                self._resumed, self._spoilt = False, True
                raise Passing("what it had of a broken upload does not fit", status=400)
            if response.status not in (201, 204):
                raise self._refused(response)

    def _where(self, session: str | None) -> tuple[str | None, int]:
        """Ask how far the upload came; a new one when the registry forgot it."""
        if session is None or self._size <= WHOLE_BYTES or self._spoilt:
            return None, 0
        with self._call("GET", session) as response:
            reached = _reached(response)
            if response.status not in (200, 202, 204) or reached is None or reached > self._size:
                return None, 0
            self._advanced(reached)
            self._resumed = True
            return urljoin(response.url, response.headers.get("location", session)), reached

    def _already_there(self) -> bool:
        """Whether the registry took the blob although its answer was lost."""
        url = self._exchange.url(self._repository, f"blobs/{self._digest}")
        with self._call("HEAD", url) as response:
            return response.status == 200 and response.headers.get("content-length") == str(self._size)

    def _chunk(self, offset: int, length: int) -> Iterator[memoryview]:
        view = memoryview(bytearray(min(BUFFER_BYTES, max(length, 1))))
        try:
            with self._source(offset) as stream:
                left = length
                while left:
                    count = stream.readinto(view[: min(len(view), left)])
                    if count == 0:
                        raise EOFError(f"the source of {self._digest} ends {left} bytes early")
                    left -= count
                    yield view[:count]
                    self._sent += count
                    self._report(offset + length - left)
        except Exception as fault:
            raise _SourceFault from fault

    def _report(self, position: int) -> None:
        if position > self._reported:
            self._progress(position - self._reported)
            self._reported = position

    def _call(
        self,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        body: Body = None,
        *,
        answer_seconds: float = 0.0,
    ) -> Response:
        # Once: whatever goes wrong on the way of one blob is waited out by its one patience.
        return self._exchange.call(
            method, url, self._scopes, headers, body, action=self._action, once=True, answer_seconds=answer_seconds
        )

    def _refused(self, response: Response) -> RegistryRefused:
        return self._exchange.refused(self._action, response)


def _reached(response: Response) -> int | None:
    """The registry's own offset after `Range: 0-N`. An empty upload is also told as `0-0`."""
    match = re.fullmatch(r"(?:bytes=)?0-(-?\d+)", response.headers.get("range", ""))
    if match is None:
        return None
    last = int(match[1])
    return last + 1 if last > 0 else 0

"""One client for pull and push: what a registry has, its bytes from any offset, and what it should have.

It speaks the OCI distribution specification over `transport`; it knows nothing of bundles, locks or sites.
Bytes that were named by a digest are verified where they are small; a blob's stream is hashed by who reads it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol
from urllib.parse import urlencode, urljoin, urlsplit

from sitebundle.digest import Digest
from sitebundle.errors import BlobCorrupt, RegistryRefused, RegistryUnreachable
from sitebundle.events import Sink, silent
from sitebundle.oci.auth import Authorizer, Scopes, pull_scope, push_scope
from sitebundle.oci.credentials import Credentials, stored_credentials
from sitebundle.oci.descriptor import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from sitebundle.oci.endpoint import Endpoint, Mirrors
from sitebundle.oci.retry import Passing, Patience, RetryPolicy
from sitebundle.oci.transport import Body, Response, Transport

__all__ = [
    "BlobStream",
    "Credentials",
    "Descriptor",
    "Endpoint",
    "Mirrors",
    "Readable",
    "Registry",
    "RetryPolicy",
    "stored_credentials",
]

MOST_MANIFEST_BYTES = 16 << 20
CHUNK_BYTES = 64 << 20
"""Of one PATCH: large enough that its round trip does not show, small enough for proxies with a body limit."""
WHOLE_BYTES = 4 << 20
"""A blob up to this size goes in one PUT, without PATCH."""
BUFFER_BYTES = 1 << 20
SLOWEST_STORE_BYTES = 16 << 20
"""Per second: what the disk of a slow registry does while it hashes and syncs a whole blob before it answers."""

_ACCEPT = ", ".join((*INDEX_TYPES, *MANIFEST_TYPES))
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


class Readable(Protocol):
    """What a blob is read from."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the front of `buffer`; how many bytes were filled, 0 at the end."""
        ...


class Registry:
    """One registry, or one mirror of it; thread-safe, one pool of connections.

    Every method raises RegistryUnreachable when nothing answers after patience ended and RegistryRefused for an
    answer that means no; what passes by itself (429, 5xx, a broken connection) is tried again before.
    Without `credentials` requests are anonymous: `stored_credentials(host)` finds what docker has.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Credentials | None = None,
        sink: Sink = silent,
        *,
        policy: RetryPolicy | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._transport = Transport(endpoint.ca, policy, sink)
        self._auth = Authorizer(self._transport, endpoint.host, credentials)

    @property
    def name(self) -> str:
        """`host[:port]`, for messages."""
        return self.endpoint.host

    def ping(self) -> None:
        """Ask whether a registry is there; two attempts only. Raises RegistryUnreachable or RegistryRefused."""
        policy = RetryPolicy(attempts=2, base_seconds=0.2, sleep=self._transport.policy.sleep)
        with self._call("GET", f"{self.endpoint.url}/v2/", (), action="the API version", policy=policy) as response:
            if response.status != 200:
                raise self._refused("the API version", response)

    # --- reading --------------------------------------------------------------------------------------------

    def resolve(self, repository: str, reference: str) -> Descriptor | None:
        """What `reference` (a tag or a digest) names now; None when the registry has no such thing.

        HEAD, which no registry counts against a pull limit; GET where the answer lacks digest, size or type.
        """
        url = self._url(repository, f"manifests/{reference}")
        action = f"manifest {repository}:{reference}"
        with self._call("HEAD", url, self._pull(repository), {"Accept": _ACCEPT}, action=action) as response:
            if response.status == 404:
                return None
            if response.status == 200 and (found := _descriptor_of(response)) is not None:
                return found
            if response.status in (401, 403):
                raise self._refused(action, response)
        try:
            return self.manifest(repository, reference)[0]
        except RegistryRefused as refusal:
            if refusal.fields["status"] == 404:
                return None
            raise

    def manifest(self, repository: str, reference: str) -> tuple[Descriptor, bytes]:
        """A manifest or index with its bytes, which are verified against a digest reference.

        Raises BlobCorrupt when the bytes do not have the digest asked for, or announced for a tag.
        """
        url = self._url(repository, f"manifests/{reference}")
        action = f"manifest {repository}:{reference}"
        media_type, announced, body = self._small(
            url, repository, {"Accept": _ACCEPT}, action=action, most_bytes=MOST_MANIFEST_BYTES
        )
        digest = Digest.of(body)
        expected = reference if reference.startswith("sha256:") else announced
        if expected is not None and expected != digest:
            raise BlobCorrupt(registry=self.name, seen=digest, digest=expected)
        if media_type not in (*INDEX_TYPES, *MANIFEST_TYPES):
            media_type = _media_type_inside(body) or media_type
        return Descriptor(media_type, digest, len(body)), body

    def blob_size(self, repository: str, digest: Digest) -> int | None:
        """The size in bytes of a blob that `repository` has; None when it has not."""
        action = f"blob {digest} of {repository}"
        with self._call(
            "HEAD", self._url(repository, f"blobs/{digest}"), self._pull(repository), action=action
        ) as response:
            if response.status == 404:
                return None
            if response.status != 200 or not response.headers.get("content-length", "").isdigit():
                raise self._refused(action, response)
            return int(response.headers["content-length"])

    def read_blob(self, repository: str, digest: Digest, most_bytes: int = MOST_MANIFEST_BYTES) -> bytes:
        """A small blob (a config), verified. Raises BlobCorrupt."""
        action = f"blob {digest} of {repository}"
        url = self._url(repository, f"blobs/{digest}")
        _, _, body = self._small(url, repository, {}, action=action, most_bytes=most_bytes)
        if Digest.of(body) != digest:
            raise BlobCorrupt(registry=self.name, seen=Digest.of(body), digest=digest)
        return body

    def blob(self, repository: str, digest: Digest, offset: int = 0) -> BlobStream:
        """The blob's bytes from `offset`, or from 0 when the registry does not know ranges: see `.offset`.

        The bytes are not verified here: the reader hashes them. A connection that breaks is resumed inside.
        """
        return BlobStream(self, repository, digest, offset)

    # --- writing --------------------------------------------------------------------------------------------

    def mount(self, repository: str, digest: Digest, from_repository: str) -> bool:
        """Let `repository` have a blob that `from_repository` of this registry has; False when it does not."""
        query = urlencode({"mount": digest, "from": self._path(from_repository)})
        scopes = (*self._push(repository), *self._pull(from_repository))
        action = f"mount of {digest} into {repository}"
        url = self._url(repository, f"blobs/uploads/?{query}")
        with self._call("POST", url, scopes, body=b"", action=action) as response:
            if response.status == 201:
                return True
            if response.status == 202:
                session = urljoin(response.url, response.headers.get("location", ""))
            elif response.status in (404, 405):
                return False
            else:
                raise self._refused(action, response)
        # The specification lets the registry open an upload instead: we do not want it.
        with contextlib.suppress(RegistryRefused, RegistryUnreachable):
            self._call("DELETE", session, scopes, action="end of an upload").close()
        return False

    def upload(
        self,
        repository: str,
        digest: Digest,
        size: int,
        source: Callable[[int], AbstractContextManager[Readable]],
        progress: Callable[[int], None] = lambda step: None,
        *,
        session: str | None = None,
        opened: Callable[[str], None] = lambda session: None,
    ) -> int:
        """Send a blob of `size` bytes; how many bytes were really sent, the ones sent twice included.

        `source(offset)` opens the blob's bytes at `offset`; what it raises comes out as it is. `progress` is
        called with the bytes just taken, each byte of the blob counted once. After a fault the registry is asked
        how far it came, and sending goes on there; so it does at the `session` of a process that was killed, which
        `opened` was told. Small blobs go in one request and have none.
        """
        upload = _Upload(self, repository, digest, size, source=source, progress=progress, opened=opened)
        return upload.run(session)

    def put_manifest(self, repository: str, reference: str, body: bytes, media_type: str) -> None:
        """Name `body` by `reference` (a tag or its digest), byte for byte.

        Raises BlobCorrupt when the registry took it for something else.
        """
        url = self._url(repository, f"manifests/{reference}")
        action = f"manifest {repository}:{reference}"
        with self._call(
            "PUT", url, self._push(repository), {"Content-Type": media_type}, body, action=action
        ) as response:
            if response.status not in (200, 201, 202):
                raise self._refused(action, response)
            seen = response.headers.get("docker-content-digest")
        if seen is not None and seen != Digest.of(body):
            raise BlobCorrupt(registry=self.name, seen=seen, digest=Digest.of(body))

    # --- shared by streams and uploads ------------------------------------------------------------------------

    def _path(self, repository: str) -> str:
        return f"{self.endpoint.path_prefix}/{repository}" if self.endpoint.path_prefix else repository

    def _url(self, repository: str, rest: str) -> str:
        return f"{self.endpoint.url}/v2/{self._path(repository)}/{rest}"

    def _pull(self, repository: str) -> Scopes:
        return (pull_scope(self._path(repository)),)

    def _push(self, repository: str) -> Scopes:
        return (push_scope(self._path(repository)),)

    def _patience(self, action: str) -> Patience:
        return self._transport.patience(self.endpoint.url, action)

    def _call(
        self,
        method: str,
        url: str,
        scopes: Scopes,
        headers: dict[str, str] | None = None,
        body: Body = None,
        *,
        action: str,
        policy: RetryPolicy | None = None,
        once: bool = False,
        answer_seconds: float = 0.0,
    ) -> Response:
        """One authorized exchange; `once`: a fault that may pass is raised as Passing, not waited out.

        `answer_seconds`: how much longer than usual the answer may take.
        """
        for last in (False, True):
            # An upload's Location may lead to another host, which our credentials are not meant for.
            ours = urlsplit(url).netloc == self.endpoint.host
            sent = self._auth.header(scopes) if ours else {}
            everything = {**(headers or {}), **sent}
            if once:
                response = self._transport.once(method, url, everything, body, answer_seconds)
            else:
                response = self._transport.exchange(method, url, everything, body, action=action, policy=policy)
            if response.status != 401 or last or not ours:
                return response
            with response:
                if not self._auth.challenged(response.headers.get("www-authenticate", ""), sent, scopes):
                    raise self._refused(action, response)
        raise AssertionError("unreachable")

    def _small(
        self, url: str, repository: str, headers: dict[str, str], *, action: str, most_bytes: int
    ) -> tuple[str, str | None, bytes]:
        patience = self._patience(action)
        while True:
            try:
                with self._call("GET", url, self._pull(repository), headers, action=action, once=True) as response:
                    if response.status != 200:
                        raise self._refused(action, response)
                    kind = response.headers.get("content-type", "").partition(";")[0].strip()
                    try:
                        body = response.read(most_bytes)
                    except ValueError as fault:
                        raise RegistryRefused(
                            registry=self.name, action=action, status=response.status, detail=str(fault)
                        ) from fault
                    return kind, response.headers.get("docker-content-digest"), body
            except Passing as fault:
                patience.wait(fault)

    def _refused(self, action: str, response: Response) -> RegistryRefused:
        return RegistryRefused(registry=self.name, action=action, status=response.status, detail=_detail(response))


class BlobStream:
    """A blob's bytes as they arrive; a broken connection is resumed where it broke, by Range.

    `offset` is where the first byte read really stands, `size` the size of the whole blob in bytes when the
    registry says it. Use as a context manager. Not thread-safe.
    """

    def __init__(self, registry: Registry, repository: str, digest: Digest, offset: int) -> None:
        self._registry = registry
        self._repository = repository
        self._url = registry._url(repository, f"blobs/{digest}")
        self._action = f"blob {digest} of {repository}"
        self._patience = registry._patience(self._action)
        self._response: Response | None = None
        self.size: int | None = None
        while True:
            try:
                self.offset = self._start(offset)
                break
            except Passing as fault:
                self._patience.wait(fault)
        self._position = self.offset

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill the front of `buffer`; how many bytes, 0 at the end. Raises RegistryUnreachable."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, b"" at the end."""
        while True:
            try:
                if self._response is None:
                    self._resume()
                data = self._response.read_some(size) if self._response is not None else b""
            except Passing as fault:
                self.close()
                self._patience.wait(fault)
                continue
            self._position += len(data)
            self._patience.progressed(len(data))
            return data

    def close(self) -> None:
        """Let go of the connection."""
        if self._response is not None:
            self._response.close()
            self._response = None

    def __enter__(self) -> BlobStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _resume(self) -> None:
        if self.size is not None and self._position >= self.size:
            return
        start = self._start(self._position)
        while start < self._position:
            # The registry ignored the range: read again what we have, and drop it.
            assert self._response is not None
            dropped = self._response.read_some(min(BUFFER_BYTES, self._position - start))
            if not dropped:
                raise Passing("the blob became shorter")
            start += len(dropped)

    def _start(self, offset: int) -> int:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        scopes = self._registry._pull(self._repository)
        response = self._registry._call("GET", self._url, scopes, headers, action=self._action, once=True)
        try:
            start, size = _placed(response, offset)
            if start is None or (self.size is not None and size is not None and size != self.size):
                raise self._registry._refused(self._action, response)
        except BaseException:
            response.close()
            raise
        self.size = size if size is not None else self.size
        if response.status == 416:
            response.close()
        else:
            self._response = response
        return start


class _SourceFault(Exception):
    """Carries what a source raised through urllib3, which would take an OSError for the network's."""


class _Upload:
    """One blob on its way to a registry."""

    def __init__(
        self,
        registry: Registry,
        repository: str,
        digest: Digest,
        size: int,
        *,
        source: Callable[[int], AbstractContextManager[Readable]],
        progress: Callable[[int], None],
        opened: Callable[[str], None],
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._scopes = registry._push(repository)
        self._digest = digest
        self._size = size
        self._source = source
        self._progress = progress
        self._opened = opened
        self._action = f"upload of {digest} to {repository}"
        self._patience = registry._patience(self._action)
        self._sent = 0
        self._reported = 0
        self._furthest = 0
        self._resumed = False
        self._spoilt = False

    def run(self, session: str | None = None) -> int:
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
        url = self._registry._url(self._repository, "blobs/uploads/")
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
        url = self._registry._url(self._repository, f"blobs/{self._digest}")
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
        return self._registry._call(
            method, url, self._scopes, headers, body, action=self._action, once=True, answer_seconds=answer_seconds
        )

    def _refused(self, response: Response) -> RegistryRefused:
        return self._registry._refused(self._action, response)


def _descriptor_of(response: Response) -> Descriptor | None:
    kind = response.headers.get("content-type", "").partition(";")[0].strip()
    digest = response.headers.get("docker-content-digest", "")
    length = response.headers.get("content-length", "")
    if kind not in (*INDEX_TYPES, *MANIFEST_TYPES) or not length.isdigit() or not int(length):
        return None
    try:
        return Descriptor(kind, Digest(digest), int(length))
    except ValueError:
        return None


def _media_type_inside(body: bytes) -> str | None:
    try:
        inside = json.loads(body)
    except ValueError:
        return None
    kind = inside.get("mediaType") if isinstance(inside, dict) else None
    return kind if isinstance(kind, str) else None


def _placed(response: Response, asked: int) -> tuple[int | None, int | None]:
    """Where a GET's body starts and how large the whole is; a start of None: not an answer that we can use."""
    if response.status == 200:
        length = response.headers.get("content-length", "")
        return 0, int(length) if length.isdigit() else None
    match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    if match is None:
        return None, None
    size = None if match[3] == "*" else int(match[3])
    if response.status == 206 and match[1] is not None and int(match[1]) == asked:
        return asked, size
    if response.status == 416 and size == asked:
        return asked, size
    return None, None


def _reached(response: Response) -> int | None:
    """The registry's own offset after `Range: 0-N`. An empty upload is also told as `0-0`."""
    match = re.fullmatch(r"(?:bytes=)?0-(-?\d+)", response.headers.get("range", ""))
    if match is None:
        return None
    last = int(match[1])
    return last + 1 if last > 0 else 0


def _detail(response: Response) -> str:
    """What the registry says about a refusal, at most 300 characters, on one line."""
    try:
        body = response.read(64 << 10)
    except (Passing, ValueError):
        return ""
    try:
        errors = json.loads(body)["errors"]
        text = "; ".join(f"{error.get('code', '')}: {error.get('message', '')}" for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        text = body.decode("utf-8", "replace")
    return " ".join(text.split())[:300]

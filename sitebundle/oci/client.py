"""One client for pull and push: what a registry has, its bytes from any offset, and what it should have.

It speaks the OCI distribution specification over `transport`; it knows nothing of bundles, locks or sites.
Bytes that were named by a digest are verified where they are small; a blob's stream is hashed by who reads it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from urllib.parse import urlencode, urljoin

from sitebundle.digest import Digest
from sitebundle.errors import BlobCorrupt, RegistryRefused, RegistryUnreachable
from sitebundle.events import Sink, silent
from sitebundle.oci.credentials import Credentials, stored_credentials
from sitebundle.oci.descriptor import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from sitebundle.oci.endpoint import Endpoint, Mirrors
from sitebundle.oci.exchange import Exchange
from sitebundle.oci.retry import RetryPolicy
from sitebundle.oci.stream import BlobStream
from sitebundle.oci.transport import Response, Transport
from sitebundle.oci.upload import Readable, Upload

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

_ACCEPT = ", ".join((*INDEX_TYPES, *MANIFEST_TYPES))


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
        self._exchange = Exchange(endpoint, Transport(endpoint.ca, policy, sink), credentials)

    @property
    def name(self) -> str:
        """`host[:port]`, for messages."""
        return self.endpoint.host

    def ping(self) -> None:
        """Ask whether a registry is there; two attempts only. Raises RegistryUnreachable or RegistryRefused."""
        policy = RetryPolicy(attempts=2, base_seconds=0.2, sleep=self._exchange.transport.policy.sleep)
        action = "the API version"
        with self._exchange.call("GET", f"{self.endpoint.url}/v2/", (), action=action, policy=policy) as response:
            if response.status != 200:
                raise self._exchange.refused(action, response)

    # --- reading --------------------------------------------------------------------------------------------

    def resolve(self, repository: str, reference: str) -> Descriptor | None:
        """What `reference` (a tag or a digest) names now; None when the registry has no such thing.

        HEAD, which no registry counts against a pull limit; GET where the answer lacks digest, size or type.
        """
        url = self._exchange.url(repository, f"manifests/{reference}")
        action = f"manifest {repository}:{reference}"
        scopes = self._exchange.pull(repository)
        with self._exchange.call("HEAD", url, scopes, {"Accept": _ACCEPT}, action=action) as response:
            if response.status == 404:
                return None
            if response.status == 200 and (found := _descriptor_of(response)) is not None:
                return found
            if response.status in (401, 403):
                raise self._exchange.refused(action, response)
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
        url = self._exchange.url(repository, f"manifests/{reference}")
        action = f"manifest {repository}:{reference}"
        media_type, announced, body = self._exchange.small(
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
        with self._exchange.call(
            "HEAD", self._exchange.url(repository, f"blobs/{digest}"), self._exchange.pull(repository), action=action
        ) as response:
            if response.status == 404:
                return None
            if response.status != 200 or not response.headers.get("content-length", "").isdigit():
                raise self._exchange.refused(action, response)
            return int(response.headers["content-length"])

    def read_blob(self, repository: str, digest: Digest, most_bytes: int = MOST_MANIFEST_BYTES) -> bytes:
        """A small blob (a config), verified. Raises BlobCorrupt."""
        action = f"blob {digest} of {repository}"
        url = self._exchange.url(repository, f"blobs/{digest}")
        _, _, body = self._exchange.small(url, repository, {}, action=action, most_bytes=most_bytes)
        if Digest.of(body) != digest:
            raise BlobCorrupt(registry=self.name, seen=Digest.of(body), digest=digest)
        return body

    def blob(self, repository: str, digest: Digest, offset: int = 0) -> BlobStream:
        """The blob's bytes from `offset`, or from 0 when the registry does not know ranges: see `.offset`.

        The bytes are not verified here: the reader hashes them. A connection that breaks is resumed inside.
        """
        return BlobStream(self._exchange, repository, digest, offset)

    # --- writing --------------------------------------------------------------------------------------------

    def mount(self, repository: str, digest: Digest, from_repository: str) -> bool:
        """Let `repository` have a blob that `from_repository` of this registry has; False when it does not."""
        query = urlencode({"mount": digest, "from": self._exchange.path(from_repository)})
        scopes = (*self._exchange.push(repository), *self._exchange.pull(from_repository))
        action = f"mount of {digest} into {repository}"
        url = self._exchange.url(repository, f"blobs/uploads/?{query}")
        with self._exchange.call("POST", url, scopes, body=b"", action=action) as response:
            if response.status == 201:
                return True
            if response.status == 202:
                session = urljoin(response.url, response.headers.get("location", ""))
            elif response.status in (404, 405):
                return False
            else:
                raise self._exchange.refused(action, response)
        # The specification lets the registry open an upload instead: we do not want it.
        with contextlib.suppress(RegistryRefused, RegistryUnreachable):
            self._exchange.call("DELETE", session, scopes, action="end of an upload").close()
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
        upload = Upload(self._exchange, repository, digest, size, source=source, progress=progress, opened=opened)
        return upload.run(session)

    def put_manifest(self, repository: str, reference: str, body: bytes, media_type: str) -> None:
        """Name `body` by `reference` (a tag or its digest), byte for byte.

        Raises BlobCorrupt when the registry took it for something else.
        """
        url = self._exchange.url(repository, f"manifests/{reference}")
        action = f"manifest {repository}:{reference}"
        with self._exchange.call(
            "PUT", url, self._exchange.push(repository), {"Content-Type": media_type}, body, action=action
        ) as response:
            if response.status not in (200, 201, 202):
                raise self._exchange.refused(action, response)
            seen = response.headers.get("docker-content-digest")
        if seen is not None and seen != Digest.of(body):
            raise BlobCorrupt(registry=self.name, seen=seen, digest=Digest.of(body))


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

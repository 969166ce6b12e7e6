"""Reading back what a registry stores: one whose disk lost bits of a blob answers HEAD as if nothing had happened.

A registry keeps what it has under a digest and drops what is sent again, so rotten bytes must go first: out of our
own registry's store they are taken here, out of another's by its administrator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from mxinstall.seed.threads import Stopped
from sitebundle.digest import Digest
from sitebundle.errors import BlobCorrupt, BlobRotten
from sitebundle.events import Note, Sink, silent
from sitebundle.oci.client import Registry

BUFFER_BYTES = 1 << 20


def data_of(store: Path, digest: Digest) -> Path:
    """Where a distribution registry with `store` keeps the bytes of `digest`."""
    return store / "docker" / "registry" / "v2" / "blobs" / "sha256" / digest.hex[:2] / digest.hex / "data"


@dataclass(frozen=True)
class Readback:
    """How deeply `registry` is looked at. `store`: our own one's directory, where rotten bytes can be taken out.

    deep: what is there is read and hashed; else its size is believed.
    """

    registry: Registry
    deep: bool = False
    store: Path | None = None
    sink: Sink = silent

    def keeps(self, repositories: Set[str], digest: Digest, stop: Event) -> bool:
        """Whether a blob that `repositories` have is sound. Raises BlobRotten where it is not and cannot be made so.

        Our own registry keeps it once for all of them; another's may not.
        """
        if not self.deep:
            return True
        for repository in [min(repositories)] if self.store is not None else sorted(repositories):
            seen = self._served(repository, digest, stop)
            if seen != digest:
                self.discard(digest, seen)
                return False
        return True

    def heal_manifest(self, repository: str, digest: Digest, size: int) -> None:
        """Discard a rotten manifest of `size` bytes, if there is one. Raises BlobRotten where that cannot be done.

        Ours is read from the disk: for one that is no JSON any more the registry has a 500.
        """
        if not self.deep:
            return
        if self.store is not None:
            seen = _seen_at(data_of(self.store, digest), size)
            if seen not in (None, digest):
                self.discard(digest, seen)
        elif self.registry.resolve(repository, digest) is not None:
            try:
                self.registry.manifest(repository, digest)
            except BlobCorrupt as fault:
                self.discard(digest, fault.fields["seen"])

    def discard(self, digest: Digest, seen: object) -> None:
        """Take rotten bytes out of our own store, to be sent again. Raises BlobRotten for another's registry."""
        if self.store is None:
            raise BlobRotten(registry=self.registry.name, digest=digest, seen=seen)
        data_of(self.store, digest).unlink(missing_ok=True)
        self.sink(Note("warning", f"{self.registry.name} stored {seen} under the name of {digest}: it is sent again"))

    def _served(self, repository: str, digest: Digest, stop: Event) -> Digest:
        whole = hashlib.sha256()
        buffer = memoryview(bytearray(BUFFER_BYTES))
        with self.registry.blob(repository, digest) as stream:
            while count := stream.readinto(buffer):
                whole.update(buffer[:count])
                if stop.is_set():
                    raise Stopped
        return Digest(f"sha256:{whole.hexdigest()}")


def _seen_at(path: Path, size: int) -> Digest | str | None:
    """What a small file holds; in words when it is not even `size` bytes long, None when there is none."""
    try:
        if path.stat().st_size != size:
            return f"{path.stat().st_size} bytes"
        return Digest.of(path.read_bytes())
    except FileNotFoundError:
        return None

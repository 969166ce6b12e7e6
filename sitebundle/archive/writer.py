"""Writing a bundle: small members compressed in passing, blobs filled in at their place in any order, the tail last.

The file is preallocated; a blob's bytes go from the caller's buffer to their offset and nowhere else.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

import xxhash

from sitebundle.archive import area, frames, layout, names, seektable, stored, tarheader
from sitebundle.archive.frames import CONTENT_LIMIT, FrameFault
from sitebundle.archive.layout import Placement
from sitebundle.digest import Digest
from sitebundle.manifest import BundleManifest, Member

_CHUNK: Final = 1 << 20


class WrongContent(ValueError):
    """Data that has another digest or another length than was promised."""

    def __init__(self, name: str, seen: str, expected: str) -> None:
        super().__init__(f"{name}: {seen}, expected {expected}")
        self.seen = seen


class Checkpoint(NamedTuple):
    """How many bytes of a blob are in place, and the XXH64 of these bytes, to recognise them after a crash."""

    done_bytes: int
    prefix: str


def stored_member(name: str, size: int, digest: Digest) -> Member:
    """The manifest's entry of a member that will be stored."""
    frame_bytes = layout.stored_frame_bytes(name, size)
    return Member(name=name, size=size, digest=digest, storage="stored", frame_bytes=frame_bytes)


class SmallMembers:
    """Compressed members, made before the layout is known; their frames wait in an unnamed file.

    The file lies in `folder`, takes as many bytes as the frames, and is gone when this is closed or dies.
    """

    def __init__(self, folder: Path, created: int) -> None:
        self.members: list[Member] = []
        self._created = created
        self._offsets: dict[str, int] = {}
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()

    def add(self, name: str, data: bytes) -> Member:
        """Compress `data` into the member `name`."""
        return self.add_stream(name, len(data), [data])

    def add_stream(self, name: str, size: int, chunks: Iterable[bytes], digest: Digest | None = None) -> Member:
        """Compress `size` bytes into the member `name`.

        Raises WrongContent for another size or digest, ValueError for an unsafe or double name.
        """
        if not names.is_safe(name) or name in self._offsets:
            raise ValueError(f"a member may not be called {name[:100]!r}, or there is one already")
        head = tarheader.header(name, size, self._created, names.mode_of(name))
        whole = hashlib.sha256()

        def content() -> Iterator[bytes]:
            yield head
            seen = 0
            for chunk in chunks:
                seen += len(chunk)
                whole.update(chunk)
                yield chunk
            if seen != size:
                raise WrongContent(name, f"{seen} bytes", f"{size} bytes")
            yield bytes(tarheader.padding(size))

        begin = self._file.seek(0, os.SEEK_END)
        length = 0
        try:
            for piece in frames.compressed(content(), len(head) + size + tarheader.padding(size)):
                self._file.write(piece)
                length += len(piece)
            found = Digest("sha256:" + whole.hexdigest())
            if digest is not None and found != digest:
                raise WrongContent(name, found, digest)
        except BaseException:
            self._file.truncate(begin)
            raise
        member = Member(name=name, size=size, digest=found, storage="zstd", frame_bytes=length)
        self._offsets[name] = begin
        self.members.append(member)
        return member

    def frame(self, member: Member) -> Iterator[bytes]:
        """The pieces of a member's frame."""
        at, end = self._offsets[member.name], self._offsets[member.name] + member.frame_bytes
        self._file.flush()
        while at < end:
            piece = os.pread(self._file.fileno(), min(_CHUNK, end - at), at)
            at += len(piece)
            yield piece

    def close(self) -> None:
        """Drop the frames."""
        self._file.close()

    def __enter__(self) -> SmallMembers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BlobWriter:
    """Fills one stored member from its first byte to its last; one thread at a time."""

    def __init__(self, file: int, placement: Placement, digest: Digest) -> None:
        self._file = file
        self._placement = placement
        self._digest = digest
        self._start()

    @property
    def size(self) -> int:
        """The member's bytes."""
        return self._placement.size

    @property
    def done_bytes(self) -> int:
        """How many of them are in place."""
        return max(0, self._at - len(self._placement.header))

    def restart(self) -> None:
        """Forget what is in place."""
        self._start()

    def restore(self, checkpoint: Checkpoint) -> bool:
        """Take over what an earlier run wrote, after reading and hashing it again; False when it is not that."""
        self._start()
        buffer = memoryview(bytearray(_CHUNK))
        try:
            head = memoryview(bytearray(len(self._placement.header)))
            stored.read_frame_header(self._file, self._placement, 0)
            stored.read_content(self._file, self._placement, 0, head)
            if head != self._placement.header:
                raise FrameFault("another header")
            self._step(head, write=False)
            while self.done_bytes < checkpoint.done_bytes:
                room = min(checkpoint.done_bytes - self.done_bytes, CONTENT_LIMIT - self._at % CONTENT_LIMIT)
                part = buffer[: min(room, len(buffer))]
                stored.read_content(self._file, self._placement, self._at, part)
                self._hash(part)
                self._step(part, write=False)
        except FrameFault:
            self._start()
            return False
        if self.checkpoint() != checkpoint:
            self._start()
            return False
        return True

    def write(self, data: memoryview) -> None:
        """Put the next bytes in place. Raises WrongContent when there are too many, OSError."""
        if self.done_bytes + len(data) > self.size:
            raise WrongContent(self._placement.name, f"more than {self.size} bytes", f"{self.size} bytes")
        if self._at == 0:
            self._step(memoryview(self._placement.header), write=True)
        self._hash(data)
        self._step(data, write=True)

    def checkpoint(self) -> Checkpoint:
        """What to write into the journal now."""
        return Checkpoint(self.done_bytes, self._prefix.hexdigest())

    def finish(self) -> None:
        """Compare the digest and end the last frame. Raises WrongContent, OSError."""
        if self._at == 0:
            self.write(memoryview(b""))
        if self.done_bytes != self.size:
            raise WrongContent(self._placement.name, f"{self.done_bytes} bytes", f"{self.size} bytes")
        if self._whole.hexdigest() != self._digest.hex:
            raise WrongContent(self._placement.name, f"sha256:{self._whole.hexdigest()}", self._digest)
        if self._placement.padding:
            self._step(memoryview(bytes(self._placement.padding)), write=True)

    def _start(self) -> None:
        self._at = 0
        self._whole = hashlib.sha256()
        self._prefix = xxhash.xxh64()
        self._running = xxhash.xxh64()

    def _hash(self, data: memoryview) -> None:
        self._whole.update(data)
        self._prefix.update(data)

    def _step(self, data: memoryview, *, write: bool) -> None:
        """Go over the next content bytes, frame by frame."""
        done = 0
        while done < len(data):
            number, inside = divmod(self._at, CONTENT_LIMIT)
            if inside == 0:
                self._running = xxhash.xxh64()
                if write:
                    stored.write_frame_header(self._file, self._placement, number)
            part = data[done : done + CONTENT_LIMIT - inside]
            if write:
                stored.write_content(self._file, self._placement, self._at, part)
            self._running.update(part)
            self._at += len(part)
            done += len(part)
            if inside + len(part) == self._placement.frames[number].content_bytes:
                # Also for what was only read again: the crash may have come just before this.
                stored.write_checksum(self._file, self._placement, number, self._running)


class ArchiveWriter:
    """An archive that is growing in place. Threads may fill different members at once."""

    def __init__(self, path: Path, file: int, manifest: BundleManifest) -> None:
        self.path = path
        self.manifest = manifest
        self.layout = layout.lay_out(manifest, len(manifest.to_bytes()))
        self._file = file
        self._placements = {placement.name: placement for placement in self.layout.members}

    @classmethod
    def create(cls, path: Path, manifest: BundleManifest, small: SmallMembers) -> ArchiveWriter:
        """Preallocate `path` and write everything but the stored members and the tail. Raises OSError."""
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        writer = cls(path, file, manifest)
        try:
            os.posix_fallocate(file, 0, writer.layout.end)
            writer._put(writer.layout.version, layout.version_content())
            writer._put(writer.layout.manifest, manifest.to_bytes())
            writer._put(writer.layout.signatures, area.encode(()))
            for member in small.members:
                at = writer._placements[member.name].offset
                for piece in small.frame(member):
                    at += os.pwrite(file, piece, at)
        except BaseException:
            os.close(file)
            raise
        return writer

    @classmethod
    def reopen(cls, path: Path, manifest: BundleManifest) -> ArchiveWriter:
        """Go on with an archive that `create` began for the same manifest. Raises OSError."""
        return cls(path, os.open(path, os.O_RDWR | os.O_CLOEXEC), manifest)

    def blob(self, name: str) -> BlobWriter:
        """The writer of a stored member. Raises KeyError."""
        return BlobWriter(self._file, self._placements[name], self.manifest.member(name).digest)

    def finish(self, attestations: bytes) -> None:
        """Write the attestations, their empty signature area, the end of the tar and the seek table; sync.

        Every stored member must have been finished. Raises OSError.
        """
        created = self.manifest.created
        at = self.layout.end
        head = tarheader.header(names.ATTESTATIONS, len(attestations), created, names.mode_of(names.ATTESTATIONS))
        content = head + attestations + bytes(tarheader.padding(len(attestations)))
        frame = b"".join(frames.compressed([content], len(content)))
        placed = layout.compressed(names.ATTESTATIONS, len(attestations), at, created, len(frame))
        signatures = layout.stored(names.ATTESTATION_SIGNATURES, layout.AREA_BYTES, placed.end, created)
        _write(self._file, frame, at)
        self._put(signatures, area.encode(()))
        _write(self._file, frames.stored(tarheader.END_OF_ARCHIVE), signatures.end)
        table = seektable.encode(
            seektable.table_of(self._file, (*self.layout.placements, placed, signatures), signatures.end)
        )
        begin = signatures.end + frames.stored_bytes(len(tarheader.END_OF_ARCHIVE))
        _write(self._file, table, begin)
        os.ftruncate(self._file, begin + len(table))
        os.fsync(self._file)

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _put(self, placement: Placement, data: bytes) -> None:
        _write(self._file, frames.stored(small_content(placement, data)), placement.offset)


def small_content(placement: Placement, data: bytes) -> bytes:
    """The content of a small stored member of one frame."""
    return placement.header + data.ljust(placement.size, b"\0") + bytes(placement.padding)


def _write(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(file, view, offset)
        view, offset = view[done:], offset + done

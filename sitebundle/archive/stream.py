"""Reading one member from an open archive, verified while it goes by. Bounded memory, whatever the member holds.

A source raises FrameFault; `MemberStream`, which callers get, says which bundle and which member it was.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol

import xxhash

from sitebundle.archive import frames, stored
from sitebundle.archive.damage import damage
from sitebundle.archive.frames import CONTENT_LIMIT, FrameFault
from sitebundle.archive.layout import Placement
from sitebundle.digest import Digest

CHUNK: Final = 1 << 20


class Source(Protocol):
    """A member's data being read: `readinto` returns 0 at the end, and verifies before it gives the last byte."""

    def readinto(self, target: memoryview, /) -> int:
        """Fill some of `target`; the number of bytes, 0 at the end."""


class MemberStream:
    """A member being read; a context manager.

    `size` is the member's, in bytes. Raises BundleDamaged: at a wrong frame checksum as soon as that frame was
    read, at a wrong SHA-256 before the last byte is given, when it was read from 0 to the end.
    """

    def __init__(self, path: Path, name: str, size: int, source: Source) -> None:
        self.size = size
        self._path = path
        self._name = name
        self._source = source

    def readinto(self, target: bytearray | memoryview) -> int:
        """Fill some of `target`; the number of bytes, 0 at the end."""
        with damage(self._path, self._name):
            return self._source.readinto(memoryview(target))

    def read(self, limit: int = -1) -> bytes:
        """At most `limit` bytes, all of the rest when it is negative; empty at the end."""
        if limit >= 0:
            buffer = bytearray(min(limit, self.size))
            return bytes(memoryview(buffer)[: self.readinto(buffer)])
        parts = []
        while part := self.read(CHUNK):
            parts.append(part)
        return b"".join(parts)

    def __enter__(self) -> MemberStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class StoredSource:
    """Data of a stored member from `offset`, straight into the caller's buffer."""

    def __init__(self, file: int, placement: Placement, digest: Digest, offset: int) -> None:
        self._file = file
        self._placement = placement
        self._digest = digest
        self._whole = hashlib.sha256() if offset == 0 else None
        self._at = 0 if offset == 0 else len(placement.header) + offset
        self._end = len(placement.header) + placement.size
        # A frame that is entered in its middle has a checksum that cannot be judged.
        self._running: xxhash.xxh64 | None = None
        self._finished = offset == placement.size != 0
        if offset == 0 and bytes(self._take(len(placement.header))) != placement.header:
            raise FrameFault("the tar header is not what it must be")

    def readinto(self, target: memoryview, /) -> int:
        """Fill as much of `target` as there is data."""
        length = min(len(target), max(0, self._end - self._at))
        done = 0
        while done < length:
            step = min(length - done, CONTENT_LIMIT - self._at % CONTENT_LIMIT)
            self._pull(target[done : done + step])
            done += step
        if self._whole is not None:
            self._whole.update(target[:length])
        if self._at >= self._end and not self._finished:
            self._finish()
        return length

    def _finish(self) -> None:
        self._finished = True
        padding = self._placement.padding
        if padding and any(self._take(padding)):
            raise FrameFault("the padding is not zero")
        if self._whole is not None and self._whole.hexdigest() != self._digest.hex:
            raise FrameFault(f"the content has digest sha256:{self._whole.hexdigest()}, expected {self._digest}")

    def _take(self, length: int) -> bytearray:
        buffer = bytearray(length)
        view = memoryview(buffer)
        done = 0
        while done < length:
            step = min(length - done, CONTENT_LIMIT - self._at % CONTENT_LIMIT)
            self._pull(view[done : done + step])
            done += step
        return buffer

    def _pull(self, target: memoryview) -> None:
        """Fill `target`, which stays inside one frame; check the frame's header and checksum on the way."""
        number, inside = divmod(self._at, CONTENT_LIMIT)
        if inside == 0:
            stored.read_frame_header(self._file, self._placement, number)
            self._running = xxhash.xxh64()
        stored.read_content(self._file, self._placement, self._at, target)
        self._at += len(target)
        if self._running is not None:
            self._running.update(target)
            if inside + len(target) == self._placement.frames[number].content_bytes:
                stored.read_checksum(self._file, self._placement, number, self._running)


class CompressedSource:
    """Data of a compressed member from `offset`; what goes before it is decompressed and dropped."""

    def __init__(self, file: int, placement: Placement, digest: Digest, offset: int) -> None:
        import zstandard

        self._fault = zstandard.ZstdError
        self._placement = placement
        self._digest = digest
        frame = placement.frames[0]
        pread = reading(file)
        # Exactly one frame that is as long as the signed manifest says and declares as much as it must.
        if frames.walk(pread, frame.offset, frame.frame_bytes) != (frame.frame_bytes, frame.content_bytes):
            raise FrameFault("the frame's length or content size is not what the manifest says")
        decompressor = zstandard.ZstdDecompressor(max_window_size=frames.WINDOW_LIMIT)
        self._reader = decompressor.stream_reader(
            io.BufferedReader(_Section(file, frame.offset, frame.frame_bytes), 128 << 10)
        )
        self._whole = hashlib.sha256()
        self._left = placement.size
        self._finished = False
        if self._exactly(len(placement.header)) != placement.header:
            raise FrameFault("the tar header is not what it must be")
        skip = memoryview(bytearray(min(offset, CHUNK)))
        while placement.size - self._left < offset:
            self.readinto(skip[: offset - (placement.size - self._left)])

    def readinto(self, target: memoryview, /) -> int:
        """Fill as much of `target` as there is data."""
        length = min(len(target), self._left)
        done = 0
        while done < length:
            try:
                step = self._reader.readinto(target[done:length])
            except self._fault as fault:
                raise FrameFault(str(fault)) from fault
            if step == 0:
                raise FrameFault("the content is shorter than the manifest says")
            done += step
        self._whole.update(target[:length])
        self._left -= length
        if self._left == 0 and not self._finished:
            self._finish()
        return length

    def _finish(self) -> None:
        self._finished = True
        if any(self._exactly(self._placement.padding)):
            raise FrameFault("the padding is not zero")
        try:
            # libzstd compares the checksum when it is asked for more than there is.
            if self._reader.read(1):
                raise FrameFault("the content is longer than the manifest says")
        except self._fault as fault:
            raise FrameFault(str(fault)) from fault
        if self._whole.hexdigest() != self._digest.hex:
            raise FrameFault(f"the content has digest sha256:{self._whole.hexdigest()}, expected {self._digest}")

    def _exactly(self, length: int) -> bytes:
        parts = b""
        while len(parts) < length:
            try:
                part = self._reader.read(length - len(parts))
            except self._fault as fault:
                raise FrameFault(str(fault)) from fault
            if not part:
                raise FrameFault("the content is shorter than the manifest says")
            parts += part
        return parts


def reading(file: int) -> frames.Pread:
    """`frames.Pread` on an open file."""
    return lambda offset, length: os.pread(file, length, offset)


class _Section(io.RawIOBase):
    """A stretch of a file as a file of its own; keeps no position in the descriptor."""

    def __init__(self, file: int, offset: int, length: int) -> None:
        self._file = file
        self._offset = offset
        self._end = offset + length

    def readable(self) -> bool:
        return True

    def readinto(self, target: memoryview, /) -> int:  # type: ignore[override]
        length = min(len(target), self._end - self._offset)
        if length == 0:
            return 0
        got = os.preadv(self._file, [memoryview(target)[:length]], self._offset)
        self._offset += got
        return got

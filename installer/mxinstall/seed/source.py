"""A blob read from the archive for somebody who may ask again from the middle, and verified whole in the end.

The registry checks what it stores; this checks what the archive holds, also where nothing is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event

from mxinstall.seed.threads import Stopped
from sitebundle.archive import BundleReader, MemberStream

BUFFER_BYTES = 1 << 20


class VerifiedSource:
    """One member of the archive. Not thread-safe.

    One stream serves as many reads as go forward: read from 0 to the end it verifies the SHA-256 by itself. A
    step back opens another, which cannot; `finish` then reads the member once more.
    """

    def __init__(self, reader: BundleReader, member: str, size: int, stop: Event) -> None:
        self._reader = reader
        self._member = member
        self._size = size
        self._stop = stop
        self._stream: MemberStream | None = None
        self._position = 0
        self._from_the_start = False

    @contextmanager
    def at(self, offset: int) -> Iterator[VerifiedSource]:
        """The member's bytes from `offset`, as `Registry.upload` asks for them."""
        if self._stream is None or offset != self._position:
            self._stream = self._reader.stream(self._member, offset)
            self._position = offset
            self._from_the_start = offset == 0
        yield self

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the front of `buffer`. Raises BundleDamaged, and Stopped when the seeding ends."""
        if self._stop.is_set():
            raise Stopped
        assert self._stream is not None
        count = self._stream.readinto(buffer)
        self._position += count
        return count

    def finish(self, progress: Callable[[int], None] = lambda step: None) -> None:
        """Read what was not read yet, from the start unless one stream came this far. Raises BundleDamaged."""
        if self._stream is not None and self._from_the_start and self._position == self._size:
            return
        buffer = memoryview(bytearray(min(BUFFER_BYTES, max(self._size, 1))))
        with self.at(self._position if self._from_the_start else 0):
            while self._position < self._size:
                count = self.readinto(buffer)
                if count == 0:
                    raise EOFError(f"{self._member} ends at {self._position} of {self._size} bytes")
                progress(count)
            if self._size == 0:
                self.readinto(buffer)

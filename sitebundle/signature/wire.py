"""SSH's wire strings: a length of four bytes, then that many. Source: RFC 4251, section 5."""

from __future__ import annotations

import struct


class Reader:
    """Takes fields off an SSH wire string. Raises ValueError when it ends too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def take(self, length: int) -> bytes:
        """The next `length` bytes."""
        if length > len(self._data):
            raise ValueError("a field is longer than what there is")
        field, self._data = self._data[:length], self._data[length:]
        return field

    def number(self) -> int:
        """A 32-bit number."""
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        """A string: its length, then its bytes."""
        return self.take(self.number())

    def end(self) -> None:
        """Insist that nothing is left."""
        if self._data:
            raise ValueError("something follows the last field")


def string(data: bytes) -> bytes:
    """`data` as a wire string."""
    return struct.pack(">I", len(data)) + data

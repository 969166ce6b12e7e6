"""The seek table: a skippable frame at the end of the file, for other people's readers.

Source: zstd's contrib/seekable_format/zstd_seekable_compression_format.md, version 0.1.0. Ours has checksums.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from sitebundle.archive import frames, tarheader
from sitebundle.archive.layout import Placement

ENTRY_BYTES: Final = 12

_SKIPPABLE = 0x184D2A5E
_MAGIC = 0x8F92EAB1
_CHECKSUMS = 0x80
_ENTRY = struct.Struct("<II4s")
_HEAD = struct.Struct("<II")
_FOOT = struct.Struct("<IBI")

HEAD_BYTES: Final = _HEAD.size


class Entry(NamedTuple):
    """One frame: its length in the archive, its content's length, the low four bytes of the content's XXH64."""

    frame_bytes: int
    content_bytes: int
    checksum: bytes


def table_bytes(count: int) -> int:
    """The length of the table for that many frames."""
    return _HEAD.size + count * ENTRY_BYTES + _FOOT.size


def checksum_offset(frame: int) -> int:
    """Where in the table the checksum of that frame stands."""
    return _HEAD.size + frame * ENTRY_BYTES + 8


def encode(entries: Sequence[Entry]) -> bytes:
    """The whole skippable frame."""
    body = b"".join(_ENTRY.pack(*entry) for entry in entries) + _FOOT.pack(len(entries), _CHECKSUMS, _MAGIC)
    return _HEAD.pack(_SKIPPABLE, len(body)) + body


def decode(table: bytes) -> list[Entry]:
    """The entries of a whole table. Raises ValueError for anything that `encode` would not write."""
    if len(table) < table_bytes(0):
        raise ValueError("the seek table is too short")
    magic, length = _HEAD.unpack_from(table)
    count, descriptor, foot = _FOOT.unpack_from(table, len(table) - _FOOT.size)
    if (magic, foot, descriptor) != (_SKIPPABLE, _MAGIC, _CHECKSUMS):
        raise ValueError("no seek table with checksums")
    if len(table) != table_bytes(count) or length != len(table) - _HEAD.size:
        raise ValueError(f"a seek table of {len(table)} bytes does not hold {count} frames")
    return [Entry(*fields) for fields in _ENTRY.iter_unpack(table[_HEAD.size : -_FOOT.size])]


def table_of(file: int, placements: tuple[Placement, ...], end: int) -> list[Entry]:
    """The seek table's entries of these members and of the end-of-tar frame at offset `end`.

    A frame's own last four bytes are its checksum, so nothing is read but these.
    """
    ending = tarheader.END_OF_ARCHIVE
    entries = [
        Entry(
            frame.frame_bytes,
            frame.content_bytes,
            os.pread(file, frames.CHECKSUM_BYTES, frame.end - frames.CHECKSUM_BYTES),
        )
        for placement in placements
        for frame in placement.frames
    ]
    return [*entries, Entry(frames.stored_bytes(len(ending)), len(ending), frames.checksum(ending))]

"""One zstd frame as a bundle has it: Single_Segment 0, content size known, checksum on, window of at most 8 MiB.

A *stored* frame holds raw blocks: its length follows from its content's. Source: RFC 8878, sections 3.1.1 and 3.1.1.2.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import xxhash

MAGIC: Final = b"\x28\xb5\x2f\xfd"
CONTENT_LIMIT: Final = 1 << 30
"""Bytes of content in one frame at most: what the seekable format's own reader accepts."""
BLOCK_LIMIT: Final = 128 << 10
WINDOW_LIMIT: Final = 8 << 20
HEADER_BYTES: Final = 10
BLOCK_HEADER_BYTES: Final = 3
CHECKSUM_BYTES: Final = 4
LEVEL: Final = 9

_DESCRIPTOR = 0b10_0_0_0_1_00  # Frame_Content_Size of four bytes, not a single segment, checksum, no dictionary
_STORED_WINDOW_LOG = 17
_LIBZSTD_HEADER_BYTES = 6

Pread = Callable[[int, int], bytes]
"""(offset, bytes) -> that many bytes of the archive, fewer only at its end."""


class FrameFault(ValueError):
    """Bytes that are not a frame as a bundle has it; the text says what was seen."""


class FrameCut(FrameFault):
    """The file ends inside a frame."""

    def __init__(self) -> None:
        super().__init__("the file ends inside a frame")


def stored_bytes(content_bytes: int) -> int:
    """The length of a stored frame of `content_bytes`."""
    blocks = -(-content_bytes // BLOCK_LIMIT)
    return HEADER_BYTES + blocks * BLOCK_HEADER_BYTES + content_bytes + CHECKSUM_BYTES


def header(content_bytes: int, window_log: int = _STORED_WINDOW_LOG) -> bytes:
    """The frame header; `window_log` is 10 to 23. A stored frame's window is one block."""
    return MAGIC + bytes((_DESCRIPTOR, (window_log - 10) << 3)) + struct.pack("<I", content_bytes)


def block_header(block_bytes: int, last: bool) -> bytes:
    """The header of a raw block."""
    return (block_bytes << 3 | last).to_bytes(3, "little")


def checksum(content: bytes) -> bytes:
    """What ends the frame of `content`, and what the seek table says of it."""
    return seal(xxhash.xxh64(content))


def seal(running: xxhash.xxh64) -> bytes:
    """The four bytes of a running XXH64 (seed 0) that a frame and the seek table keep."""
    return struct.pack("<I", running.intdigest() & 0xFFFFFFFF)


def stored(content: bytes) -> bytes:
    """A whole stored frame of a small content."""
    parts = [header(len(content))]
    for start in range(0, len(content), BLOCK_LIMIT):
        block = content[start : start + BLOCK_LIMIT]
        parts += [block_header(len(block), start + BLOCK_LIMIT >= len(content)), block]
    return b"".join([*parts, checksum(content)])


def libzstd_version() -> str:
    """`1.5.7`: of the library that `compressed` uses. Another one may give other bytes for the same content."""
    from zstandard import ZSTD_VERSION

    return ".".join(str(part) for part in ZSTD_VERSION)


def compressed(chunks: Iterable[bytes], content_bytes: int) -> Iterator[bytes]:
    """The pieces of a compressed frame of the joined `chunks`, whatever their lengths.

    libzstd would make a frame whose size is known a single segment, whose decoder must hold all of it. So it is
    not told, and the size goes into the header here.
    """
    import zstandard

    window_log = min(23, max(10, (content_bytes - 1).bit_length()))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, window_log=window_log, write_content_size=False, write_checksum=True
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    pieces = itertools.chain((compressor.compress(chunk) for chunk in chunks), _lazily(compressor.flush))
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= _LIBZSTD_HEADER_BYTES:
            break
    if head[:5] != MAGIC + b"\x04":
        raise RuntimeError(f"libzstd wrote an unexpected frame header {head[:6].hex()}")
    yield header(content_bytes, 10 + (head[5] >> 3)) + head[_LIBZSTD_HEADER_BYTES:]
    yield from pieces


def _lazily(flush: Callable[[], bytes]) -> Iterator[bytes]:
    yield flush()


def content_size(head: bytes) -> int:
    """The content size in a frame header of ours. Raises FrameFault for any other kind of frame."""
    if len(head) < HEADER_BYTES:
        raise FrameCut
    if head[:4] != MAGIC:
        raise FrameFault(f"no zstd frame begins here ({head[:4].hex()})")
    if head[4] != _DESCRIPTOR:
        raise FrameFault(f"frame descriptor {head[4]:#04x}, expected {_DESCRIPTOR:#04x}")
    base = 1 << (10 + (head[5] >> 3))
    window = base + base // 8 * (head[5] & 7)
    if window > WINDOW_LIMIT:
        raise FrameFault(f"the frame asks for a window of {window} bytes")
    (size,) = struct.unpack("<I", head[6:10])
    if not 0 < size <= CONTENT_LIMIT:
        raise FrameFault(f"the frame declares {size} bytes of content")
    return int(size)


def walk(pread: Pread, offset: int, limit: int) -> tuple[int, int]:
    """Find the end of the frame at `offset` by its block headers: (frame bytes, content bytes).

    Reads no more than headers and refuses a frame longer than `limit`. Raises FrameFault.
    """
    content_bytes = content_size(pread(offset, HEADER_BYTES))
    at = HEADER_BYTES
    while True:
        head = pread(offset + at, BLOCK_HEADER_BYTES)
        if len(head) < BLOCK_HEADER_BYTES:
            raise FrameCut
        value = int.from_bytes(head, "little")
        last, kind, size = value & 1, value >> 1 & 3, value >> 3
        if kind == 3 or size > BLOCK_LIMIT or (size == 0 and not last):
            raise FrameFault(f"block header {head.hex()}")
        at += BLOCK_HEADER_BYTES + (1 if kind == 1 else size)
        if at + CHECKSUM_BYTES > limit:
            raise FrameFault(f"a frame longer than {limit} bytes")
        if last:
            if len(pread(offset + at, CHECKSUM_BYTES)) < CHECKSUM_BYTES:
                raise FrameCut
            return at + CHECKSUM_BYTES, content_bytes


def open_stored(frame: bytes) -> bytes:
    """The content of a whole small stored frame, its checksum verified. Raises FrameFault."""
    size = content_size(frame[:HEADER_BYTES])
    if len(frame) != stored_bytes(size):
        raise FrameFault(f"a stored frame of {len(frame)} bytes for {size} bytes of content")
    blocks, at = [], HEADER_BYTES
    for start in range(0, size, BLOCK_LIMIT):
        length = min(BLOCK_LIMIT, size - start)
        if frame[at : at + BLOCK_HEADER_BYTES] != block_header(length, start + length == size):
            raise FrameFault(f"block header {frame[at : at + BLOCK_HEADER_BYTES].hex()} in a stored frame")
        at += BLOCK_HEADER_BYTES
        blocks.append(frame[at : at + length])
        at += length
    content = b"".join(blocks)
    if frame[at:] != checksum(content):
        raise FrameFault("the content does not fit its checksum")
    return content


def decompress(frame: bytes) -> bytes:
    """The content of a whole frame that declares no more than a caller has allowed. Raises FrameFault."""
    import zstandard

    size = content_size(frame[:HEADER_BYTES])
    reader = zstandard.ZstdDecompressor(max_window_size=WINDOW_LIMIT).stream_reader(frame)
    try:
        content = reader.read(size)
        rest = reader.read(1)
    except zstandard.ZstdError as fault:
        raise FrameFault(str(fault)) from fault
    if len(content) != size or rest:
        raise FrameFault("the content is not as long as the frame declares")
    return content

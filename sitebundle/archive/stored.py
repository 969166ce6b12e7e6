"""Reading and writing the content of stored members where it lies: block headers go round the caller's buffer.

Only positions and system calls here; who hashes what is the business of `reader` and `writer`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import xxhash

from sitebundle.archive import frames
from sitebundle.archive.frames import BLOCK_HEADER_BYTES, BLOCK_LIMIT, CONTENT_LIMIT, FrameCut, FrameFault
from sitebundle.archive.layout import Placement

CALL_LIMIT: Final = 4 << 20
"""Content bytes per system call at most; keeps the list of buffers under IOV_MAX."""


def read_content(file: int, placement: Placement, start: int, target: memoryview) -> None:
    """Fill `target` with the member's content from `start`; every block header on the way must be the right one.

    `target` stays inside one frame and is not empty. Raises FrameFault.
    """
    for offset in range(0, len(target), CALL_LIMIT):
        _read(file, placement, start + offset, target[offset : offset + CALL_LIMIT])


def _read(file: int, placement: Placement, start: int, target: memoryview) -> None:
    frame_content = placement.frames[start // CONTENT_LIMIT].content_bytes
    heads = bytearray()
    wanted = bytearray()
    pieces = list(_blocks(start % CONTENT_LIMIT, len(target), frame_content))
    for _, _, head in pieces:
        wanted += head
    heads.extend(bytes(len(wanted)))
    buffers: list[memoryview] = []
    at = 0
    for first, last, head in pieces:
        if head:
            buffers.append(memoryview(heads)[at : at + BLOCK_HEADER_BYTES])
            at += BLOCK_HEADER_BYTES
        buffers.append(target[first:last])
    offset = placement.position(start) - (BLOCK_HEADER_BYTES if pieces[0][2] else 0)
    _read_all(file, buffers, offset)
    if heads != wanted:
        raise FrameFault("a block header is not what it must be")


def write_content(file: int, placement: Placement, start: int, data: memoryview) -> None:
    """Write `data` at content position `start`, with the block headers that begin inside it.

    `data` stays inside one frame and is not empty.
    """
    for offset in range(0, len(data), CALL_LIMIT):
        part = data[offset : offset + CALL_LIMIT]
        frame_content = placement.frames[start // CONTENT_LIMIT].content_bytes
        pieces = list(_blocks((start + offset) % CONTENT_LIMIT, len(part), frame_content))
        buffers: list[bytes | memoryview] = []
        for first, last, head in pieces:
            if head:
                buffers.append(head)
            buffers.append(part[first:last])
        _write_all(file, buffers, placement.position(start + offset) - (BLOCK_HEADER_BYTES if pieces[0][2] else 0))


def write_frame_header(file: int, placement: Placement, number: int) -> None:
    """Write the header of the member's frame `number`."""
    frame = placement.frames[number]
    _write_all(file, [frames.header(frame.content_bytes)], frame.offset)


def read_frame_header(file: int, placement: Placement, number: int) -> None:
    """Check the header of the member's frame `number`. Raises FrameFault."""
    frame = placement.frames[number]
    if os.pread(file, frames.HEADER_BYTES, frame.offset) != frames.header(frame.content_bytes):
        raise FrameFault("the frame header is not what it must be")


def write_checksum(file: int, placement: Placement, number: int, running: xxhash.xxh64) -> None:
    """End the member's frame `number` with the checksum of its content."""
    _write_all(file, [frames.seal(running)], placement.frames[number].end - frames.CHECKSUM_BYTES)


def read_checksum(file: int, placement: Placement, number: int, running: xxhash.xxh64) -> None:
    """Compare the end of the member's frame `number` with the checksum of its content. Raises FrameFault."""
    if os.pread(file, frames.CHECKSUM_BYTES, placement.frames[number].end - frames.CHECKSUM_BYTES) != frames.seal(
        running
    ):
        raise FrameFault("the content does not fit its checksum")


def _blocks(inside: int, length: int, frame_content: int) -> Iterator[tuple[int, int, bytes]]:
    """Cut `length` bytes from `inside` a frame at block borders: (first, last, the header that begins there)."""
    at = 0
    while at < length:
        begin = inside + at
        until_border = BLOCK_LIMIT - begin % BLOCK_LIMIT
        step = min(until_border, length - at)
        head = b""
        if begin % BLOCK_LIMIT == 0:
            size = min(BLOCK_LIMIT, frame_content - begin)
            head = frames.block_header(size, begin + size == frame_content)
        yield at, at + step, head
        at += step


def _read_all(file: int, buffers: list[memoryview], offset: int) -> None:
    wanted = sum(len(buffer) for buffer in buffers)
    got = os.preadv(file, buffers, offset)
    while got < wanted:
        rest = _behind(buffers, got)
        step = os.preadv(file, rest, offset + got)
        if step == 0:
            raise FrameCut
        got += step


def _write_all(file: int, buffers: list[bytes] | list[bytes | memoryview], offset: int) -> None:
    views = [memoryview(buffer) for buffer in buffers]
    wanted = sum(len(view) for view in views)
    done = os.pwritev(file, views, offset)
    while done < wanted:
        done += os.pwritev(file, _behind(views, done), offset + done)


def _behind(buffers: list[memoryview], skip: int) -> list[memoryview]:
    rest = []
    for buffer in buffers:
        if skip < len(buffer):
            rest.append(buffer[skip:])
        skip = max(0, skip - len(buffer))
    return rest

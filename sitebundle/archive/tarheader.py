"""The tar header of a member: a function of name, size, time and mode, so that a reader can compare it whole.

ustar where that is enough, a pax extended header for names over 100 bytes and sizes of 8 GiB and more.
Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header".
"""

from __future__ import annotations

from typing import Final

BLOCK: Final = 512
END_OF_ARCHIVE: Final = bytes(2 * BLOCK)

_USTAR_NAME = 100
_USTAR_SIZE = 8 << 30
_LATEST = 1 << 33


def header(name: str, size: int, created: int, mode: int) -> bytes:
    """The header blocks of a regular file of `size` bytes, changed at `created` seconds, owned by uid and gid 0.

    A multiple of 512 bytes: one block, or three to four when a pax header goes before it. Raises ValueError for a
    time that no tar header can hold.
    """
    return _header(name, size, created, mode, b"0")


def directory(name: str, created: int, mode: int) -> bytes:
    """The header blocks of a folder, whose `name` ends with a slash; else as `header`."""
    return _header(name, 0, created, mode, b"5")


def padding(size: int) -> int:
    """The number of zero bytes between a member's last byte and the next header."""
    return -size % BLOCK


def _header(name: str, size: int, created: int, mode: int, kind: bytes) -> bytes:
    if not 0 <= created < _LATEST:
        raise ValueError(f"no tar header can hold the time {created}")
    records = {}
    if len(name.encode()) > _USTAR_NAME:
        records["path"] = name
    if size >= _USTAR_SIZE:
        records["size"] = str(size)
    extended = b""
    if records:
        body = b"".join(_record(key, value) for key, value in sorted(records.items()))
        extended = _block("PaxHeaders/member", len(body), created, 0o644, b"x") + body + bytes(-len(body) % BLOCK)
    short_size = 0 if "size" in records else size
    return extended + _block(name[-_USTAR_NAME:] if "path" in records else name, short_size, created, mode, kind)


def _record(key: str, value: str) -> bytes:
    # A record's length counts its own digits.
    length = len(f" {key}={value}\n".encode())
    total = length + len(str(length))
    if len(str(total)) > len(str(length)):
        total += 1
    return f"{total} {key}={value}\n".encode()


def _block(name: str, size: int, created: int, mode: int, kind: bytes) -> bytes:
    fields = b"".join(
        (
            name.encode().ljust(100, b"\0"),
            b"%07o\0" % mode,
            b"0000000\0",
            b"0000000\0",
            b"%011o\0" % size,
            b"%011o\0" % created,
            b" " * 8,
            kind,
            bytes(100),
            b"ustar\x0000",
            bytes(32 + 32),
            b"0000000\0",
            b"0000000\0",
            bytes(155 + 12),
        )
    )
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]

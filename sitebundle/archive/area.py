"""A signature area: 64 KiB of armored SSHSIGs one after another, filled up with newlines."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sitebundle.archive.layout import AREA_BYTES

_ARMOR = re.compile(
    rb"-----BEGIN SSH SIGNATURE-----\n[A-Za-z0-9+/=\n]+\n-----END SSH SIGNATURE-----\n",
)


class AreaFull(ValueError):
    """The signatures need more than the area's 64 KiB."""


def encode(signatures: Sequence[str]) -> bytes:
    """The area's content. Raises AreaFull."""
    text = "".join(signatures).encode()
    if len(text) > AREA_BYTES:
        raise AreaFull
    return text.ljust(AREA_BYTES, b"\n")


def decode(content: bytes) -> tuple[str, ...]:
    """The signatures in the area, as they stand. Raises ValueError when there is anything else in it."""
    found = _ARMOR.findall(content)
    if b"".join(found) != content.rstrip(b"\n") + (b"\n" if found else b""):
        raise ValueError("something that is no SSH signature stands between or after the signatures")
    return tuple(text.decode() for text in found)

"""Where everything lies in a bundle: offsets computed from names and sizes alone. Pure; no I/O.

frames:  version | manifest | signatures | members … | attestations | their signatures | end of tar | seek table
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Literal

from sitebundle.archive import frames, names, tarheader
from sitebundle.manifest import FORMAT, BundleManifest, Member

AREA_BYTES: Final = 64 << 10
"""The fixed size of a signature area's content."""
MANIFEST_LIMIT: Final = 16 << 20
ATTESTATIONS_LIMIT: Final = 256 << 20


@dataclass(frozen=True)
class Frame:
    """One zstd frame: where it begins, how long it is there, how long its content is. Bytes."""

    offset: int
    frame_bytes: int
    content_bytes: int

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.offset + self.frame_bytes


@dataclass(frozen=True)
class Placement:
    """A member in the archive. Its content in the tar sense is `header`, `size` bytes, `padding` zeros."""

    name: str
    size: int
    header: bytes
    storage: Literal["stored", "zstd"]
    frames: tuple[Frame, ...]

    @property
    def offset(self) -> int:
        """Where its first frame begins."""
        return self.frames[0].offset

    @property
    def end(self) -> int:
        """The offset behind its last frame."""
        return self.frames[-1].end

    @property
    def padding(self) -> int:
        """Zero bytes after its last byte."""
        return tarheader.padding(self.size)

    @property
    def content_bytes(self) -> int:
        """Header, data and padding."""
        return len(self.header) + self.size + self.padding

    def position(self, content: int) -> int:
        """The offset in the archive of a content byte of a stored member."""
        frame = self.frames[content // frames.CONTENT_LIMIT]
        inside = content % frames.CONTENT_LIMIT
        blocks = inside // frames.BLOCK_LIMIT + 1
        return frame.offset + frames.HEADER_BYTES + blocks * frames.BLOCK_HEADER_BYTES + inside


@dataclass(frozen=True)
class Layout:
    """The placements of everything up to the attestations."""

    version: Placement
    manifest: Placement
    signatures: Placement
    members: tuple[Placement, ...]

    @property
    def end(self) -> int:
        """Where the attestations begin."""
        return self.members[-1].end if self.members else self.signatures.end

    @property
    def placements(self) -> tuple[Placement, ...]:
        """All of them, in order."""
        return (self.version, self.manifest, self.signatures, *self.members)


def stored(name: str, size: int, offset: int, created: int) -> Placement:
    """A member of raw blocks at `offset`."""
    head = tarheader.header(name, size, created, names.mode_of(name))
    total = len(head) + size + tarheader.padding(size)
    contents = [min(frames.CONTENT_LIMIT, total - start) for start in range(0, total, frames.CONTENT_LIMIT)]
    lengths = [frames.stored_bytes(content) for content in contents]
    starts = accumulate(lengths, initial=offset)
    placed = tuple(Frame(*fields) for fields in zip(starts, lengths, contents, strict=False))
    return Placement(name, size, head, "stored", placed)


def compressed(name: str, size: int, offset: int, created: int, frame_bytes: int) -> Placement:
    """A member of one compressed frame at `offset`. Raises ValueError when it would need a second."""
    head = tarheader.header(name, size, created, names.mode_of(name))
    total = len(head) + size + tarheader.padding(size)
    if total > frames.CONTENT_LIMIT:
        raise ValueError(f"{name} has {size} bytes, too many for one compressed frame")
    return Placement(name, size, head, "zstd", (Frame(offset, frame_bytes, total),))


def stored_frame_bytes(name: str, size: int) -> int:
    """What `Member.frame_bytes` is for a stored member."""
    return stored(name, size, 0, 0).end


def version_content() -> bytes:
    """`mxbundle.version`: the format, and the oldest reader's format that can read it."""
    return f"mxbundle\nformat {FORMAT}\nreader {FORMAT}\n".encode()


def lay_out(manifest: BundleManifest, manifest_bytes: int) -> Layout:
    """Place everything of `manifest`, whose own text has `manifest_bytes`.

    Raises ValueError for an unsafe or double name and for a `frame_bytes` that cannot be.
    """
    version = stored(names.VERSION, len(version_content()), 0, manifest.created)
    own = stored(names.MANIFEST, manifest_bytes, version.end, manifest.created)
    area = stored(names.SIGNATURES, AREA_BYTES, own.end, manifest.created)
    return Layout(version, own, area, tuple(_place(manifest.members, area.end, manifest.created)))


def _place(members: Iterable[Member], offset: int, created: int) -> Iterable[Placement]:
    seen: set[str] = set()
    for member in members:
        if not names.is_safe(member.name) or member.name in names.OUTSIDE_THE_MANIFEST:
            raise ValueError(f"a member may not be called {member.name[:100]!r}")
        if member.name in seen:
            raise ValueError(f"two members are called {member.name!r}")
        seen.add(member.name)
        if member.storage == "stored":
            # First of all: a lying size must not make us compute a million frames.
            if member.size > member.frame_bytes:
                raise ValueError(f"{member.name} has {member.size} bytes in frames of {member.frame_bytes}")
            placement = stored(member.name, member.size, offset, created)
            if placement.end - offset != member.frame_bytes:
                raise ValueError(f"{member.name} takes {placement.end - offset} bytes, not {member.frame_bytes}")
        else:
            placement = compressed(member.name, member.size, offset, created, member.frame_bytes)
        offset = placement.end
        yield placement

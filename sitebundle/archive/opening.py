"""The beginning of a bundle: is it one, which format has it, what does its manifest say. Nothing behind that is read.

Raises FrameFault for bytes that are not the format's; `damage` turns it into what people are told.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from pydantic import ValidationError

from sitebundle.archive import frames, layout, names, tarheader
from sitebundle.archive.frames import FrameFault
from sitebundle.archive.stream import reading
from sitebundle.errors import BundleFormatNewer, BundleMissing, BundleTruncated, NotABundle
from sitebundle.manifest import FORMAT, BundleManifest


def opened_file(path: Path) -> int:
    """A descriptor of the regular file at `path`. Raises BundleMissing or NotABundle."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BundleMissing(path=path) from None
    except OSError as fault:
        raise NotABundle(path=path, detail=fault.strerror) from fault
    if not path.is_file():
        os.close(file)
        raise NotABundle(path=path, detail="it is no regular file")
    return file


def check_version(path: Path, file: int, size: int) -> int:
    """The offset behind the version's frame, when this program reads that format."""
    length = frames.stored_bytes(2 * tarheader.BLOCK)
    begin = os.pread(file, length, 0)
    head = frames.header(2 * tarheader.BLOCK)
    if not begin.startswith(head[: len(begin)]) or not begin:
        raise NotABundle(path=path, detail="it does not begin as a bundle does")
    if len(begin) < length:
        raise BundleTruncated(path=path, seen=size, expected=f"at least {length}")
    content = frames.open_stored(begin)
    if not content.startswith(names.VERSION.encode() + b"\0"):
        raise NotABundle(path=path, detail=f"its first member is not {names.VERSION}")
    lines = content[tarheader.BLOCK :].rstrip(b"\0").decode("ascii", "replace").split("\n")
    stated = dict(line.split(" ", 1) for line in lines if " " in line)
    if lines[0] != "mxbundle" or not all(stated.get(key, "").isdecimal() for key in ("format", "reader")):
        raise FrameFault("it states no format")
    if int(stated["reader"]) > FORMAT:
        raise BundleFormatNewer(path=path, seen=int(stated["format"]), known=FORMAT)
    return length


def manifest_bytes_at(file: int, begin: int) -> bytes:
    """The manifest's bytes, found by walking the blocks of its frame."""
    length, _ = frames.walk(reading(file), begin, frames.stored_bytes(layout.MANIFEST_LIMIT))
    content = frames.open_stored(os.pread(file, length, begin))
    size = tar_size(content, names.MANIFEST, None)
    return content[tarheader.BLOCK : tarheader.BLOCK + size]


def tar_size(content: bytes, name: str, created: int | None) -> int:
    """The size that the one tar header in `content` states, when that header and the rest are as we write them."""
    head = content[: tarheader.BLOCK]
    try:
        size, stated = int(head[124:135], 8), int(head[136:147], 8)
    except ValueError:
        raise FrameFault("the tar header is not what it must be") from None
    expected = tarheader.header(name, size, stated if created is None else created, names.mode_of(name))
    if head != expected or len(content) != len(head) + size + tarheader.padding(size):
        raise FrameFault("the tar header is not what it must be")
    if any(content[len(head) + size :]):
        raise FrameFault("the padding is not zero")
    return size


def parse(path: Path, content: bytes) -> BundleManifest:
    """The manifest in `content`. Raises BundleFormatNewer, and FrameFault with the place of what does not fit."""
    stated = json.loads(content)
    if isinstance(stated, dict) and isinstance(stated.get("format"), int) and stated["format"] > FORMAT:
        raise BundleFormatNewer(path=path, seen=stated["format"], known=FORMAT)
    try:
        return BundleManifest.model_validate_json(content)
    except ValidationError as fault:
        first = fault.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise FrameFault(f"{place}: {first['msg']}") from fault


def least_bytes(manifest: BundleManifest, begin: int, manifest_bytes: int, finished: bool) -> int:
    """How long the file is at least, when it holds what `manifest` lists."""
    own = layout.stored_frame_bytes(names.MANIFEST, manifest_bytes)
    areas = layout.stored_frame_bytes(names.SIGNATURES, layout.AREA_BYTES) * (2 if finished else 1)
    return begin + own + areas + sum(member.frame_bytes for member in manifest.members)

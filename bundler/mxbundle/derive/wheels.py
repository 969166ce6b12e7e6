"""Wheels: downloaded, checked against their pins, and read as the files that an installation would have.

Nothing is executed and nothing is compiled. Source: PyPA binary distribution format, "Installing a wheel".
"""

from __future__ import annotations

import email.parser
import hashlib
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import IO, Final

from mxbundle.derive.recipe import Python, Wheel
from sitebundle.digest import Digest
from sitebundle.errors import SourceChanged, StackInvalid
from sitebundle.oci.upstream import Upstream

BUFFER_BYTES: Final = 1 << 20
_PROGRAM_LINE: Final = re.compile(rb"#!pythonw?(?=\s)")


@dataclass(frozen=True)
class Installed:
    """A file of the layer: its path without the leading slash, its size in bytes, and how to read it."""

    path: str
    size: int
    is_program: bool
    chunks: Callable[[], Iterator[bytes]]


@dataclass(frozen=True)
class OpenWheel:
    """A verified wheel; `size` is the file's own bytes."""

    wheel: Wheel
    size: int
    archive: zipfile.ZipFile


@contextmanager
def opened(wheels: Sequence[Wheel], upstream: Upstream, folder: Path | None = None) -> Iterator[tuple[OpenWheel, ...]]:
    """Download `wheels` into unnamed files in `folder` and open them; whatever ends us, nothing is left of them.

    Raises SourceChanged for a wheel that is not the pinned one, StackInvalid for one that is not a wheel of that name
    and version, RegistryRefused, RegistryUnreachable.
    """
    with ExitStack() as stack:
        yield tuple(_opened(wheel, upstream, folder, stack) for wheel in wheels)


def installed(wheel: OpenWheel, python: Python) -> Iterator[Installed]:
    """The files that `wheel` installs below `python`, byte code left out. Raises StackInvalid."""
    data = f"{_stem(wheel)}.data"
    for entry in wheel.archive.infolist():
        if entry.is_dir():
            continue
        parts = PurePosixPath(entry.filename).parts
        if entry.filename.startswith("/") or "\\" in entry.filename or ".." in parts:
            raise StackInvalid(path=wheel.wheel.url, detail=f"it has a file called {entry.filename[:100]!r}")
        if entry.filename.endswith(".pyc") or "__pycache__" in parts:
            continue
        if parts[0] != data:
            yield _file(wheel, entry, python.site_packages, parts)
        elif parts[1] in ("purelib", "platlib"):
            yield _file(wheel, entry, python.site_packages, parts[2:])
        elif parts[1] == "scripts":
            yield _program(wheel, entry, python, parts[2:])
        else:
            detail = f"it installs {entry.filename}; only packages and programs go into a layer"
            raise StackInvalid(path=wheel.wheel.url, detail=detail)


def _opened(wheel: Wheel, upstream: Upstream, folder: Path | None, stack: ExitStack) -> OpenWheel:
    file = stack.enter_context(TemporaryFile(dir=folder))  # noqa: SIM115 - the stack closes it
    upstream.download(wheel.url, file)
    seen, size = _measured(file)
    if seen != wheel.pinned:
        raise SourceChanged(url=wheel.url, seen=seen, expected=wheel.pinned)
    try:
        found = OpenWheel(wheel, size, stack.enter_context(zipfile.ZipFile(file)))
        about = f"{_stem(found)}.dist-info"
        metadata = email.parser.BytesHeaderParser().parsebytes(found.archive.read(f"{about}/METADATA"))
        tags = email.parser.BytesHeaderParser().parsebytes(found.archive.read(f"{about}/WHEEL")).get_all("Tag", [])
    except (zipfile.BadZipFile, KeyError, IndexError) as fault:
        raise StackInvalid(path=wheel.url, detail=f"it is not a wheel: {fault}") from fault
    if (_normal(str(metadata["Name"])), metadata["Version"]) != (_normal(wheel.name), wheel.version):
        detail = f"it is {metadata['Name']} {metadata['Version']}, not {wheel.name} {wheel.version}"
        raise StackInvalid(path=wheel.url, detail=detail)
    if not wheel.platforms and not any(tag.endswith("-any") for tag in tags):
        raise StackInvalid(path=wheel.url, detail=f"it is for {', '.join(tags)} alone: say for which `platforms`")
    return found


def _stem(wheel: OpenWheel) -> str:
    """`name-version`, as the wheel's own file name spells it."""
    return "-".join(wheel.wheel.url.rpartition("/")[2].split("-")[:2])


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _file(wheel: OpenWheel, entry: zipfile.ZipInfo, base: str, parts: Sequence[str]) -> Installed:
    path = "/".join([base.strip("/"), *parts])
    return Installed(path, entry.file_size, False, partial(_chunks, wheel.archive, entry))


def _program(wheel: OpenWheel, entry: zipfile.ZipInfo, python: Python, parts: Sequence[str]) -> Installed:
    content = _PROGRAM_LINE.sub(b"#!" + python.interpreter.encode(), wheel.archive.read(entry), count=1)
    path = "/".join([python.scripts.strip("/"), *parts])
    return Installed(path, len(content), True, lambda: iter((content,)))


def _chunks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(entry) as file:
        while data := file.read(BUFFER_BYTES):
            yield data


def _measured(file: IO[bytes]) -> tuple[Digest, int]:
    file.seek(0)
    digest, size = hashlib.sha256(), 0
    while data := file.read(BUFFER_BYTES):
        digest.update(data)
        size += len(data)
    file.seek(0)
    return Digest(f"sha256:{digest.hexdigest()}"), size

"""The layer of a derived image: an uncompressed tar whose bytes follow from the wheels' files alone.

Sorted by path, owned by root, one time, two modes, no byte code, no compressor. Folders are named only below
site-packages: those above are the base's, and so are their owners and modes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Final

from mxbundle.derive.recipe import Python
from mxbundle.derive.wheels import Installed, OpenWheel, installed
from sitebundle.archive import tarheader
from sitebundle.digest import Digest
from sitebundle.errors import StackInvalid

TIME: Final = 0
"""What every file and folder bears, in seconds since the epoch."""
_PIECE_BYTES: Final = 1 << 20


def layer_chunks(wheels: Sequence[OpenWheel], python: Python) -> Iterator[bytes]:
    """The layer's bytes, about a MiB at a time. Raises StackInvalid, before the first of them, for a clash of paths."""
    return _joined(_pieces(_files(wheels, python), python))


def measured(chunks: Iterable[bytes]) -> tuple[Digest, int]:
    """Digest and size in bytes; of an uncompressed layer the digest is the diff id too."""
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
    return Digest(f"sha256:{digest.hexdigest()}"), size


def _files(wheels: Sequence[OpenWheel], python: Python) -> dict[str, Installed]:
    found: dict[str, tuple[Installed, OpenWheel]] = {}
    for wheel in wheels:
        for file in installed(wheel, python):
            if file.path in found:
                detail = f"{found[file.path][1].wheel.name} brings /{file.path} too"
                raise StackInvalid(path=wheel.wheel.url, detail=detail)
            found[file.path] = file, wheel
    for path, (_, wheel) in found.items():
        for parent in PurePosixPath(path).parents:
            if str(parent) in found:
                raise StackInvalid(path=wheel.wheel.url, detail=f"/{parent} is a file of another wheel")
    return {path: file for path, (file, _) in found.items()}


def _pieces(files: dict[str, Installed], python: Python) -> Iterator[bytes]:
    for path in sorted({*files, *_folders(files, python)}):
        if path not in files:
            yield tarheader.directory(f"{path}/", TIME, 0o755)
            continue
        file = files[path]
        yield tarheader.header(path, file.size, TIME, 0o755 if file.is_program else 0o644)
        yield from file.chunks()
        yield bytes(tarheader.padding(file.size))
    yield tarheader.END_OF_ARCHIVE


def _folders(files: Iterable[str], python: Python) -> set[str]:
    top = PurePosixPath(python.site_packages.strip("/"))
    return {str(folder) for path in files for folder in PurePosixPath(path).parents if top in folder.parents}


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer pieces: a wheel has thousands of small files."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        if len(waiting) >= _PIECE_BYTES:
            yield bytes(waiting)
            waiting.clear()
    yield bytes(waiting)

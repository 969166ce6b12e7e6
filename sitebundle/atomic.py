"""Files that are there whole or not at all, also after a power cut: temporary file, sync, rename, sync.

Not for growing files (`journal`) and not for archives that are filled in place (`sitebundle.archive`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def durable_file(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A file to write that becomes `path` when the block ends well, and vanishes when it does not.

    Readers of `path` see the old file or the whole new one. The folder must exist. Raises OSError.
    """
    with _beside(path) as (file, temporary):
        yield file
        _sync(file, mode)
        rename_durably(temporary, path)


def create_durably(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` as the whole of a new file. Raises FileExistsError, and leaves what is there, or another OSError."""
    with _beside(path) as (file, temporary):
        file.write(data)
        _sync(file, mode)
        # A rename would replace what is there; a hard link refuses.
        path.hardlink_to(temporary)
    sync_folder(path.parent)


def write_durably(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` as the whole of `path`. Raises OSError."""
    with durable_file(path, mode) as file:
        file.write(data)


def rename_durably(source: Path, target: Path) -> None:
    """Rename inside one file system, and sync the folder that now names the file. Raises OSError."""
    source.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries survive a power cut. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _beside(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A temporary file in the folder of `path`; whatever still has its name at the end is removed."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file, temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync(file: BinaryIO, mode: int) -> None:
    file.flush()
    os.fchmod(file.fileno(), mode)
    os.fsync(file.fileno())

"""What `mxbundle build` was asked for, and the digest by which a later run recognises the same wish."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mxbundle.lock.model import Lock
from sitebundle.digest import Digest
from sitebundle.manifest import FORMAT

FETCHES = 6
"""Blobs under way at a time; the client lowers the number of requests per host when a host asks for it."""
NOT_CARRIED = frozenset({"tools.yaml"})
_CHARTS = "charts"


@dataclass(frozen=True)
class BuildRequest:
    """What is to be built. `created`: SOURCE_DATE_EPOCH in seconds, None to take the lock's newest confirmation."""

    manifests: Path
    output: Path
    generation: int = 1
    profile: str = "demo"
    platforms: tuple[str, ...] = ("linux/amd64",)
    name: str = "site"
    created: int | None = None
    fetches: int = FETCHES

    def created_at(self, lock: Lock) -> int:
        """The time that everything in the archive bears: a function of lock and request, never of the clock."""
        if self.created is not None:
            return self.created
        times = [datetime.fromisoformat(image.confirmed_at) for image in lock.images if image.confirmed_at]
        return int(max(times).timestamp()) if times else 0

    def purpose(self, lock: Lock) -> Digest:
        """The digest of all that decides the archive's bytes; the number of fetches does not."""
        decides = {
            "format": FORMAT,
            "lock": Digest.of(lock.to_bytes()),
            "manifests": tree_digest(self.manifests),
            "generation": self.generation,
            "profile": self.profile,
            "platforms": self.platforms,
            "name": self.name,
            "created": self.created_at(lock),
        }
        return Digest.of(json.dumps(decides, sort_keys=True).encode())


def stack_files(manifests: Path) -> Iterator[tuple[str, Path]]:
    """(path inside `stack/`, file) of what goes into the bundle as it stands: all but charts and hidden files."""
    for path in _files(manifests):
        inside = path.relative_to(manifests).as_posix()
        if not inside.startswith(f"{_CHARTS}/") and inside not in NOT_CARRIED:
            yield inside, path


def tree_digest(folder: Path) -> Digest:
    """The digest of every file's name and content under `folder`, hidden ones aside."""
    whole = hashlib.sha256()
    for path in _files(folder):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{content} {path.relative_to(folder).as_posix()}\n".encode())
    return Digest("sha256:" + whole.hexdigest())


def _files(folder: Path) -> Iterator[Path]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    for path in sorted(paths, key=lambda path: path.relative_to(folder).as_posix()):
        if not any(part.startswith((".", "__pycache__")) for part in path.relative_to(folder).parts):
            yield path

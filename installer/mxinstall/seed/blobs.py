"""Bringing blobs into their repositories: look first, mount what another repository has, send the rest.

Every blob is read from the archive and verified once, also one that the registry has.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Lock

from mxinstall.seed.plan import BlobTask, SeedPlan
from mxinstall.seed.readback import Readback, data_of
from mxinstall.seed.sessions import Sessions
from mxinstall.seed.source import VerifiedSource
from mxinstall.seed.tally import Counts, Tally
from mxinstall.seed.threads import together
from sitebundle.archive import BundleReader
from sitebundle.digest import Digest
from sitebundle.errors import DiskTooSmall
from sitebundle.oci.client import Registry

LOOKERS = 8
MOVERS = 4
STORE_FACTOR = 1.05
"""What a registry's store takes for a byte of blobs: links, upload states, the file system's own."""

Presence = dict[Digest, frozenset[str]]


def look(
    registry: Registry,
    blobs: Sequence[BlobTask],
    extra: Callable[[str], str] | None = None,
    readback: Readback | None = None,
) -> Presence:
    """Which of a blob's repositories have it; `extra` names one more that may lend it for each.

    What has another size is not there; with `readback` it also goes. Raises BlobRotten where that cannot be.
    """
    asked = [
        (task, repository)
        for task in blobs
        for repository in (*task.repositories, *((extra(r) for r in task.repositories) if extra else ()))
    ]
    found: dict[Digest, set[str]] = {task.digest: set() for task in blobs}

    def ask(question: tuple[BlobTask, str]) -> bool:
        task, repository = question
        size = registry.blob_size(repository, task.digest)
        if readback is not None and size not in (None, task.size):
            readback.discard(task.digest, f"{size} bytes")
        return size == task.size

    for (task, repository), there in zip(asked, together(ask, asked, LOOKERS), strict=True):
        if there:
            found[task.digest].add(repository)
    return {digest: frozenset(repositories) for digest, repositories in found.items()}


def needed_bytes(store: Path, plan: SeedPlan) -> int:
    """What a distribution store at `store` still needs for `plan`, from what lies in it."""
    missing = (task.size for task in plan.blobs if not data_of(store, task.digest).exists())
    return int(sum(missing) * STORE_FACTOR)


def check_room(store: Path, missing_bytes: int) -> None:
    """Raises DiskTooSmall when `missing_bytes` more, and some for the registry itself, do not fit."""
    place = next(parent for parent in (store, *store.parents) if parent.exists())
    free, needed = shutil.disk_usage(place).free, int(missing_bytes * STORE_FACTOR)
    if free < needed:
        raise DiskTooSmall(path=store, free_bytes=free, needed_bytes=needed)


def settle_blobs(
    reader: BundleReader,
    readback: Readback,
    blobs: Sequence[BlobTask],
    presence: Presence,
    *,
    sessions: Sessions,
    tally: Tally,
    counts: Counts,
) -> None:
    """Bring every blob into each of its repositories, and read every one of them from the archive once.

    Raises BundleDamaged, BlobRotten, RegistryUnreachable, RegistryRefused.
    """
    registry, stop, lock = readback.registry, Event(), Lock()

    def settle(task: BlobTask) -> None:
        have = set(presence[task.digest])
        if have and not readback.keeps(have, task.digest, stop):
            have.clear()
        wanted = [repository for repository in task.repositories if repository not in have]
        source = VerifiedSource(reader, task.member, task.size, stop)
        detail = f"blob {task.digest.short}"

        def progress(step: int) -> None:
            tally.add(task.digest, step, task.size, detail)

        def send(repository: str) -> int:
            return registry.upload(
                repository,
                task.digest,
                task.size,
                source.at,
                progress,
                session=sessions.find(repository, task.digest),
                opened=lambda session: sessions.note(repository, task.digest, session),
            )

        moved, lent = 0, False
        for repository in wanted:
            lender = min(have, default=None)
            if lender is not None and registry.mount(repository, task.digest, lender):
                lent = True
            else:
                moved += send(repository)
            have.add(repository)
        sessions.forget(task.digest)
        source.finish(progress)
        tally.complete(task.digest, task.size, detail)
        with lock:
            counts.moved += moved
            counts.mounted += task.size if lent and not moved else 0
            counts.present += 0 if lent or moved else task.size

    together(settle, blobs, MOVERS, stop)

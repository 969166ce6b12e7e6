"""Layers from the network to their place in the archive: several at a time, largest first, hashed on the way.

Layers that no registry has are made first, one after the other, straight into their place. Each worker has one
buffer. Every MiB the journal notes how far a blob has come; a later run reads that much
again, recognises it, and asks the registry only for the rest.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from mxbundle.build.plan import WantedBlob
from sitebundle.archive import ArchiveWriter, BlobWriter, Checkpoint, WrongContent
from sitebundle.digest import Digest
from sitebundle.errors import BlobCorrupt, BlobUnfetchable, LockStale, MxError, RegistryRefused, RegistryUnreachable
from sitebundle.events import Note, Progress, Sink
from sitebundle.journal import Journal
from sitebundle.oci.upstream import Upstream

CHECKPOINT_BYTES: Final = 1 << 20
"""A line of 150 bytes each: three MB of journal for a bundle of 20 GB."""
BUFFER_BYTES: Final = 1 << 20
PATIENCE_SECONDS: Final = 2.0
"""How long an interrupted run waits for its workers; what they did is in the journal anyway."""


@dataclass(frozen=True)
class Filled:
    """What a run did. `fetched_bytes` came over the network; `kept_bytes` were there from an earlier run."""

    fetched_bytes: int
    kept_bytes: int


class LocalSource(Protocol):
    """What has layers that no registry has. `fetched_bytes`: what came over the network to make them."""

    fetched_bytes: int

    def contents(self, wanted: Collection[Digest]) -> Iterator[tuple[Digest, Iterator[bytes]]]:
        """Each of `wanted` that is to be had here, with its bytes, which are read before the next one is asked for."""
        ...


class _Stopped(Exception):
    """Another worker failed."""


class _Tally:
    """Bytes done, never backwards: a blob that starts over counts only beyond where it was before."""

    def __init__(self, total: int, sink: Sink) -> None:
        self.fetched = 0
        self.kept = 0
        self._total = total
        self._sink = sink
        self._done = 0
        self._told = 0
        self._highest: dict[Digest, int] = {}
        self._lock = threading.Lock()

    def came(self, blob: WantedBlob, now_bytes: int, fetched: int, kept: int = 0) -> None:
        """The blob has `now_bytes`; so many of them were just fetched or found."""
        with self._lock:
            self.fetched += fetched
            self.kept += kept
            before = self._highest.get(blob.digest, 0)
            if now_bytes > before:
                self._highest[blob.digest] = now_bytes
                self._done += now_bytes - before
            if self._done - self._told >= max(BUFFER_BYTES, self._total // 200) or self._done == self._total:
                self._told = self._done
                self._sink(Progress("fetch", self._done, self._total, blob.reference))


def checkpoints(records: Iterable[Mapping[str, Any]]) -> dict[str, Checkpoint]:
    """The last checkpoint of each member in a journal."""
    return {
        str(record["member"]): Checkpoint(int(record["bytes"]), str(record["prefix"]))
        for record in records
        if record.keys() >= {"member", "bytes", "prefix"}
    }


def fill(
    archive: ArchiveWriter,
    blobs: Iterable[WantedBlob],
    upstream: Upstream,
    journal: Journal,
    fetches: int,
    sink: Sink,
    local: Sequence[LocalSource] = (),
) -> Filled:
    """Fill every blob of `blobs` (largest first) in: those without a place from `local`, the rest by `fetches` workers.

    Raises the first worker's BlobUnfetchable, BlobCorrupt or OSError; what has arrived is in the journal. LockStale for
    a blob that `local` makes otherwise than it is locked, or does not have.
    """
    waiting: queue.SimpleQueue[WantedBlob] = queue.SimpleQueue()
    every = list(blobs)
    wanted = [blob for blob in every if blob.places]
    for blob in wanted:
        waiting.put(blob)
    tally = _Tally(sum(blob.size for blob in every), sink)
    known = checkpoints(journal.records)
    _make(archive, [blob for blob in every if not blob.places], local, journal, tally, known)
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        buffer = memoryview(bytearray(BUFFER_BYTES))
        try:
            while not stop.is_set():
                try:
                    blob = waiting.get_nowait()
                except queue.Empty:
                    return
                _Fetch(archive.blob(blob.digest.blob_path), blob, upstream, journal, tally, stop, sink).run(
                    buffer, known.get(blob.digest.blob_path)
                )
        except _Stopped:
            return
        except BaseException as failure:
            failures.append(failure)
            stop.set()

    workers = [
        threading.Thread(target=work, name=f"fetch-{number}", daemon=True)
        for number in range(min(fetches, len(wanted)))
    ]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            while worker.is_alive():
                worker.join(0.5)
    except BaseException:
        stop.set()
        for worker in workers:
            worker.join(PATIENCE_SECONDS / len(workers))
        raise
    if failures:
        raise failures[0]
    return Filled(tally.fetched, tally.kept)


def _make(
    archive: ArchiveWriter,
    blobs: Sequence[WantedBlob],
    sources: Sequence[LocalSource],
    journal: Journal,
    tally: _Tally,
    known: Mapping[str, Checkpoint],
) -> None:
    """Blobs that are made here. One that an earlier run had finished stays; one that it had begun is made anew."""
    missing: dict[Digest, tuple[WantedBlob, BlobWriter]] = {}
    for blob in blobs:
        writer = archive.blob(blob.digest.blob_path)
        checkpoint = known.get(blob.digest.blob_path)
        if checkpoint is not None and checkpoint.done_bytes == blob.size and writer.restore(checkpoint):
            try:
                writer.finish()
                tally.came(blob, blob.size, 0, blob.size)
                continue
            except WrongContent:
                writer.restart()
        missing[blob.digest] = blob, writer
    for source in sources:
        for digest, chunks in source.contents(frozenset(missing)) if missing else ():
            blob, writer = missing.pop(digest)
            try:
                for chunk in chunks:
                    writer.write(memoryview(chunk))
                    tally.came(blob, writer.done_bytes, 0)
                writer.finish()
            except WrongContent as wrong:
                detail = f"its layer, made again, has {wrong.seen}, locked is {digest}"
                raise LockStale(what=blob.reference, detail=detail) from wrong
            at = writer.checkpoint()
            journal.append({"member": digest.blob_path, "bytes": at.done_bytes, "prefix": at.prefix})
        tally.fetched += source.fetched_bytes
    for blob, _ in missing.values():
        raise LockStale(what=blob.reference, detail=f"nothing makes its layer {blob.digest}")


@dataclass
class _Fetch:
    """One blob on its way."""

    writer: BlobWriter
    blob: WantedBlob
    upstream: Upstream
    journal: Journal
    tally: _Tally
    stop: threading.Event
    sink: Sink

    def run(self, buffer: memoryview, checkpoint: Checkpoint | None) -> None:
        if checkpoint is not None and self.writer.restore(checkpoint):
            self.tally.came(self.blob, self.writer.done_bytes, 0, self.writer.done_bytes)
            try:
                if self.writer.done_bytes == self.blob.size:
                    self._finish()
                    return
                self._from_anywhere(buffer)
                return
            except (WrongContent, BlobCorrupt):
                self.sink(Note("warning", f"what an earlier run left of {self.blob.digest.short} is not usable"))
                self.writer.restart()
        self._from_anywhere(buffer)

    def _from_anywhere(self, buffer: memoryview) -> None:
        """Try the places that have the blob, one after another; a place that lies is not asked again."""
        fault: MxError | None = None
        for place in self.blob.places:
            registry = self.upstream.registry(place.host)
            try:
                self._stream(registry.blob(place.repository, self.blob.digest, self.writer.done_bytes), buffer)
                self._finish()
                return
            except WrongContent as wrong:
                self.writer.restart()
                fault = BlobCorrupt(registry=registry.name, seen=wrong.seen, digest=self.blob.digest)
            except (RegistryRefused, RegistryUnreachable) as refused:
                self._note()
                fault = fault or refused
        if isinstance(fault, BlobCorrupt):
            raise fault
        raise BlobUnfetchable(
            digest=self.blob.digest, reference=self.blob.reference, detail=fault, needed_by=self.blob.needed_by
        ) from fault

    def _stream(self, source: Any, buffer: memoryview) -> None:
        noted = self.writer.done_bytes
        with source as stream:
            if stream.offset != self.writer.done_bytes:
                self.writer.restart()
                noted = 0
            while count := stream.readinto(buffer):
                if self.stop.is_set():
                    self._note()
                    raise _Stopped
                self.writer.write(buffer[:count])
                self.tally.came(self.blob, self.writer.done_bytes, count)
                if self.writer.done_bytes - noted >= CHECKPOINT_BYTES:
                    noted = self.writer.done_bytes
                    self._note()

    def _finish(self) -> None:
        self.writer.finish()
        self._note()

    def _note(self) -> None:
        at = self.writer.checkpoint()
        self.journal.append({"member": self.blob.digest.blob_path, "bytes": at.done_bytes, "prefix": at.prefix})

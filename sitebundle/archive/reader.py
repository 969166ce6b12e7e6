"""An open bundle: manifest and signatures, then any member by name, each verified while it is read.

No trust decision is made here; hostile bytes end in one of the errors of `sitebundle.errors`, exit 10 to 18.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

from sitebundle.archive import area, frames, layout, names, seektable, tarheader
from sitebundle.archive.contradictions import contradictions
from sitebundle.archive.damage import damage
from sitebundle.archive.frames import FrameCut, FrameFault
from sitebundle.archive.layout import Placement
from sitebundle.archive.opening import check_version, least_bytes, manifest_bytes_at, opened_file, parse, tar_size
from sitebundle.archive.stream import CHUNK, CompressedSource, MemberStream, Source, StoredSource, reading
from sitebundle.atomic import durable_file
from sitebundle.digest import Digest
from sitebundle.errors import (
    BundleTruncated,
    MemberMissing,
)
from sitebundle.events import Progress, Sink, stage
from sitebundle.manifest import BundleManifest, Member

READ_LIMIT: Final = 64 << 20
"""Bytes that `BundleReader.read` takes into memory at most."""


class Attestations(NamedTuple):
    """`attestations.json` as it stands, and the signatures over it."""

    content: bytes
    signatures: tuple[str, ...]


class Tail(NamedTuple):
    """What follows the signed members, found by walking: placements, and where the end-of-tar frame begins."""

    attestations: Placement
    signatures: Placement
    end: int


class BundleReader:
    """An open bundle. Threads may read different members at once.

    `manifest_bytes` is what is signed; `signatures` are the armored SSHSIGs over it.
    """

    def __init__(self, path: Path, file: int, size: int, manifest: BundleManifest, manifest_bytes: bytes) -> None:
        self.path = path
        self.manifest = manifest
        self.manifest_bytes = manifest_bytes
        self.layout = layout.lay_out(manifest, len(manifest_bytes))
        self.file_bytes = size
        self.signatures: tuple[str, ...] = ()
        self._file = file
        self._members = {member.name: member for member in manifest.members}
        self._placements = {placement.name: placement for placement in self.layout.members}

    @classmethod
    def open(cls, path: Path) -> BundleReader:
        """Read and check version, manifest and signature area; nothing else is looked at.

        Raises BundleMissing, NotABundle, BundleFormatNewer, BundleTruncated or BundleDamaged.
        """
        file = opened_file(path)
        try:
            reader = cls._opened(path, file)
            with damage(path, names.SIGNATURES):
                content = reader._small(reader.layout.signatures)
                reader.signatures = _signatures(content)
        except BaseException:
            os.close(file)
            raise
        return reader

    @classmethod
    def open_for_signing(cls, path: Path) -> BundleReader:
        """Like `open`, but a signature area that a crash left half written is taken for an empty one."""
        file = opened_file(path)
        try:
            reader = cls._opened(path, file)
            with suppress(FrameFault, ValueError):
                reader.signatures = _signatures(reader._small(reader.layout.signatures))
        except BaseException:
            os.close(file)
            raise
        return reader

    @classmethod
    def open_unfinished(cls, path: Path) -> BundleReader:
        """Open an archive that is still growing: version, manifest and small members are there, layers may not be.

        Raises what `open` raises.
        """
        file = opened_file(path)
        try:
            return cls._opened(path, file, finished=False)
        except BaseException:
            os.close(file)
            raise

    @classmethod
    def _opened(cls, path: Path, file: int, finished: bool = True) -> BundleReader:
        size = os.fstat(file).st_size
        with damage(path, names.VERSION):
            begin = check_version(path, file, size)
        with damage(path, names.MANIFEST):
            content = manifest_bytes_at(file, begin)
            manifest = parse(path, content)
            expected = least_bytes(manifest, begin, len(content), finished)
            if size < expected:
                raise BundleTruncated(path=path, seen=size, expected=f"at least {expected}")
            reader = cls(path, file, size, manifest, content)
            if fault := contradictions(manifest):
                raise FrameFault(fault)
            # The header's time must be the manifest's too; only now is that known.
            reader._small(reader.layout.manifest)
            if finished and size < (whole := reader._whole_bytes()):
                raise BundleTruncated(path=path, seen=size, expected=whole)
        return reader

    @property
    def manifest_digest(self) -> Digest:
        """The digest of the manifest's bytes: what a site admits."""
        return Digest.of(self.manifest_bytes)

    def read(self, name: str) -> bytes:
        """A small member (at most 64 MiB), its digest verified. Raises MemberMissing, BundleDamaged, ValueError."""
        if self._member(name).size > READ_LIMIT:
            raise ValueError(f"{name} has more than {READ_LIMIT} bytes; stream it")
        with self.stream(name) as stream:
            return stream.read()

    def stream(self, name: str, offset: int = 0) -> MemberStream:
        """Read a member from `offset`. Raises MemberMissing, BundleDamaged; ValueError for an offset outside."""
        member = self._member(name)
        if not 0 <= offset <= member.size:
            raise ValueError(f"{name} has {member.size} bytes, not {offset}")
        with damage(self.path, name):
            return MemberStream(
                self.path, name, member.size, self._source(self._placements[name], member.digest, offset)
            )

    def check(self, name: str) -> None:
        """Read a member to its end and drop it. Raises MemberMissing, BundleDamaged."""
        buffer = memoryview(bytearray(CHUNK))
        with self.stream(name) as stream:
            while stream.readinto(buffer):
                pass

    def extract(self, name: str, target: Path, mode: int = 0o644) -> None:
        """Write a member to `target`, whole and verified or not at all.

        Raises MemberMissing, BundleDamaged, and OSError for `target`.
        """
        buffer = bytearray(CHUNK)
        with self.stream(name) as stream, durable_file(target, mode) as file:
            while count := stream.readinto(buffer):
                file.write(memoryview(buffer)[:count])

    def attestations(self) -> Attestations:
        """What was said about the bundle after it was made. Raises BundleDamaged or BundleTruncated."""
        with damage(self.path, names.ATTESTATIONS):
            tail = self._tail()
            return Attestations(self._data(tail.attestations), _signatures(self._small(tail.signatures)))

    def attestation_content(self) -> bytes:
        """`attestations.json` alone. Raises BundleDamaged or BundleTruncated."""
        with damage(self.path, names.ATTESTATIONS):
            return self._data(self._tail().attestations)

    def provenance(self) -> dict[str, Any]:
        """What the attestations say about how this bundle came to be; as trustworthy as their signatures.

        Raises BundleDamaged when they are about another one, or BundleTruncated.
        """
        with damage(self.path, names.ATTESTATIONS):
            return self._provenance(self._tail())

    def attestation_signatures(self) -> tuple[str, ...]:
        """The signatures over the attestations; none when a crash left the area half written."""
        with damage(self.path, names.ATTESTATION_SIGNATURES):
            area_of = self._tail().signatures
            try:
                return _signatures(self._small(area_of))
            except FrameFault:
                return ()

    def tail(self) -> Tail:
        """Where attestations and their signatures lie. Raises BundleDamaged or BundleTruncated."""
        with damage(self.path, names.ATTESTATIONS):
            return self._tail()

    def verify(self, sink: Sink) -> None:
        """Check every byte: members, attestations, signature areas, end of tar, seek table.

        Raises BundleDamaged or BundleTruncated at the first fault, which names the member.
        """
        total = sum(member.size for member in self.manifest.members)
        buffer = memoryview(bytearray(CHUNK))
        with stage(sink, "verify", f"Checking {self.path.name}", total) as tally:
            with damage(self.path, names.VERSION):
                if self._small(self.layout.version) != layout.version_content().ljust(self.layout.version.size, b"\0"):
                    raise FrameFault("the version does not fit the manifest")
            done = reported = 0
            for member in self.manifest.members:
                with self.stream(member.name) as stream:
                    while count := stream.readinto(buffer):
                        done += count
                        if done - reported >= 16 * CHUNK:
                            reported = done
                            sink(Progress("verify", done, total, member.name))
            sink(Progress("verify", done, total))
            self._verify_tail()
            tally.moved_bytes = done

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> BundleReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _member(self, name: str) -> Member:
        try:
            return self._members[name]
        except KeyError:
            raise MemberMissing(path=self.path, name=name) from None

    def _source(self, placement: Placement, digest: Digest, offset: int) -> Source:
        kind = StoredSource if placement.storage == "stored" else CompressedSource
        return kind(self._file, placement, digest, offset)

    def _small(self, placement: Placement) -> bytes:
        """The data of a small stored member of one frame."""
        frame = placement.frames[0]
        content = frames.open_stored(os.pread(self._file, frame.frame_bytes, frame.offset))
        head, data = content[: len(placement.header)], content[len(placement.header) :][: placement.size]
        if head != placement.header or any(content[len(head) + len(data) :]):
            raise FrameFault("the tar header or the padding is not what it must be")
        return data

    def _data(self, placement: Placement) -> bytes:
        # Not in the manifest, so its digest is not known; the frame's checksum is what there is.
        content = frames.decompress(os.pread(self._file, placement.frames[0].frame_bytes, placement.offset))
        head = len(placement.header)
        return content[head : head + placement.size]

    def _whole_bytes(self) -> int:
        """How long the file is when it is whole; 0 when that cannot be told, which `verify` will say."""
        begin = self.layout.end
        try:
            length, _ = frames.walk(reading(self._file), begin, layout.ATTESTATIONS_LIMIT)
        except FrameCut:
            raise
        except FrameFault:
            return 0
        area_bytes = layout.stored_frame_bytes(names.ATTESTATION_SIGNATURES, layout.AREA_BYTES)
        ending = frames.stored_bytes(len(tarheader.END_OF_ARCHIVE))
        count = sum(len(placement.frames) for placement in self.layout.placements) + 3
        return begin + length + area_bytes + ending + seektable.table_bytes(count)

    def _tail(self) -> Tail:
        begin = self.layout.end
        length, content_bytes = frames.walk(reading(self._file), begin, layout.ATTESTATIONS_LIMIT)
        if content_bytes > layout.ATTESTATIONS_LIMIT:
            raise FrameFault(f"attestations of {content_bytes} bytes")
        content = frames.decompress(os.pread(self._file, length, begin))
        size = tar_size(content, names.ATTESTATIONS, self.manifest.created)
        attestations = layout.compressed(names.ATTESTATIONS, size, begin, self.manifest.created, length)
        signatures = layout.stored(
            names.ATTESTATION_SIGNATURES, layout.AREA_BYTES, attestations.end, self.manifest.created
        )
        return Tail(attestations, signatures, signatures.end)

    def _provenance(self, tail: Tail) -> dict[str, Any]:
        about = json.loads(self._data(tail.attestations))
        if not isinstance(about, dict) or about.get("manifest") != self.manifest_digest:
            raise FrameFault("the attestations are about another manifest")
        said = about.get("provenance", {})
        if not isinstance(said, dict):
            raise FrameFault("the attestations give no provenance")
        return said

    def _verify_tail(self) -> None:
        with damage(self.path, names.ATTESTATIONS):
            tail = self._tail()
            self._provenance(tail)
        with damage(self.path, names.ATTESTATION_SIGNATURES):
            _signatures(self._small(tail.signatures))
        with damage(self.path, "the seek table"):
            ending = frames.stored(tarheader.END_OF_ARCHIVE)
            if os.pread(self._file, len(ending), tail.end) != ending:
                raise FrameFault("the end of the tar archive is not what it must be")
            placements = (*self.layout.placements, tail.attestations, tail.signatures)
            expected = seektable.table_of(self._file, placements, tail.end)
            table = os.pread(self._file, seektable.table_bytes(len(expected)) + 1, tail.end + len(ending))
            if seektable.decode(table) != expected:
                raise FrameFault("it does not list the frames that there are")


def _signatures(content: bytes) -> tuple[str, ...]:
    try:
        return area.decode(content)
    except ValueError as fault:
        raise FrameFault(str(fault)) from fault

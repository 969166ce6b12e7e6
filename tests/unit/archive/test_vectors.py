"""The format stands still: what was committed is read, and is written again to the byte."""

from datetime import UTC, datetime
from pathlib import Path

import zstandard
from vectors import LARGE, TEXT, VECTOR, key_file, write_signed, write_unsigned

from sitebundle.archive import BundleReader, seektable
from sitebundle.archive.signing import sign_bundle
from sitebundle.events import silent
from sitebundle.signature import AllowedSigners, allowed_line, generate_key, public_key_of, verify

LIBZSTD = (1, 5, 7)
NOW = datetime(2026, 11, 23, tzinfo=UTC)


def test_libzstd_is_the_one_that_wrote_the_vectors() -> None:
    assert zstandard.ZSTD_VERSION == LIBZSTD, (
        "another libzstd compresses to other bytes: bundles built before and after differ. "
        "If that is wanted, write the vectors again (tests/support/vectors.py) and say so in the release notes"
    )


def test_the_vector_is_written_again_to_the_byte(tmp_path: Path) -> None:
    assert write_signed(tmp_path / "again").read_bytes() == VECTOR.read_bytes()


def test_the_vector_is_read(tmp_path: Path) -> None:
    line = allowed_line(public_key_of(key_file(tmp_path)), "vector")
    allowed = AllowedSigners(VECTOR, AllowedSigners.parse(line))
    with BundleReader.open(VECTOR) as reader:
        reader.verify(silent)
        assert reader.manifest.generation == 3
        assert reader.read("stack/stack.yaml") == TEXT
        layer = next(member.name for member in reader.manifest.members if member.size == 150_000)
        assert reader.read(layer) == LARGE
        assert verify(reader.manifest_bytes, reader.signatures, allowed, "manifest@mxbundle.io", NOW)
        said = reader.attestations()
        assert verify(said.content, said.signatures, allowed, "attestations@mxbundle.io", NOW)


def test_signing_changes_the_areas_their_checksums_and_two_entries_only(tmp_path: Path) -> None:
    before = write_unsigned(tmp_path / "bundle").read_bytes()
    sign_bundle(tmp_path / "bundle", key_file(tmp_path))
    after = (tmp_path / "bundle").read_bytes()
    assert len(before) == len(after)
    with BundleReader.open(tmp_path / "bundle") as reader:
        tail = reader.tail()
        areas = [reader.layout.signatures, tail.signatures]
        frames = sum(len(placement.frames) for placement in reader.layout.placements) + 3
    table = len(after) - seektable.table_bytes(frames)
    entries = [table + seektable.checksum_offset(number) for number in (2, frames - 2)]
    allowed = [range(area.offset + 523, area.end) for area in areas] + [range(at, at + 4) for at in entries]
    changed = [at for at in range(len(after)) if before[at] != after[at]]
    assert changed
    assert all(any(at in places for places in allowed) for at in changed)


def test_signing_twice_with_one_key_changes_nothing_and_another_key_is_added(tmp_path: Path) -> None:
    path = write_unsigned(tmp_path / "bundle")
    assert sign_bundle(path, key_file(tmp_path)).changed
    once = path.read_bytes()
    again = sign_bundle(path, key_file(tmp_path))
    assert (again.changed, again.signatures) == (False, 1)
    assert path.read_bytes() == once
    generate_key(tmp_path / "second", "second")
    assert sign_bundle(path, tmp_path / "second").signatures == 2
    assert not sign_bundle(path, key_file(tmp_path)).changed
    with BundleReader.open(path) as reader:
        reader.verify(silent)
        assert len(reader.signatures) == len(reader.attestations().signatures) == 2


def test_an_area_that_a_crash_left_half_written_can_be_signed_again(tmp_path: Path) -> None:
    path = write_signed(tmp_path / "bundle")
    with BundleReader.open(path) as reader:
        offset = reader.layout.signatures.offset + 600
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"torn")
    assert sign_bundle(path, key_file(tmp_path)).changed
    assert path.read_bytes() == VECTOR.read_bytes()

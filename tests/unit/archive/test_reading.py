"""A bundle is read by name, verified on the way; what is cut, changed or lying ends in one clear error."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import CREATED, manifest_of, noise, rebuild, write_bundle

from sitebundle.archive import BundleReader, frames, layout, seektable, tarheader
from sitebundle.errors import (
    BundleDamaged,
    BundleError,
    BundleFormatNewer,
    BundleMissing,
    BundleTruncated,
    MemberMissing,
    NotABundle,
)
from sitebundle.events import Event, Progress, silent

Make = Callable[..., Path]
LARGE = noise(3 * frames.BLOCK_LIMIT + 777, 5)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda name="site.tar.zst", **kwargs: write_bundle(tmp_path / name, **kwargs)


@pytest.fixture
def bundle(make: Make) -> Path:
    return make(layers={"l": LARGE, "s": b"short", "e": b""}, extra={"stack/stack.yaml": b"a: 1\n" * 9000})


def stored_name(reader: BundleReader, number: int = 0) -> str:
    return [member.name for member in reader.manifest.members if member.storage == "stored"][number]


def flip(path: Path, offset: int, bit: int = 1) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ bit]))


def test_every_member_is_read_back(bundle: Path) -> None:
    with BundleReader.open(bundle) as reader:
        assert reader.read("stack/stack.yaml") == b"a: 1\n" * 9000
        assert reader.read(stored_name(reader)) == LARGE
        assert reader.read(stored_name(reader, 1)) == b"short"
        assert reader.read(stored_name(reader, 2)) == b""
        assert reader.signatures == ()
        reader.verify(silent)


@pytest.mark.parametrize("offset", [1, 511, 512, 131072 - 512, 131072, 200_000, len(LARGE) - 1, len(LARGE)])
def test_a_stream_begins_anywhere(offset: int, bundle: Path) -> None:
    with BundleReader.open(bundle) as reader:
        with reader.stream(stored_name(reader), offset) as stream:
            assert stream.read() == LARGE[offset:]
        with reader.stream("stack/stack.yaml", min(offset, 45_000)) as stream:
            assert stream.read() == (b"a: 1\n" * 9000)[min(offset, 45_000) :]


def test_a_stream_fills_buffers_of_any_size(bundle: Path) -> None:
    with BundleReader.open(bundle) as reader:
        for size in (1000, 131_071, 5_000_000):
            got = b""
            with reader.stream(stored_name(reader)) as stream:
                buffer = bytearray(size)
                while count := stream.readinto(buffer):
                    got += buffer[:count]
            assert got == LARGE


def test_extract_writes_the_whole_file_or_none(bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    with BundleReader.open(bundle) as reader:
        name = stored_name(reader)
        reader.extract(name, target, mode=0o755)
        assert target.read_bytes() == LARGE
        assert target.stat().st_mode & 0o777 == 0o755
        target.unlink()
        flip(bundle, reader.layout.members[-3].offset + 200_000)
        with pytest.raises(BundleDamaged) as caught:
            reader.extract(name, target)
        assert caught.value.fields["where"] == name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site.tar.zst"]


def test_progress_counts_every_byte_once(bundle: Path) -> None:
    seen: list[Event] = []
    with BundleReader.open(bundle) as reader:
        reader.verify(seen.append)
        total = sum(member.size for member in reader.manifest.members)
    done = [event.done_bytes for event in seen if isinstance(event, Progress)]
    assert done[-1] == total
    assert done == sorted(done)


def test_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BundleMissing):
        BundleReader.open(tmp_path / "nothing")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x28\xb5\x2f\xfd" + bytes(5000), b"PK\x03\x04" * 500])
def test_another_kind_of_file_is_not_a_bundle(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(NotABundle):
        BundleReader.open(tmp_path / "x")


def test_a_folder_and_a_pipe_are_not_bundles(tmp_path: Path) -> None:
    with pytest.raises(NotABundle):
        BundleReader.open(tmp_path)
    with pytest.raises(NotABundle):
        BundleReader.open(Path("/dev/null"))


def test_a_cut_file_is_truncated_wherever_it_is_cut(bundle: Path) -> None:
    with BundleReader.open(bundle) as reader:
        tail = reader.tail()
        borders = [placement.offset for placement in reader.layout.placements] + [tail.attestations.offset, tail.end]
    size = bundle.stat().st_size
    for cut in sorted({1, 9, 600, *borders[1:], *(border + 700 for border in borders), size - 1, size - 30}):
        copy = bundle.with_name("cut")
        copy.write_bytes(bundle.read_bytes()[:cut])
        with pytest.raises(BundleTruncated) as caught:
            BundleReader.open(copy)
        assert caught.value.fields["seen"] == cut


def test_a_flipped_bit_is_found_in_every_part(bundle: Path) -> None:
    size = bundle.stat().st_size
    for offset in range(0, size, max(1, size // 400)):
        flip(bundle, offset)
        with pytest.raises(BundleError), BundleReader.open(bundle) as reader:
            reader.verify(silent)
        flip(bundle, offset)
    with BundleReader.open(bundle) as reader:
        reader.verify(silent)


def test_opening_looks_at_manifest_and_signatures_but_at_no_layer(bundle: Path) -> None:
    with BundleReader.open(bundle) as reader:
        layer, area = reader.layout.members[-3].offset + 100_000, reader.layout.signatures.offset + 3000
    flip(bundle, layer)
    BundleReader.open(bundle).close()
    flip(bundle, area)
    with pytest.raises(BundleDamaged):
        BundleReader.open(bundle)


def test_a_frame_checksum_speaks_before_the_last_byte_is_given(bundle: Path) -> None:
    with BundleReader.open(bundle) as reader:
        placement = next(p for p in reader.layout.members if p.storage == "stored")
        flip(bundle, placement.end - 2)
        with reader.stream(placement.name) as stream:
            buffer = bytearray(len(LARGE))
            assert stream.readinto(memoryview(buffer)[:100_000]) == 100_000
            with pytest.raises(BundleDamaged):
                stream.readinto(buffer)


def test_a_newer_format_names_both_formats(bundle: Path) -> None:
    content = bundle.read_bytes()
    frame = frames.open_stored(content[: frames.stored_bytes(1024)])
    newer = frame.replace(b"format 1\nreader 1", b"format 7\nreader 3")
    bundle.write_bytes(frames.stored(newer) + content[frames.stored_bytes(1024) :])
    with pytest.raises(BundleFormatNewer) as caught:
        BundleReader.open(bundle)
    assert caught.value.fields["seen"] == 7


def test_a_member_that_is_not_there_is_named(bundle: Path) -> None:
    with BundleReader.open(bundle) as reader, pytest.raises(MemberMissing):
        reader.read("stack/other.yaml")


# --- manifests that lie (and whoever can sign may lie) -----------------------------------------------------------


def test_a_manifest_with_a_double_name_is_refused(bundle: Path) -> None:
    refused(bundle, lambda m: m["members"].append(m["members"][0]), "two members")


@pytest.mark.parametrize(
    "name", ["../etc/passwd", "/etc/passwd", "a/../b", "a//b", "a\\b", "c:x", ".hidden", "a/.", "nul.", "", "x" * 300]
)
def test_a_manifest_with_an_unsafe_name_is_refused(name: str, bundle: Path) -> None:
    refused(bundle, lambda m: m["members"][0].update(name=name), "may not be called")


def test_a_manifest_may_not_list_what_frames_it(bundle: Path) -> None:
    refused(bundle, lambda m: m["members"][0].update(name="mxbundle.sig"), "may not be called")


@pytest.mark.parametrize("field", ["size", "frame_bytes"])
@pytest.mark.parametrize("value", [0, 1, 10**6, 1 << 62])
def test_a_manifest_that_lies_about_sizes_is_refused(field: str, value: int, bundle: Path) -> None:
    def lie(document: dict) -> None:
        next(m for m in document["members"] if m["storage"] == "stored")[field] = value

    refused(bundle, lie, None)


def test_a_manifest_that_swaps_two_members_is_refused_when_they_are_read(bundle: Path) -> None:
    def swap(document: dict) -> None:
        members = document["members"]
        members[-1], members[-2] = members[-2], members[-1]

    rebuild(bundle, swap)
    with pytest.raises(BundleDamaged), BundleReader.open(bundle) as reader:
        reader.verify(silent)


def test_a_manifest_that_names_a_blob_which_is_not_there_is_refused(bundle: Path) -> None:
    refused(bundle, lambda m: m["images"][0].update(digest="sha256:" + "0" * 64), "there is no blobs/")


def test_a_blob_member_under_another_digest_is_refused(bundle: Path) -> None:
    refused(bundle, lambda m: m["members"][-1].update(digest="sha256:" + "0" * 64), "is said to have digest")


def test_an_unknown_field_is_refused(bundle: Path) -> None:
    refused(bundle, lambda m: m.update(surprise=1), "surprise")


@pytest.mark.parametrize("created", [-1, 1 << 40])
def test_a_time_that_tar_cannot_hold_is_refused(created: int, bundle: Path) -> None:
    refused(bundle, lambda m: m.update(created=created), None)


def test_json_that_is_deep_or_broken_is_refused(bundle: Path) -> None:
    for text in (b"[" * 200_000, b"{", b"\xff", b"null", b'{"format": 1e999}'):
        rebuild(bundle, lambda m: None, raw=text)
        with pytest.raises(BundleDamaged):
            BundleReader.open(bundle)


def refused(path: Path, change: Callable[[dict], object], words: str | None) -> None:
    rebuild(path, change)
    with pytest.raises((BundleDamaged, BundleTruncated)) as caught:
        BundleReader.open(path)
    if words is not None:
        assert words in caught.value.message


def test_a_decompression_bomb_costs_no_memory(make: Make) -> None:
    path = make(extra={"stack/bomb": bytes(200 << 20)})

    def lie(document: dict) -> None:
        bomb = next(m for m in document["members"] if m["name"] == "stack/bomb")
        bomb["size"] = 100

    rebuild(path, lie)
    # In a process of its own, whose own highest value is asked for: ours has already held the bomb, to write it, and
    # the kernel's ru_maxrss of a child begins with its parent's.
    done = subprocess.run([sys.executable, "-c", READ_BOMB, str(path)], capture_output=True, text=True, check=True)
    error, peak_kib = done.stdout.split()
    assert error == "BundleDamaged"
    assert int(peak_kib) < 100 << 10


READ_BOMB = """
import re, sys
from pathlib import Path
from sitebundle.archive import BundleReader
from sitebundle.errors import BundleError
try:
    with BundleReader.open(Path(sys.argv[1])) as reader:
        reader.read("stack/bomb")
except BundleError as error:
    print(type(error).__name__, *re.findall("VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text()))
"""


def test_the_seek_table_must_list_the_frames_that_there_are(bundle: Path) -> None:
    with BundleReader.open(bundle) as reader:
        table = reader.tail().end + frames.stored_bytes(len(tarheader.END_OF_ARCHIVE))
    flip(bundle, table + seektable.HEAD_BYTES + 3 * seektable.ENTRY_BYTES)
    with pytest.raises(BundleDamaged) as caught, BundleReader.open(bundle) as reader:
        reader.verify(silent)
    assert caught.value.fields["where"] == "the seek table"


def test_bytes_after_the_end_are_refused_by_verify(bundle: Path) -> None:
    with bundle.open("ab") as file:
        file.write(b"more")
    with pytest.raises(BundleDamaged), BundleReader.open(bundle) as reader:
        reader.verify(silent)


def test_attestations_are_about_this_manifest(make: Make) -> None:
    path = make(attestation={"manifest": "sha256:" + "0" * 64})
    with pytest.raises(BundleDamaged) as caught, BundleReader.open(path) as reader:
        reader.verify(silent)
    assert "another manifest" in caught.value.message


# --- the format itself -------------------------------------------------------------------------------------------


def test_a_long_name_and_a_large_size_get_a_pax_header() -> None:
    short = tarheader.header("a" * 100, 1, CREATED, 0o644)
    assert len(short) == 512
    assert b"path=" + b"d/" * 60 + b"x\n" in tarheader.header("d/" * 60 + "x", 1, CREATED, 0o644)
    large = tarheader.header("blobs/sha256/" + "0" * 64, 9 << 30, CREATED, 0o644)
    assert b"size=9663676416\n" in large
    assert len(large) == 1536


def test_a_blob_of_three_gib_is_laid_out_in_frames_of_at_most_one() -> None:
    placed = layout.stored("blobs/sha256/" + "0" * 64, 3 << 30, 1000, CREATED)
    assert [frame.content_bytes for frame in placed.frames] == [1 << 30, 1 << 30, 1 << 30, 512]
    assert placed.frames[1].offset == placed.frames[0].end
    assert placed.position(1 << 30) == placed.frames[1].offset + 13


def test_the_manifest_says_where_everything_lies(bundle: Path) -> None:
    document = json.loads(manifest_of(bundle))
    with BundleReader.open(bundle) as reader:
        begin = reader.layout.signatures.end
        for member, placement in zip(document["members"], reader.layout.members, strict=True):
            assert placement.offset == begin
            begin += member["frame_bytes"]
        assert bundle.read_bytes()[begin : begin + 4] == frames.MAGIC

"""Other people's programs accept what we write: zstd, tar, pyzstd, ssh-keygen, skopeo."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
import pyzstd
from bundles import CREATED, manifest_of, noise, write_bundle

from sitebundle.archive import ArchiveWriter, BundleReader, Checkpoint, SmallMembers, stored_member
from sitebundle.archive.layout import Placement
from sitebundle.archive.signing import sign_bundle
from sitebundle.digest import Digest
from sitebundle.events import silent
from sitebundle.manifest import BundleManifest
from sitebundle.signature import allowed_line, generate_key

LARGE = noise(3_000_000, 11)
PROGRAMS = {"zstd": "zstd", "tar": "tar", "ssh-keygen": "openssh-client", "skopeo": "skopeo"}


@pytest.fixture(scope="session", autouse=True)
def _programs() -> None:
    """The programs that judge us; a machine without them gets them, and a machine that cannot fails."""
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if missing:
        subprocess.run(["apt-get", "update", "-q"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing], check=True)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    extra = {"stack/stack.yaml": b"a: 1\n" * 9000, "tools/linux-amd64/helm": noise(200_000, 3)}
    return write_bundle(tmp_path / "site.tar.zst", {"l": LARGE, "s": b"short", "e": b""}, extra)


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)


def test_zstd_accepts_it(bundle: Path) -> None:
    done = run("zstd", "-t", bundle)
    assert done.returncode == 0, done.stderr
    listed = run("zstd", "-lv", bundle)
    assert "Check: XXH64" in listed.stdout
    assert "Window Size: 128 KiB" in listed.stdout or "Window Size: 256 KiB" in listed.stdout


def test_zstd_finds_a_flipped_bit_in_a_stored_frame(bundle: Path) -> None:
    with BundleReader.open(bundle) as reader:
        layer = stored_layer(reader)
    for offset in (layer.offset + 2000, layer.offset + 1_500_000, layer.end - 100):
        content = bytearray(bundle.read_bytes())
        content[offset] ^= 0x10
        broken = bundle.with_name("broken.tar.zst")
        broken.write_bytes(content)
        assert run("zstd", "-t", broken).returncode != 0


def stored_layer(reader: BundleReader) -> Placement:
    return next(placement for placement in reader.layout.members if placement.storage == "stored")


def test_tar_lists_and_unpacks_every_member_in_order(bundle: Path, tmp_path: Path) -> None:
    listed = run("tar", "--zstd", "-tf", bundle)
    assert listed.returncode == 0
    assert listed.stderr == ""
    members = [member["name"] for member in json.loads(manifest_of(bundle))["members"]]
    framing = ["mxbundle.version", "mxbundle.json", "mxbundle.sig"]
    assert listed.stdout.split() == [*framing, *members, "attestations.json", "attestations.sig"]
    (tmp_path / "out").mkdir()
    assert run("tar", "--zstd", "-xf", bundle, "-C", tmp_path / "out").returncode == 0
    assert (tmp_path / "out" / "tools/linux-amd64/helm").stat().st_mode & 0o777 == 0o755
    with BundleReader.open(bundle) as reader:
        for member in reader.manifest.members:
            assert Digest.of((tmp_path / "out" / member.name).read_bytes()) == member.digest


def test_the_seekable_reader_reads_any_place(bundle: Path) -> None:
    whole = pyzstd.decompress(bundle.read_bytes())
    with pyzstd.SeekableZstdFile(str(bundle)) as file:
        places = random.Random(1)
        for _ in range(200):
            offset = places.randrange(len(whole))
            file.seek(offset)
            assert file.read(100) == whole[offset : offset + 100]


def test_ssh_keygen_verifies_the_manifest_as_it_lies_in_the_archive(bundle: Path, tmp_path: Path) -> None:
    key = generate_key(tmp_path / "key", "builder")
    sign_bundle(bundle, tmp_path / "key")
    (tmp_path / "signers").write_text(allowed_line(key, "builder") + "\n")
    script = (
        f"tar --zstd -xOf {bundle} mxbundle.sig > {tmp_path}/sig && tar --zstd -xOf {bundle} mxbundle.json | "
        f"ssh-keygen -Y verify -f {tmp_path}/signers -I builder -n manifest@mxbundle.io -s {tmp_path}/sig"
    )
    done = run("bash", "-c", script)
    assert done.returncode == 0, done.stderr
    assert key.fingerprint in done.stdout
    assert run("bash", "-c", script.replace("manifest@", "volumes@")).returncode != 0


def test_unpacked_it_is_an_image_layout_that_skopeo_reads_and_copies(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    run("tar", "--zstd", "-xf", bundle, "-C", tmp_path / "out")
    done = run("skopeo", "inspect", f"oci:{tmp_path}/out:ghcr.io/a/b:1")
    assert done.returncode == 0, done.stderr
    with BundleReader.open(bundle) as reader:
        (image,) = reader.manifest.images
    assert json.loads(done.stdout)["Digest"] == image.digest
    assert json.loads(done.stdout)["Layers"] == list(image.carried[0].layers)
    copied = run("skopeo", "copy", "--preserve-digests", f"oci:{tmp_path}/out:ghcr.io/a/b:1", f"dir:{tmp_path}/dir")
    assert copied.returncode == 0, copied.stderr


def test_a_layer_of_more_than_a_gib_is_several_frames_that_everybody_reads(tmp_path: Path) -> None:
    """Frame borders, a checkpoint behind one, and memory that stays where it is."""
    path = tmp_path / "site.tar.zst"
    chunk = noise(1 << 20, 9)
    size = (1 << 30) + 5_000_001
    digest = digest_of_repeated(chunk, size)
    with SmallMembers(tmp_path, CREATED) as small:
        small.add("index.json", b"{}")
        small.add("oci-layout", b"{}")
        manifest = BundleManifest(
            name="large",
            generation=1,
            created=CREATED,
            profile="demo",
            lock_digest=Digest.of(b""),
            platforms=(),
            images=(),
            charts=(),
            files=(),
            crds=(),
            tools=(),
            members=(*small.members, stored_member(digest.blob_path, size, digest)),
        )
        writer = ArchiveWriter.create(path, manifest, small)
    with writer:
        first = writer.blob(digest.blob_path)
        noted = Checkpoint(0, "")
        while first.done_bytes < (1 << 30) + (1 << 20):
            first.write(memoryview(chunk))
            noted = first.checkpoint()
        second = writer.blob(digest.blob_path)
        assert not second.restore(noted._replace(prefix="0" * 16))
        assert second.restore(noted)
        while second.done_bytes < size:
            second.write(memoryview(chunk)[: size - second.done_bytes])
        second.finish()
        writer.finish(json.dumps({"manifest": manifest.digest}).encode())
    with BundleReader.open(path) as reader:
        reader.verify(silent)
        with reader.stream(digest.blob_path, (1 << 30) - 1000) as stream:
            got = stream.read()
        assert got == (chunk * 6)[(1 << 20) - 1000 :][: size - (1 << 30) + 1000]
    assert run("zstd", "-t", path).returncode == 0
    assert run("tar", "--zstd", "-tf", path).returncode == 0
    path.unlink()


def digest_of_repeated(chunk: bytes, size: int) -> Digest:
    import hashlib

    whole = hashlib.sha256()
    for start in range(0, size, len(chunk)):
        whole.update(chunk[: size - start])
    return Digest("sha256:" + whole.hexdigest())

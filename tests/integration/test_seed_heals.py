"""A registry that lost bits on its disk, or whose seeding was killed inside a layer: what the next seeding does."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mxinstall.registry import ServicePlan, ensure, status, stop
from mxinstall.seed import SeedReport, seed
from mxinstall.seed.readback import data_of
from registries import Fault, FaultyProxy, running_registry
from seedable import MIB, Content, seeding_program, site_at, two_images

from darksite import binaries
from sitebundle.archive import BundleReader
from sitebundle.digest import Digest
from sitebundle.errors import BlobRotten
from sitebundle.event_order import in_order
from sitebundle.events import Event, Note
from sitebundle.oci.client import Endpoint, Registry, RetryPolicy


class Seeded:
    """A registry that was filled from `content`; `again` seeds once more."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        (folder / "registry").mkdir()
        (folder / "state").mkdir()
        self.folder = folder
        self.service = ServicePlan("test", folder / "registry", binaries.ensure("registry"), address)
        self.start_id = ensure(self.service).start_id
        self.content = two_images()
        self.bundle = self.content.write(folder / "site.tar.zst")
        self.notes: list[str] = []

    @property
    def registry(self) -> Registry:
        return Registry(Endpoint(f"http://{self.service.address}"))

    def again(self, deep: bool = False, ours: bool = True) -> SeedReport:
        def hear(event: Event) -> None:
            if isinstance(event, Note):
                self.notes.append(event.text)

        with BundleReader.open(self.bundle) as reader:
            return seed(
                reader,
                site_at(self.service.address),
                self.registry,
                hear,
                state=self.folder / "state",
                start_id=self.start_id if ours else None,
                store=self.service.store if ours else None,
                deep=deep,
            )

    def restart(self) -> None:
        stop(self.service)
        self.start_id = ensure(self.service).start_id

    def data(self, digest: Digest) -> Path:
        place = data_of(self.service.store, digest)
        assert place.is_file()
        return place


@pytest.fixture
def seeded(tmp_path: Path) -> Iterator[Seeded]:
    site = Seeded(tmp_path)
    site.again()
    yield site
    stop(site.service)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("rot", [flip, cut])
def test_a_deep_seeding_finds_a_rotten_layer_and_sends_it_again(seeded: Seeded, rot: Callable[[Path], None]) -> None:
    shared = seeded.content.images[0].carried[0].layers[0]
    rot(seeded.data(shared))
    report = seeded.again(deep=True)
    assert report.moved_bytes == len(seeded.content.layers[shared])
    assert any(shared in note for note in seeded.notes)
    for repository in ("mx/ghcr.io/example/one", "mx/docker.io/library/two"):
        assert seeded.registry.read_blob(repository, shared, 1 << 30) == seeded.content.layers[shared]
    assert not seeded.again(deep=True).changed


@pytest.mark.parametrize("rot", [flip, cut])
def test_a_deep_seeding_finds_a_rotten_manifest(seeded: Seeded, rot: Callable[[Path], None]) -> None:
    image = seeded.content.images[0]
    rot(seeded.data(image.digest))
    report = seeded.again(deep=True)
    assert report.pushed_manifests == 1
    assert seeded.registry.manifest("mx/ghcr.io/example/one", image.digest)[1] == seeded.data(image.digest).read_bytes()
    assert not seeded.again(deep=True).changed


def test_after_a_restart_of_the_registry_everything_is_read_back_without_being_asked(seeded: Seeded) -> None:
    layer = seeded.content.images[1].carried[0].layers[1]
    flip(seeded.data(layer))
    assert not seeded.again().changed, "a quick run looks at names only"
    seeded.restart()
    report = seeded.again()
    assert report.deep
    assert report.moved_bytes == len(seeded.content.layers[layer])
    assert seeded.again().quick


def test_a_manifest_that_is_no_json_any_more_does_not_stop_the_quick_way(
    seeded: Seeded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sitebundle.oci.retry.RetryPolicy.wait_seconds", lambda *_: 0.01)
    seeded.data(seeded.content.images[0].digest).write_bytes(b"\0" * 40)
    report = seeded.again()
    assert (report.quick, report.pushed_manifests) == (False, 1)


def test_in_a_registry_that_is_not_ours_a_rotten_blob_is_named(seeded: Seeded) -> None:
    layer = seeded.content.images[0].carried[0].layers[0]
    flip(seeded.data(layer))
    before = seeded.data(layer).read_bytes()
    assert not seeded.again(ours=False).changed, "sizes are believed unless somebody asks"
    with pytest.raises(BlobRotten, match=layer):
        seeded.again(deep=True, ours=False)
    assert seeded.data(layer).read_bytes() == before


def test_a_manifest_in_a_registry_that_is_not_ours_is_read_back_too(seeded: Seeded) -> None:
    image = seeded.content.images[0]
    place = seeded.data(image.digest)
    place.write_bytes(place.read_bytes().replace(b'"linux"', b'"linus"'))
    with pytest.raises(BlobRotten, match=image.digest):
        seeded.again(deep=True, ours=False)


def uploading(site: Seeded) -> list[int]:
    """Sizes in bytes of what is under way; an upload may be over, its files and folders gone, while one looks."""
    found = []
    for folder, _, names in os.walk(site.service.store):  # passes over a folder that has just gone; rglob does not
        if "data" in names and Path(folder).parent.name == "_uploads":
            with contextlib.suppress(FileNotFoundError):
                found.append(Path(folder, "data").stat().st_size)
    return found


def test_killed_inside_a_large_layer_the_rest_of_it_is_sent(tmp_path: Path) -> None:
    site = Seeded(tmp_path)
    content = Content()
    size = 240 * MIB
    large = content.layer(99, size)
    content.image("ghcr.io/example/large:1", [large])
    site.bundle = content.write(tmp_path / "large.tar.zst")
    del content
    seeding = subprocess.Popen(seeding_program(site.bundle, site.service.address, tmp_path / "state"))
    try:
        deadline = time.monotonic() + 60
        while not any(size_now > size // 4 for size_now in uploading(site)):
            assert seeding.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(seeding.pid, signal.SIGKILL)
        seeding.wait()
        site.restart()
        report = site.again()
        assert site.registry.blob_size("mx/ghcr.io/example/large", large) == size
        assert 0 < report.moved_bytes <= size * 3 // 4 + MIB, "what had arrived was sent again"
        assert not any((tmp_path / "state" / "uploads").iterdir()), "the upload is over, but remembered"
        assert not site.again(deep=True).changed
    finally:
        seeding.kill()
        seeding.wait()
        stop(site.service)


def test_an_interrupt_leaves_at_once_also_when_the_registry_hangs(tmp_path: Path) -> None:
    site = Seeded(tmp_path)
    pid = status(site.service).pid
    assert pid is not None
    content = Content()
    content.image("ghcr.io/example/large:1", [content.layer(number, 60 * MIB) for number in (70, 71, 72)])
    bundle = content.write(tmp_path / "large.tar.zst")
    seeding = subprocess.Popen(seeding_program(bundle, site.service.address), stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not any(size_now > MIB for size_now in uploading(site)):
            assert seeding.poll() is None, "it ended before it could be interrupted"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(pid, signal.SIGSTOP)
        seeding.send_signal(signal.SIGINT)
        _, said = seeding.communicate(timeout=20)
        assert "KeyboardInterrupt" in said
    finally:
        os.kill(pid, signal.SIGCONT)
        seeding.kill()
        seeding.wait()
        stop(site.service)


def test_a_whole_seeding_through_a_bad_line_ends_and_has_everything(tmp_path: Path) -> None:
    """Cut requests, lost answers, push-back and failures for every kind of request that a seeding makes."""
    dice = random.Random(11)
    faults = [
        *(Fault("cut-request", method="PATCH", after=dice.randrange(8 * MIB)) for _ in range(12)),
        *(Fault("cut-request", method="PUT", path="uploads", after=dice.randrange(MIB)) for _ in range(4)),
        *(Fault("lose-answer", method=method) for method in ("POST", "PATCH", "PUT", "HEAD") for _ in range(6)),
        *(Fault("status", method=method, status=429) for method in ("POST", "PATCH", "PUT", "HEAD") for _ in range(3)),
        *(Fault("status", method="PUT", status=503, headers={"Retry-After": "1"}) for _ in range(3)),
        *(Fault("status", method="PUT", path="manifests", status=500) for _ in range(3)),
        *(Fault("cut-answer", method="GET", path="blobs", after=1000) for _ in range(4)),
    ]
    dice.shuffle(faults)
    content = Content()
    shared = [content.layer(number, size) for number, size in ((80, 9 * MIB), (81, 3 * MIB))]
    for number in range(8):
        content.image(f"ghcr.io/example/image-{number}:1", [*shared, content.layer(90 + number, 6 * MIB + number)])
    bundle = content.write(tmp_path / "site.tar.zst")
    with running_registry(tmp_path / "registry") as address:
        proxy = FaultyProxy(address)
        patient = RetryPolicy(attempts=20, base_seconds=0.01, cap_seconds=0.05, retry_after_cap_seconds=0.1)
        registry = Registry(Endpoint(proxy.url), policy=patient)
        proxy.faults = faults
        began = time.monotonic()
        with BundleReader.open(bundle) as reader:
            first = seed(reader, site_at(address), registry, in_order(), deep=True)
            again = seed(reader, site_at(address), registry, in_order(), deep=True)
        assert time.monotonic() - began < 60
        proxy.close()
    assert sum(fault.times for fault in faults) < len(faults) // 4, "the line was not bad enough to prove anything"
    assert first.moved_bytes >= sum(map(len, content.layers.values()))
    assert not again.changed

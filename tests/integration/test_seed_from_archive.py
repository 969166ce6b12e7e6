"""Seeding a real distribution registry on loopback from a real archive, also when it is killed on the way."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from mxinstall.registry import ServicePlan, ensure, stop
from mxinstall.seed import seed
from seedable import MIB, Content, seeding_program, site_at, two_images

from darksite import binaries
from sitebundle.archive import BundleReader
from sitebundle.errors import BundleDamaged, DiskTooSmall
from sitebundle.event_order import in_order
from sitebundle.events import Event, Note, Progress, StageFinished, silent
from sitebundle.oci.client import Endpoint, Registry
from sitebundle.reference import retention_tag


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServicePlan]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    directory = tmp_path / "registry"
    directory.mkdir()
    plan = ServicePlan("test", directory, binaries.ensure("registry"), address)
    ensure(plan)
    yield plan
    stop(plan)


def client(service: ServicePlan) -> Registry:
    return Registry(Endpoint(f"http://{service.address}"))


def repositories(service: ServicePlan) -> list[str]:
    answer = urllib3.request("GET", f"http://{service.address}/v2/_catalog", timeout=5.0, retries=False)
    names: list[str] = answer.json()["repositories"]
    return names


def tags(service: ServicePlan, repository: str) -> set[str]:
    answer = urllib3.request("GET", f"http://{service.address}/v2/{repository}/tags/list", timeout=5.0, retries=False)
    return set(answer.json().get("tags") or []) if answer.status == 200 else set()


def test_every_reference_is_there_by_digest_tag_and_retention_tag(tmp_path: Path, service: ServicePlan) -> None:
    content = two_images()
    events: list[Event] = []
    with BundleReader.open(content.write(tmp_path / "site.tar.zst")) as reader:
        report = seed(reader, site_at(service.address), client(service), in_order(events.append))
    registry = client(service)
    for image, repository, tag in (
        (content.images[0], "mx/ghcr.io/example/one", "1.0"),
        (content.images[1], "mx/docker.io/library/two", "2.0"),
    ):
        for name in (image.digest, tag, retention_tag(image.digest)):
            found = registry.resolve(repository, name)
            assert found is not None
            assert found.digest == image.digest
        for digest in image.carried[0].layers:
            assert registry.blob_size(repository, digest) == len(content.layers[digest])
        assert registry.manifest(repository, image.digest)[1] == content.small[image.digest.blob_path]
    unique = sum(map(len, content.layers.values())) + sum(map(len, content.small.values()))
    assert report.total_bytes == unique
    blobs = sum(map(len, content.layers.values())) + sum(image.carried[0].config_size for image in content.images)
    assert report.moved_bytes == blobs, "the shared layer goes over the wire once, by mount into the second repository"
    progress = [event for event in events if isinstance(event, Progress)]
    assert progress[-1].done_bytes == progress[-1].total_bytes == unique
    assert any(isinstance(event, StageFinished) and event.moved_bytes == blobs for event in events)


def test_a_second_run_moves_nothing_and_is_quick(tmp_path: Path, service: ServicePlan) -> None:
    state = tmp_path / "state"
    state.mkdir()
    start_id = ensure(service).start_id
    with BundleReader.open(two_images().write(tmp_path / "site.tar.zst")) as reader:
        runs = [
            seed(reader, site_at(service.address), client(service), silent, state=state, start_id=start_id)
            for _ in range(2)
        ]
    assert not runs[0].quick
    assert runs[1].quick
    assert not runs[1].changed
    assert runs[1].seconds < 5


def test_a_restarted_registry_is_looked_at_in_full(tmp_path: Path, service: ServicePlan) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with BundleReader.open(two_images().write(tmp_path / "site.tar.zst")) as reader:
        first = ensure(service).start_id
        seed(reader, site_at(service.address), client(service), silent, state=state, start_id=first)
        stop(service)
        again = ensure(service).start_id
        report = seed(reader, site_at(service.address), client(service), silent, state=state, start_id=again)
        deep = seed(reader, site_at(service.address), client(service), silent, state=state, start_id=again, deep=True)
    assert first != again
    assert not report.quick
    assert not report.changed
    assert not deep.quick


def test_a_quick_run_notices_a_reference_that_is_gone(tmp_path: Path, service: ServicePlan) -> None:
    state = tmp_path / "state"
    state.mkdir()
    start_id = ensure(service).start_id
    content = two_images()
    events: list[Event] = []
    with BundleReader.open(content.write(tmp_path / "site.tar.zst")) as reader:
        site = site_at(service.address)
        seed(reader, site, client(service), silent, state=state, start_id=start_id)
        gone = content.images[0].digest
        for link in service.store.rglob(f"_manifests/revisions/sha256/{gone.hex}/link"):
            link.unlink()
        report = seed(reader, site, client(service), events.append, state=state, start_id=start_id)
    assert not report.quick
    assert report.pushed_manifests == 1
    assert any(isinstance(event, Note) and event.level == "warning" for event in events)
    found = client(service).resolve("mx/ghcr.io/example/one", gone)
    assert found is not None


def test_a_damaged_blob_ends_it_before_any_name_exists(tmp_path: Path, service: ServicePlan) -> None:
    content = two_images()
    path = content.write(tmp_path / "site.tar.zst")
    with BundleReader.open(path) as reader:
        smallest = content.images[1].carried[0].layers[1]
        offset = next(p.offset for p in reader.layout.members if p.name == smallest.blob_path)
    with path.open("r+b") as file:
        file.seek(offset + 20_000)
        byte = file.read(1)
        file.seek(offset + 20_000)
        file.write(bytes([byte[0] ^ 1]))
    with BundleReader.open(path) as reader, pytest.raises(BundleDamaged) as caught:
        seed(reader, site_at(service.address), client(service), silent)
    assert smallest.hex in caught.value.message
    for repository in repositories(service):
        assert tags(service, repository) == set()
    for image in content.images:
        assert client(service).resolve("mx/ghcr.io/example/one", image.digest) is None


def test_a_blob_that_the_registry_has_is_still_read_from_the_archive(tmp_path: Path, service: ServicePlan) -> None:
    """What a seeded registry hides: the file on the stick may be bad, and it is what the next site gets."""
    content = two_images()
    path = content.write(tmp_path / "site.tar.zst")
    with BundleReader.open(path) as reader:
        seed(reader, site_at(service.address), client(service), silent)
        largest = content.images[0].carried[0].layers[0]
        offset = next(p.offset for p in reader.layout.members if p.name == largest.blob_path)
    with path.open("r+b") as file:
        file.seek(offset + 5 * MIB)
        file.write(b"\0\0\0\0")
    with BundleReader.open(path) as reader, pytest.raises(BundleDamaged):
        seed(reader, site_at(service.address), client(service), silent)


def test_a_disk_that_is_too_small_is_told_before_a_byte_is_sent(
    tmp_path: Path, service: ServicePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=MIB))
    with BundleReader.open(two_images().write(tmp_path / "site.tar.zst")) as reader, pytest.raises(DiskTooSmall):
        seed(reader, site_at(service.address), client(service), silent, store=service.store)
    assert repositories(service) == []


def test_killed_while_seeding_the_second_run_sends_only_what_was_missing(tmp_path: Path, service: ServicePlan) -> None:
    content = Content()
    layers = [content.layer(number, 24 * MIB + number) for number in range(10, 18)]
    content.image("ghcr.io/example/big:1", layers)
    path = content.write(tmp_path / "site.tar.zst")
    seeding = subprocess.Popen(seeding_program(path, service.address))
    registry = client(service)
    deadline = time.monotonic() + 60
    while not any(registry.blob_size("mx/ghcr.io/example/big", layer) for layer in layers):
        assert seeding.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(seeding.pid, signal.SIGKILL)
    seeding.wait()
    assert tags(service, "mx/ghcr.io/example/big") == set()
    before = {layer for layer in layers if registry.blob_size("mx/ghcr.io/example/big", layer)}
    with BundleReader.open(path) as reader:
        report = seed(reader, site_at(service.address), registry, silent)
    missing = sum(len(content.layers[layer]) for layer in layers if layer not in before)
    assert before
    # A commit that was under way may have come to its end since.
    assert 0 < report.moved_bytes <= missing + content.images[0].carried[0].config_size
    assert report.present_bytes >= sum(len(content.layers[layer]) for layer in before)
    assert tags(service, "mx/ghcr.io/example/big") >= {"1"}


def test_memory_stays_flat(tmp_path: Path, service: ServicePlan) -> None:
    content = Content()
    content.image("ghcr.io/example/large:1", [content.layer(number, 96 * MIB) for number in range(20, 23)])
    path = content.write(tmp_path / "site.tar.zst")
    del content
    # Not getrusage: what it says of a child begins with its parent's memory.
    peak = "print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    program = seeding_program(path, service.address, then=peak)
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) * 1024 < 150 * MIB

"""An image that only a Docker daemon has: pinned, carried and run against a real daemon; refused when it changed.

Needs root: containerd and dockerd are started here, in a folder of their own.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from buildplace import HOST, Buildplace, push_images, write_stack
from dockerhost import DockerHost, running_docker
from mxbundle.lock.model import read_lock
from registries import running_registry

from sitebundle.archive import BundleReader
from sitebundle.digest import Digest

LOCAL = "registry.example/our/bot:1.2"
FETCHED = f"{HOST}/little/a:1"
FIRST = {"app/program": b"#!/bin/sh\n" + bytes(range(256)) * 9000, "etc/one": b"1"}
SECOND = {"etc/two": b"2"}
PROMISES = ("USER 991:991", 'ENTRYPOINT ["/app/program"]', "ENV MODE=quiet", "LABEL of=ours")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerHost]:
    with running_docker(tmp_path_factory.mktemp("docker")) as running:
        running.build(LOCAL, [FIRST, SECOND], *PROMISES)
        yield running


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_registry(tmp_path_factory.mktemp("registry")) as address:
        push_images(address, {"a": (50_000,)})
        yield address


@dataclass(frozen=True)
class Place(Buildplace):
    docker_host: str

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "DOCKER_HOST": self.docker_host}


@pytest.fixture
def place(tmp_path: Path, store: str, host: DockerHost) -> Place:
    images = {"a": FETCHED, "bot": LOCAL}
    write_stack(tmp_path, images, f"http://{store}")
    stack = tmp_path / "manifests/stack.yaml"
    stack.write_text(yaml.dump({**yaml.safe_load(stack.read_text()), "fromDocker": ["bot"]}))
    return Place(tmp_path, images, {}, host.url)


def test_it_is_locked_by_its_config_and_by_layers_that_nobody_compressed(place: Place, host: DockerHost) -> None:
    place.lock()
    image = read_lock(place.lockfile).image(LOCAL)
    assert image.source == "docker-daemon"
    (platform,) = image.platforms
    assert (platform.platform, platform.digest) == ("linux/amd64", image.digest)
    told = host.inspect(LOCAL)
    assert told["Id"] == platform.config.digest
    assert told["RootFS"]["Layers"] == [layer.digest for layer in platform.layers]
    assert len(platform.layers) == 2
    assert {layer.media_type for layer in platform.layers} == {"application/vnd.oci.image.layer.v1.tar"}
    first = place.lockfile.read_bytes()
    place.lock()
    assert place.lockfile.read_bytes() == first


def test_it_is_carried_beside_what_a_registry_has_and_skopeo_finds_its_promises(place: Place, tmp_path: Path) -> None:
    place.lock()
    done = place.build()
    assert done.returncode == 0, done.stderr
    with BundleReader.open(place.output) as reader:
        assert [image.reference for image in reader.manifest.images] == [FETCHED, LOCAL]
        for member in reader.manifest.members:
            reader.check(member.name)
    layout, root = tmp_path / "layout", tmp_path / "root"
    layout.mkdir()
    root.mkdir()
    subprocess.run(["tar", "--zstd", "-xf", str(place.output), "-C", str(layout)], check=True)
    named = f"oci:{layout}:{LOCAL}"
    shown = subprocess.run(["skopeo", "inspect", "--config", named], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    config = json.loads(shown.stdout)["config"]
    assert (config["User"], config["Entrypoint"]) == ("991:991", ["/app/program"])
    assert "MODE=quiet" in config["Env"]
    assert config["Labels"] == {"of": "ours"}
    for layer in read_lock(place.lockfile).image(LOCAL).platforms[0].layers:
        subprocess.run(["tar", "-xf", str(layout / layer.digest.blob_path), "-C", str(root)], check=True)
    for path, content in {**FIRST, **SECOND}.items():
        assert (root / path).read_bytes() == content
    again = place.build(output=tmp_path / "again.tar.zst")
    assert again.returncode == 0, again.stderr
    assert Digest.of((tmp_path / "again.tar.zst").read_bytes()) == Digest.of(place.output.read_bytes())


def test_an_image_that_was_built_anew_since_the_lock_is_refused_and_named(place: Place, host: DockerHost) -> None:
    place.lock()
    locked = read_lock(place.lockfile).image(LOCAL)
    host.build(LOCAL, [FIRST, {"etc/two": b"changed"}], *PROMISES)
    try:
        done = place.build()
        assert done.returncode == 31, done.stderr
        assert f"images.lock does not fit {LOCAL}: the local Docker daemon now has sha256:" in done.stderr
        assert f"locked is {locked.platforms[0].config.digest}" in done.stderr
        assert not place.output.exists()
        checked = place.run("lock", "--check")
        assert checked.returncode == 31
        assert f"image {LOCAL} moved" in checked.stderr
    finally:
        host.build(LOCAL, [FIRST, SECOND], *PROMISES)


def test_an_image_that_the_daemon_lacks_is_one_error_with_who_needs_it(place: Place) -> None:
    stack = place.manifests / "stack.yaml"
    stack.write_text(stack.read_text().replace(LOCAL, "registry.example/our/bot:none"))
    done = place.run("lock")
    assert done.returncode == 33
    assert "registry.example/our/bot:none cannot be resolved: the local Docker daemon has no such image" in done.stderr
    assert "app Deployment/little/app" in done.stderr
    assert not place.lockfile.exists()


def test_a_platform_that_the_daemons_image_is_not_for_is_named(place: Place) -> None:
    stack = place.manifests / "stack.yaml"
    stack.write_text(stack.read_text().replace(FETCHED, LOCAL).replace("- bot", "- bot\n- a"))
    done = place.run("lock", "--platform", "linux/arm64")
    assert done.returncode == 33, done.stderr
    assert "it is for linux/amd64 alone, not for linux/arm64" in done.stderr


def test_without_a_daemon_the_lock_says_so(place: Place) -> None:
    lost = Place(place.folder, place.images, {}, "unix:///nowhere/docker.sock")
    done = lost.run("lock")
    assert done.returncode == 40, done.stderr
    assert "the local Docker daemon does not answer" in done.stderr


def test_with_keep_a_locked_image_needs_no_daemon_but_a_build_does(place: Place) -> None:
    place.lock()
    lost = Place(place.folder, place.images, {}, "unix:///nowhere/docker.sock")
    kept = lost.run("lock", "--keep")
    assert kept.returncode == 0, kept.stderr
    built = lost.build()
    assert built.returncode == 40
    assert "the local Docker daemon does not answer" in built.stderr

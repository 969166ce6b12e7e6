"""The derived Synapse, made as in production: upstream's stand-in, the pinned wheels of the index, real commands.

Needs root: the image is run in its own root file system. Images and wheels come from the dark site's cache.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomli_w
from buildplace import Buildplace, write_stack
from imagery import MANIFESTS, contract_config, layer, push_image
from mxbundle.derive.recipe import Recipe, read_recipes
from mxbundle.lock.model import read_lock
from registries import Fault, FaultyProxy, running_registry

from darksite.images import Contract, all_contracts, build
from darksite.images.isolation import inside
from darksite.images.push import Registry as Pusher
from darksite.wheels import all_wheels
from sitebundle.archive import BundleReader
from sitebundle.digest import Digest
from sitebundle.oci.client import Endpoint, Registry
from sitebundle.oci.descriptor import OCI_INDEX
from sitebundle.reference import Reference

(RECIPE,) = read_recipes(MANIFESTS / "derived")
BASE = Reference.parse(RECIPE.base)
BASE_LAYER_BYTES = 4_000_000


HOMESERVER = """\
server_name: example.site
report_stats: false
database: {name: sqlite3, args: {database: ":memory:"}}
media_store_path: /data/media
signing_key_path: /data/signing.key
media_storage_providers:
  - module: s3_storage_provider.S3StorageProviderBackend
    store_local: true
    store_remote: true
    store_synchronous: true
    config: {bucket: media, endpoint_url: "https://objects.example.site", region_name: us-east-1}
"""


def contract() -> Contract:
    (found,) = (entry for entry in all_contracts() if entry.reference == RECIPE.base)
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that has upstream's Synapse, or what stands in for it."""
    with running_registry(tmp_path_factory.mktemp("registry")) as address:
        with Pusher(address) as registry:
            registry.push(build(contract()).layout, RECIPE.base)
        yield address


@dataclass(frozen=True)
class Place(Buildplace):
    """A stack whose only image is the derived one; `proxy` is its registry, `wheels` its file host."""

    proxy: FaultyProxy

    @property
    def wheels(self) -> Path:
        return self.folder / "wheels"

    def recipe(self, recipe: Recipe) -> None:
        document = recipe.model_dump(mode="json")
        (self.manifests / "derived" / "synapse-s3.toml").write_text(tomli_w.dumps(document))


def new_place(folder: Path, address: str) -> Place:
    proxy = FaultyProxy(address)
    images = {"synapse": RECIPE.reference}
    write_stack(folder, images, proxy.url)
    for name in ("derived", "images"):
        (folder / "manifests" / name).mkdir(exist_ok=True)
    shutil.copy(MANIFESTS / "derived/synapse-s3.toml", folder / "manifests/derived")
    shutil.copy(MANIFESTS / "images/synapse.toml", folder / "manifests/images")
    (folder / "wheels").mkdir()
    mirrors = ["[files]"]
    for url, wheel in all_wheels().items():
        shutil.copy(wheel, folder / "wheels")
        mirrors.append(f'"{url}" = "{(folder / "wheels" / wheel.name).as_uri()}"')
    with (folder / "mirrors.toml").open("a") as file:
        file.write("\n".join(mirrors) + "\n")
    return Place(folder, images, {}, proxy)


@pytest.fixture(scope="module")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry with a base that is quickly fetched: it keeps Synapse's contract and has nothing in it."""
    with running_registry(tmp_path_factory.mktemp("small-registry")) as address:
        push_image(
            Registry(Endpoint.parse(f"http://{address}/{BASE.host}")),
            BASE.repository,
            BASE.tag or "",
            config=contract_config("synapse"),
            layers=[layer("below", BASE_LAYER_BYTES), layer("above")],
            platforms=("linux/amd64", "linux/arm64"),
        )
        yield address


@pytest.fixture
def place(tmp_path: Path, small_store: str) -> Iterator[Place]:
    made = new_place(tmp_path, small_store)
    yield made
    made.proxy.close()


@dataclass(frozen=True)
class Bundled:
    """A bundle of the derived image, built once, and what is in it."""

    place: Place
    layout: Path
    root: Path


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory, store: str) -> Iterator[Bundled]:
    if os.geteuid() != 0:
        pytest.fail("a derived image is run in namespaces: run as root")
    place = new_place(tmp_path_factory.mktemp("place"), store)
    place.lock()
    done = place.build()
    assert done.returncode == 0, done.stderr
    layout, root = place.folder / "layout", place.folder / "root"
    layout.mkdir()
    root.mkdir()
    subprocess.run(["tar", "--zstd", "-xf", str(place.output), "-C", str(layout)], check=True)
    for blob in read_lock(place.lockfile).image(RECIPE.reference).platforms[0].layers:
        subprocess.run(["tar", "-xf", str(layout / blob.digest.blob_path), "-C", str(root)], check=True)
    yield Bundled(place, layout, root)
    place.proxy.close()


def test_what_the_recipe_promises_runs_in_the_image_as_its_user_with_the_root_read_only(bundled: Bundled) -> None:
    process = contract().process
    for binary in (*RECIPE.brings.binaries, *contract().binaries):
        done = inside(bundled.root, [binary.path, *binary.arguments], user=(process.uid, process.gid))
        assert done.returncode == 0, done.stdout
        assert binary.prints in done.stdout
    assert [path for path in RECIPE.brings.files if not (bundled.root / path.lstrip("/")).is_file()] == []


def test_synapse_takes_the_provider_as_its_media_store(bundled: Bundled, tmp_path: Path) -> None:
    process = contract().process
    (tmp_path / "media").mkdir()
    (tmp_path / "homeserver.yaml").write_text(HOMESERVER)
    (tmp_path / "signing.key").write_text("ed25519 a_test " + "A" * 43 + "\n")
    for path in (tmp_path, tmp_path / "media"):
        os.chown(path, process.uid, process.gid)
    question = (
        "from synapse.config.homeserver import HomeServerConfig;"
        " loaded = HomeServerConfig.load_config('test', ['-c', '/data/homeserver.yaml']);"
        " [(backend, config, wrapper)] = loaded.media.media_storage_providers;"
        " print(backend.__module__, config['bucket'], wrapper.store_synchronous)"
    )
    done = inside(
        bundled.root,
        ["/usr/local/bin/python3", "-c", question],
        user=(process.uid, process.gid),
        writable={"/data": tmp_path},
        tmpfs=["/tmp"],
    )
    assert done.stdout.splitlines()[-1] == "s3_storage_provider media True", done.stdout


def test_the_base_alone_has_nothing_of_it(bundled: Bundled) -> None:
    lock = read_lock(bundled.place.lockfile)
    (*below, added) = lock.image(RECIPE.reference).platforms[0].layers
    brought = {path.lstrip("/") for path in RECIPE.brings.files}
    listed = []
    for blob in (*below, added):
        command = ["tar", "-tf", str(bundled.layout / blob.digest.blob_path)]
        listed.append(set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")))
    assert brought <= listed[-1]
    assert not brought & set.union(*listed[:-1])
    assert tuple(layer.digest for layer in below) == tuple(
        x.digest for x in lock.image(RECIPE.base).platforms[0].layers
    )


def test_skopeo_reads_it_and_finds_the_bases_user_entry_point_and_environment(bundled: Bundled) -> None:
    named = f"oci:{bundled.layout}:{RECIPE.reference}"
    shown = subprocess.run(["skopeo", "inspect", "--config", named], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    config = json.loads(shown.stdout)
    promised = contract().config.document()
    assert {key: config["config"].get(key) for key in promised} == promised
    assert len(config["rootfs"]["diff_ids"]) == len(config["history"])
    copied = bundled.place.folder / "copied"
    command = ["skopeo", "copy", "--all", "--preserve-digests", named, f"dir:{copied}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_layer_lies_in_the_bundle_uncompressed_so_that_its_digest_is_its_diff_id(bundled: Bundled) -> None:
    platform = read_lock(bundled.place.lockfile).image(RECIPE.reference).platforms[0]
    config = json.loads((bundled.layout / platform.config.digest.blob_path).read_bytes())
    assert config["rootfs"]["diff_ids"][-1] == platform.layers[-1].digest
    assert platform.layers[-1].media_type == "application/vnd.oci.image.layer.v1.tar"


def test_only_the_derived_image_is_carried_and_its_base_is_named(bundled: Bundled) -> None:
    with BundleReader.open(bundled.place.output) as reader:
        assert [image.reference for image in reader.manifest.images] == [RECIPE.reference]
    lock = read_lock(bundled.place.lockfile)
    base = f"{RECIPE.base}@{lock.image(RECIPE.base).digest}"
    shown = bundled.place.run_alone("inspect", str(bundled.place.output))
    assert f"derived from {base}" in shown.stdout
    why = bundled.place.run_alone("why", "derived.mxbundle/synapse", "--lock", str(bundled.place.lockfile))
    assert f"derived from {base}" in why.stdout
    assert "boto3 1.44.8" in why.stdout
    assert "app Deployment/little/app" in why.stdout
    asked = bundled.place.run_alone("why", RECIPE.base, "--lock", str(bundled.place.lockfile))
    assert f"{RECIPE.reference} base image" in asked.stdout


def test_locking_again_changes_no_byte_and_keeping_fetches_no_wheel(place: Place) -> None:
    place.lock()
    first = place.lockfile.read_bytes()
    place.lock()
    assert place.lockfile.read_bytes() == first
    shutil.rmtree(place.wheels)
    kept = place.run("lock", "--keep")
    assert kept.returncode == 0, kept.stderr
    assert place.lockfile.read_bytes() == first


def test_the_same_lock_gives_the_same_bundle_wherever_it_is_built(bundled: Bundled, tmp_path: Path) -> None:
    again = bundled.place.build(output=tmp_path / "again.tar.zst")
    assert again.returncode == 0, again.stderr
    assert Digest.of((tmp_path / "again.tar.zst").read_bytes()) == Digest.of(bundled.place.output.read_bytes())


def test_two_platforms_share_the_layer_of_pure_wheels(place: Place) -> None:
    both = ("--platform", "linux/amd64", "--platform", "linux/arm64")
    assert place.run("lock", *both).returncode == 0
    lock = read_lock(place.lockfile)
    image = lock.image(RECIPE.reference)
    assert [platform.platform for platform in image.platforms] == ["linux/amd64", "linux/arm64"]
    assert len({platform.layers[-1].digest for platform in image.platforms}) == 1
    assert len({platform.config.digest for platform in image.platforms}) == 2
    done = place.build("--platform", "linux/arm64")
    assert done.returncode == 0, done.stderr
    with BundleReader.open(place.output) as reader:
        index = json.loads(reader.read(image.digest.blob_path))
    assert [entry["platform"]["architecture"] for entry in index["manifests"]] == ["amd64", "arm64"]


def test_a_wheel_with_another_digest_fails_the_lock_and_writes_nothing(place: Place) -> None:
    (wheel,) = place.wheels.glob("tqdm-*.whl")
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    done = place.run("lock")
    assert done.returncode == 36
    assert "source-changed" in done.stderr
    assert done.stderr.count("tqdm-") == 1
    assert not place.lockfile.exists()


def test_a_wheel_that_changed_since_the_lock_fails_the_build(place: Place) -> None:
    place.lock()
    (wheel,) = place.wheels.glob("tqdm-*.whl")
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    done = place.build()
    assert done.returncode == 36, done.stderr
    assert "source-changed" in done.stderr
    assert not place.output.exists()


def test_a_base_whose_tag_moved_is_named_and_so_is_what_is_derived_from_it(place: Place, small_store: str) -> None:
    place.lock()
    registry = Registry(Endpoint.parse(f"http://{small_store}/{BASE.host}"))
    descriptor, body = registry.manifest(BASE.repository, BASE.tag or "")
    moved = json.dumps({**json.loads(body), "annotations": {"moved": "yes"}}).encode()
    registry.put_manifest(BASE.repository, BASE.tag or "", moved, OCI_INDEX)
    try:
        checked = place.run("lock", "--check")
        assert checked.returncode == 31, checked.stderr
        assert f"image {RECIPE.base} moved from {descriptor.digest.short} to {Digest.of(moved).short}" in checked.stderr
        assert f"image {RECIPE.reference} moved" in checked.stderr
        built = place.build()
        assert built.returncode == 0, "what is locked is still there: " + built.stderr
    finally:
        registry.put_manifest(BASE.repository, BASE.tag or "", body, descriptor.media_type)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("base_digest", f"its base {RECIPE.base} is locked as"),
        (
            "layers",
            f"images.lock does not fit {RECIPE.reference}: its last layer for linux/amd64 is not the derived one",
        ),
        ("index", f"images.lock does not fit {RECIPE.reference}: its index, made again, is"),
    ],
)
def test_a_lock_that_contradicts_itself_is_refused_before_a_layer_is_fetched(
    place: Place, what: str, said: str
) -> None:
    place.lock()
    lock = read_lock(place.lockfile)
    entry = lock.derivation(RECIPE.reference)
    assert entry is not None
    old = {
        "base_digest": f'base_digest = "{entry.base_digest}',
        "layers": f'platform = "linux/amd64", digest = "{entry.layers[0].digest}',
        "index": f'reference = "{RECIPE.reference}"\ndigest = "{lock.image(RECIPE.reference).digest}',
    }[what]
    text = place.lockfile.read_text()
    assert text.count(old) == 1
    place.lockfile.write_text(text.replace(old, old[:-4] + "0000"))
    done = place.build()
    assert done.returncode == 31, done.stderr
    assert said in done.stderr
    assert not place.output.exists()


def test_a_layer_that_comes_out_otherwise_than_locked_is_refused(place: Place) -> None:
    """As if the code that packs a layer had changed since: the lock and the documents agree, the bytes do not."""
    interpreter = RECIPE.python.model_copy(update={"interpreter": "/usr/bin/python3"})
    place.recipe(RECIPE.model_copy(update={"python": interpreter}))
    place.lock()
    place.recipe(RECIPE)
    text = place.lockfile.read_text()
    place.lockfile.write_text(text.replace('interpreter = "/usr/bin/', 'interpreter = "/usr/local/bin/'))
    done = place.build()
    assert done.returncode == 31, done.stderr
    assert f"images.lock does not fit {RECIPE.reference}: its layer, made again, has sha256:" in done.stderr
    assert not place.output.exists()


def test_a_recipe_that_changed_since_the_lock_is_refused(place: Place) -> None:
    place.lock()
    place.recipe(RECIPE.model_copy(update={"wheels": RECIPE.wheels[1:]}))
    done = place.build()
    assert done.returncode == 31
    assert "its recipe in manifests/derived/ is not the locked one" in done.stderr


def test_an_image_that_is_called_derived_and_has_no_recipe_is_one_error(place: Place) -> None:
    (place.manifests / "derived/synapse-s3.toml").unlink()
    done = place.run("lock")
    assert done.returncode == 33
    assert f"{RECIPE.reference} cannot be resolved: manifests/derived/ has no recipe for it" in done.stderr


def test_a_layer_that_was_made_before_the_build_broke_off_is_not_made_again(place: Place) -> None:
    place.lock()
    base = read_lock(place.lockfile).image(RECIPE.base)
    gone = [f"/blobs/{blob.digest}" for blob in base.platforms[0].layers]
    place.proxy.faults = [Fault("status", method="GET", path=path, status=404, times=9) for path in gone]
    broken = place.build()
    assert broken.returncode == 42, broken.stderr
    shutil.rmtree(place.wheels)
    place.proxy.faults = []
    done = place.build()
    assert done.returncode == 0, done.stderr
    assert "kept from an earlier run" in done.stderr

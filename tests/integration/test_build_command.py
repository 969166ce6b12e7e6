"""`mxbundle build` against a real registry: fetched once, hashed on the way, resumed after kill -9, reproducible."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from buildplace import HOST, Buildplace, push_images, write_stack
from imagery import push_image
from registries import Fault, FaultyProxy, running_registry

from sitebundle.archive import BundleReader
from sitebundle.archive.frames import libzstd_version
from sitebundle.digest import Digest
from sitebundle.events import silent
from sitebundle.oci.client import Endpoint, Registry
from sitebundle.oci.descriptor import OCI_INDEX
from sitebundle.version import program_version

SIZES = {"a": (30_000_000, 100_000), "b": (20_000_000,), "c": (12_000_000, 700)}
BLOB = r"/blobs/sha256:"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, object]]]:
    with running_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address, dict(push_images(address, SIZES))


class Place(Buildplace):
    """A build place whose registry traffic goes through a proxy that counts and disturbs it."""

    proxy: FaultyProxy

    def fetched_bytes(self) -> int:
        return sum(seen.sent for seen in self.proxy.requests("GET", BLOB))

    def layer_bytes(self) -> int:
        with BundleReader.open(self.output) as reader:
            return sum(member.size for member in reader.manifest.members if member.storage == "stored")


IMAGES = {name: f"ghcr.io/little/{name}:1" for name in SIZES}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, store: tuple[str, dict[str, object]]) -> tuple[str, str]:
    """A lock of the stack, made once, and the address of the folder that it names; locking is tested elsewhere."""
    address, pushed = store
    folder = tmp_path_factory.mktemp("locked")
    write_stack(folder, IMAGES, f"http://{address}")
    made = Place(folder, IMAGES, pushed)  # type: ignore[arg-type]
    made.lock()
    return made.lockfile.read_text(), folder.as_uri()


@pytest.fixture
def place(tmp_path: Path, store: tuple[str, dict[str, object]], locked: tuple[str, str]) -> Iterator[Place]:
    address, pushed = store
    proxy = FaultyProxy(address)
    write_stack(tmp_path, IMAGES, proxy.url)
    made = Place(tmp_path, IMAGES, pushed)  # type: ignore[arg-type]
    object.__setattr__(made, "proxy", proxy)
    lock, named = locked
    made.lockfile.write_text(lock.replace(named, tmp_path.as_uri()))
    yield made
    proxy.close()


def test_a_bundle_is_whole_and_holds_every_blob_once(place: Place) -> None:
    done = place.build("--source-commit", "c0ffee")
    assert done.returncode == 0, done.stderr
    with BundleReader.open(place.output) as reader:
        reader.verify(silent)
        assert {image.reference for image in reader.manifest.images} == set(place.images.values())
        for image in reader.manifest.images:
            assert Digest.of(reader.read(image.digest.blob_path)) == image.digest
        names = [member.name for member in reader.manifest.members]
        assert len(set(names)) == len(names)
        assert {"stack/stack.yaml", "charts/app-1.0.0.tgz", "crds/littles.example.site.yaml"} <= set(names)
        assert reader.read("tools/linux-amd64/helm") == (place.folder / "helm").read_bytes()
        layers = [member.size for member in reader.manifest.members if member.storage == "stored"]
        assert layers == sorted(layers, reverse=True)
        configs = {c.config: c.config_size for image in reader.manifest.images for c in image.carried}
        whole = sum(layers) + sum(configs.values())
    assert place.fetched_bytes() == whole
    assert [path.name for path in place.output.parent.iterdir()] == [place.output.name]
    said = subprocess.run(
        [place.command("")[0], "inspect", str(place.output)], capture_output=True, text=True, check=True
    )
    assert f"built by mxbundle {program_version()} of commit c0ffee from lock sha256:" in said.stdout


def test_a_finished_bundle_is_left_as_it_is_and_nothing_is_fetched(place: Place) -> None:
    assert place.build().returncode == 0
    before, bytes_before = place.output.stat(), place.output.read_bytes()
    journal = place.output.with_name("site.tar.zst.journal")
    journal.write_text("")  # what an end between the rename and the removal of the journal leaves
    forget(place)
    done = place.build()
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout
    assert (place.output.stat().st_ino, place.output.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert place.proxy.requests("GET") + place.proxy.requests("HEAD") == []
    assert not journal.exists()
    key = key_of(place)
    report = json.loads(place.build("--json", "--key", str(key)).stdout.splitlines()[-1])
    assert (report["changed"], report["fetched_bytes"], report["kept_bytes"]) == (False, 0, place.layer_bytes())
    with BundleReader.open(place.output) as reader:
        reader.verify(silent)
        assert len(reader.signatures) == 1
    assert len(place.output.read_bytes()) == len(bytes_before)
    assert place.proxy.requests("GET") == []
    assert place.build("--generation", "2").returncode == 0
    with BundleReader.open(place.output) as reader:
        assert reader.manifest.generation == 2
    assert place.fetched_bytes() >= place.layer_bytes()


def test_a_finished_bundle_that_was_cut_is_built_again(place: Place) -> None:
    assert place.build().returncode == 0
    whole = place.output.read_bytes()
    with place.output.open("r+b") as file:
        file.truncate(len(whole) - 1)
    assert place.build().returncode == 0
    assert place.output.read_bytes() == whole


def forget(place: Place) -> None:
    with place.proxy.lock:
        place.proxy.seen.clear()


def test_a_dry_run_says_what_would_be_fetched_and_writes_nothing(place: Place) -> None:
    done = place.build("--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert not place.output.parent.exists()
    assert place.proxy.requests("GET") == []
    assert place.build().returncode == 0
    assert (said["layer_bytes"], said["images"], said["finished"]) == (place.layer_bytes(), len(SIZES), False)
    assert "nothing to do" in place.build("--dry-run").stdout


def test_a_key_that_cannot_sign_is_said_before_anything_is_fetched(place: Place) -> None:
    done = place.build("--key", str(place.folder / "no-such-key"))
    assert done.returncode == 19
    assert place.proxy.requests("GET") == []
    assert not place.output.parent.exists()


def test_an_index_is_carried_whole_though_only_one_of_its_platforms_is(place: Place) -> None:
    reference = f"{HOST}/little/two:1"
    registry = Registry(Endpoint.parse(f"{place.proxy.url}/{HOST}"))
    both = push_image(registry, "little/two", "1", platforms=("linux/amd64", "linux/arm64"))
    two = Place(place.folder / "two", {"two": reference}, {reference: both})
    two.folder.mkdir()
    write_stack(two.folder, two.images, place.proxy.url)
    assert two.run("lock", "--platform", "linux/amd64", "--platform", "linux/arm64").returncode == 0
    assert two.build("--platform", "linux/amd64").returncode == 0
    with BundleReader.open(two.output) as reader:
        reader.verify(silent)
        (image,) = reader.manifest.images
        assert [carried.platform for carried in image.carried] == ["linux/amd64"]
        assert (image.digest, image.media_type) == (both.digest, OCI_INDEX)
        index = json.loads(reader.read(image.digest.blob_path))
        names = {member.name for member in reader.manifest.members}
        present = [Digest(entry["digest"]).blob_path in names for entry in index["manifests"]]
        assert present == [True, False, False], "amd64, arm64, and an attestation of neither"
    whole = two.folder / "whole.tar.zst"
    assert two.build("--platform", "linux/amd64", "--platform", "linux/arm64", output=whole).returncode == 0
    with BundleReader.open(whole) as reader:
        names = {member.name for member in reader.manifest.members}
        assert [Digest(entry["digest"]).blob_path in names for entry in index["manifests"]] == [True, True, False]


def test_the_same_wish_gives_the_same_bytes_however_many_fetches(place: Place) -> None:
    other = place.folder / "other" / "site.tar.zst"
    assert place.build("--fetches", "1").returncode == 0
    assert place.build("--fetches", "9", output=other).returncode == 0
    assert place.output.read_bytes() == other.read_bytes()


def test_a_killed_build_fetches_only_what_was_missing(place: Place) -> None:
    process = subprocess.Popen(place.command("build", "--output", str(place.output)), env=place.environment())
    journal = place.output.with_name("site.tar.zst.journal")
    total = sum(sum(sizes) for sizes in SIZES.values())
    deadline = time.monotonic() + 60
    while journaled(journal) < total // 2:
        assert process.poll() is None, "the build ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    there = journaled(journal)
    assert not place.output.exists()
    place.proxy.requests("GET")
    with place.proxy.lock:
        place.proxy.seen.clear()
    done = place.build("--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["kept_bytes"] == there >= total // 2
    assert place.fetched_bytes() == place.layer_bytes() - there
    assert [seen for seen in place.proxy.requests("GET") if "/manifests/" in seen.path] == []
    progress = [
        event["done_bytes"]
        for event in map(json.loads, done.stdout.splitlines())
        if event.get("event") == "progress" and event["stage"] == "fetch"
    ]
    assert progress == sorted(progress)
    assert progress[-1] == place.layer_bytes()
    with BundleReader.open(place.output) as reader:
        reader.verify(silent)
    other = place.folder / "other.tar.zst"
    assert place.build(output=other).returncode == 0
    assert other.read_bytes() == place.output.read_bytes()


def journaled(journal: Path) -> int:
    """Bytes that the journal says are in place."""
    known: dict[str, int] = {}
    if journal.exists():
        for line in journal.read_text().split("\n")[:-1]:
            record = json.loads(line)
            if "member" in record:
                known[record["member"]] = record["bytes"]
    return sum(known.values())


def test_what_a_crash_left_wrong_is_found_and_fetched_again(place: Place) -> None:
    broken_off(place)
    part = place.output.with_name("site.tar.zst.part")
    with BundleReader.open_unfinished(part) as reader:
        largest = reader.layout.members[[m.storage for m in reader.manifest.members].index("stored")]
    with part.open("r+b") as file:
        file.seek(largest.offset + 5000)
        file.write(b"damage that the journal knows nothing of")
    assert place.build().returncode == 0
    with BundleReader.open(place.output) as reader:
        reader.verify(silent)


def test_a_part_of_another_wish_is_not_gone_on_with(place: Place) -> None:
    broken_off(place)
    with place.proxy.lock:
        place.proxy.seen.clear()
    done = place.build("--generation", "2")
    assert done.returncode == 0, done.stderr
    assert "starting over" in done.stderr
    with BundleReader.open(place.output) as reader:
        reader.verify(silent)
        assert reader.manifest.generation == 2
    assert place.fetched_bytes() >= place.layer_bytes()


def broken_off(place: Place) -> None:
    """A build that ended because a blob was lost on its way."""
    largest = largest_layer(place)
    place.proxy.faults.append(Fault("status", path=f"/blobs/{largest}", status=404, times=1))
    assert place.build("--fetches", "1").returncode == 42
    assert place.output.with_name("site.tar.zst.part").exists()


def largest_layer(place: Place) -> str:
    found = re.findall(r'digest = "(sha256:[0-9a-f]+)", size = (\d+)', place.lockfile.read_text())
    return max(found, key=lambda item: int(item[1]))[0]


def test_a_lost_blob_is_named_with_who_needs_it_and_nothing_is_finished(place: Place) -> None:
    largest = largest_layer(place)
    place.proxy.faults.append(Fault("status", path=f"/blobs/{largest}", status=404, times=9))
    done = place.build()
    assert done.returncode == 42
    assert f"Blob {largest} of ghcr.io/little/a:1" in done.stderr
    assert "Deployment/little/app" in done.stderr
    assert "Traceback" not in done.stderr
    assert not place.output.exists()


def test_a_lost_manifest_is_named_with_who_needs_it(place: Place) -> None:
    place.proxy.faults.append(Fault("status", path="/little/b/manifests/", status=404, times=9))
    done = place.build()
    assert done.returncode == 33
    assert "ghcr.io/little/b:1" in done.stderr
    assert "Deployment/little/app" in done.stderr
    assert ".." not in done.stderr.replace("...", "")
    assert list(place.output.parent.iterdir()) == []


def test_a_file_of_the_stack_that_no_bundle_can_name_is_refused(place: Place) -> None:
    (place.manifests / "values" / "my values.yaml").write_text("{}\n")
    done = place.build()
    assert done.returncode == 30
    assert "my values.yaml" in done.stderr


def test_two_charts_of_one_name_that_differ_are_refused(place: Place) -> None:
    twin = place.manifests / "charts" / "twin"
    shutil.copytree(place.manifests / "charts" / "app", twin)
    (twin / "values.yaml").write_text("images: {}\nmore: 1\n")
    shutil.rmtree(twin / "crds")
    with (place.manifests / "stack.yaml").open("a") as file:
        file.write("  - {name: twin, namespace: little, chart: ./charts/twin, images: {a: images.a}}\n")
    place.lock()
    done = place.build()
    assert done.returncode == 30, done.stderr
    assert "different chart app 1.0.0" in done.stderr


@pytest.mark.parametrize("moment", ["yesterday", str(8**11)])
def test_a_time_that_no_archive_can_bear_is_a_wrong_command_line(moment: str, place: Place) -> None:
    environment = {**place.environment(), "SOURCE_DATE_EPOCH": moment}
    done = subprocess.run(place.command("build"), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "SOURCE_DATE_EPOCH" in done.stderr


def test_a_registry_that_changes_content_is_named_and_nothing_of_it_is_used(place: Place) -> None:
    place.proxy.faults.append(Fault("corrupt", path=f"/blobs/{largest_layer(place)}", times=9))
    done = place.build()
    assert done.returncode == 43
    assert "blob-corrupt" in done.stderr
    assert not place.output.exists()
    place.proxy.faults.clear()
    assert place.build().returncode == 0


@pytest.mark.parametrize("kind", ["cut-answer", "ignore-range", "status"])
def test_a_fault_that_passes_is_not_even_noticed(kind: str, place: Place) -> None:
    cut = Fault("cut-answer", path=f"/blobs/{largest_layer(place)}", after=7_000_001)
    place.proxy.faults.append(cut)
    if kind == "ignore-range":
        place.proxy.faults.append(Fault("ignore-range", path=f"/blobs/{largest_layer(place)}"))
    if kind == "status":
        place.proxy.faults.append(Fault("status", path=f"/blobs/{largest_layer(place)}", status=503, times=2))
    done = place.build("--key", str(key_of(place)))
    assert done.returncode == 0, done.stderr
    with BundleReader.open(place.output) as reader:
        reader.verify(silent)
        assert len(reader.signatures) == 1


def key_of(place: Place) -> Path:
    path = place.folder / "builder"
    assert place.output.parent.parent == place.folder
    subprocess.run([place.command("keygen")[0], "keygen", str(path)], check=True, capture_output=True)
    return path


def test_two_builders_do_not_write_the_same_file(place: Place) -> None:
    first = subprocess.Popen(
        place.command("build", "--output", str(place.output)),
        env=place.environment(),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    journal = place.output.with_name("site.tar.zst.journal")
    deadline = time.monotonic() + 30
    while not journal.exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    first.send_signal(signal.SIGSTOP)
    try:
        second = place.build()
    finally:
        first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=60) == 0
    assert second.returncode == 15, second.stderr
    assert "bundle-being-written" in second.stderr
    with BundleReader.open(place.output) as reader:
        reader.verify(silent)


def test_an_unconfirmed_entry_is_refused_before_anything_is_fetched(place: Place) -> None:
    text = place.lockfile.read_text()
    place.lockfile.write_text(re.sub(r"confirmed_at = .*\n", "", text, count=1))
    done = place.build()
    assert done.returncode == 32
    assert "lock-unconfirmed" in done.stderr
    assert place.proxy.requests("GET") == []


def test_another_compressor_than_the_locked_one_is_refused_before_anything_is_fetched(place: Place) -> None:
    lock = place.lockfile.read_text()
    assert f'libzstd = "{libzstd_version()}"' in lock
    place.lockfile.write_text(lock.replace(f'libzstd = "{libzstd_version()}"', 'libzstd = "1.4.0"'))
    done = place.build()
    assert done.returncode == 31
    assert f"locked with libzstd 1.4.0, this host compresses with {libzstd_version()}" in done.stderr
    assert place.proxy.requests("GET") == []
    assert not place.output.exists()


def test_a_changed_chart_makes_the_lock_stale(place: Place) -> None:
    with (place.manifests / "charts" / "app" / "values.yaml").open("a") as file:
        file.write("more: 1\n")
    done = place.build()
    assert done.returncode == 31
    assert "release app" in done.stderr
    assert list(place.output.parent.iterdir()) == []


def test_a_program_that_was_never_locked_makes_the_lock_stale(place: Place) -> None:
    text = place.lockfile.read_text()
    place.lockfile.write_text(text[: text.index("[[tools]]")])
    done = place.build()
    assert done.returncode == 31
    assert "helm for linux/amd64 was never locked" in done.stderr
    assert not place.output.exists()


def test_an_image_that_was_never_locked_makes_the_lock_stale(place: Place) -> None:
    stack = place.manifests / "stack.yaml"
    stack.write_text(stack.read_text().replace("little/c:1", "little/c:2"))
    done = place.build()
    assert done.returncode == 31
    assert "ghcr.io/little/c:2" in done.stderr


def test_a_platform_that_was_not_locked_makes_the_lock_stale(place: Place) -> None:
    done = place.build("--platform", "linux/arm64")
    assert done.returncode == 31
    assert "linux/arm64" in done.stderr


def test_memory_does_not_grow_with_the_layers(place: Place) -> None:
    without_layers = peak_bytes(place, "--dry-run")
    with_layers = peak_bytes(place)
    assert place.layer_bytes() > 60_000_000
    # Not even the largest layer fits into what fetching may add.
    assert with_layers - without_layers < max(SIZES["a"]) - 5_000_000
    assert with_layers < 150 << 20


def peak_bytes(place: Place, *arguments: str) -> int:
    """The highest resident memory of a build."""
    command = place.command("build", "--output", str(place.output), *arguments)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *command], env=place.environment(), capture_output=True, text=True, check=True
    )
    return int(done.stdout.splitlines()[-1])


PEAK = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(done.returncode)
"""


def test_json_errors_are_one_line_with_id_and_fields(place: Place) -> None:
    place.proxy.faults.append(Fault("status", path=f"/blobs/{largest_layer(place)}", status=404, times=9))
    done = place.build("--json")
    error = json.loads(done.stdout.splitlines()[-1])
    assert (error["error"], error["exit_code"]) == ("blob-unfetchable", done.returncode)
    assert error["fields"]["digest"] == largest_layer(place)


def test_a_disk_that_is_too_small_is_said_before_a_layer_is_fetched(place: Place) -> None:
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 20000; exec "$@"', "-", *place.command("build", "--output", str(place.output))],
        env=place.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 17, done.stderr
    assert "bundle-unwritable" in done.stderr
    assert [seen for seen in place.proxy.requests("GET", BLOB) if seen.sent > 10_000] == []
    assert place.build().returncode == 0


def test_an_interrupted_build_ends_at_once_and_is_gone_on_with(place: Place) -> None:
    process = subprocess.Popen(
        place.command("build", "--output", str(place.output)), env=place.environment(), stderr=subprocess.PIPE
    )
    journal = place.output.with_name("site.tar.zst.journal")
    deadline = time.monotonic() + 60
    while journaled(journal) < 5_000_000:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=15)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    done = place.build("--json")
    assert json.loads(done.stdout.splitlines()[-1])["kept_bytes"] >= 5_000_000
    with BundleReader.open(place.output) as reader:
        reader.verify(silent)


def test_a_build_killed_before_anything_is_laid_out_starts_over_and_leaves_nothing(place: Place) -> None:
    with place.proxy.lock:
        place.proxy.faults.append(Fault("status", path="/manifests/", status=503, times=1000))
    process = subprocess.Popen(
        place.command("build", "--output", str(place.output)), env=place.environment(), stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 30
    while not any("/manifests/" in seen.path for seen in list(place.proxy.seen)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert [path.name for path in place.output.parent.iterdir()] == [f"{place.output.name}.journal"]
    with place.proxy.lock:
        place.proxy.faults.clear()
    assert place.build().returncode == 0
    assert [path.name for path in place.output.parent.iterdir()] == [place.output.name]

"""`mxbundle lock` over the project's own stack: real helm, a real registry that answers for ghcr.io and docker.io."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from imagery import MANIFESTS, Pushed, contract_config, fetched_images, push_image
from mxbundle.lock.model import Lock, read_lock
from registries import Fault, FaultyProxy, running_registry

from darksite import binaries, upstream
from darksite.wheels import all_wheels
from sitebundle.oci.client import Endpoint, Registry
from sitebundle.reference import Reference
from sitebundle.stack import read_stack

HOSTS = ("ghcr.io", "docker.io")
SYNAPSE = read_stack(MANIFESTS / "stack.yaml").images["synapse"]


@dataclass
class Workplace:
    """A connected side: manifests of its own, mirrors, tools, and `mxbundle` run as a user runs it."""

    folder: Path
    upstream: FaultyProxy
    pushed: dict[str, Pushed]

    @property
    def manifests(self) -> Path:
        return self.folder / "manifests"

    @property
    def lockfile(self) -> Path:
        return self.folder / "images.lock"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).with_name("mxbundle")), *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def lock(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(
            *("lock", "--manifests", str(self.manifests), "--lock", str(self.lockfile)),
            *("--mirrors", str(self.folder / "mirrors.toml"), "--tools", str(self.folder / "tools.yaml")),
            *("--helm", str(binaries.ensure("helm")), *arguments),
        )

    def locked(self) -> Lock:
        done = self.lock()
        assert done.returncode == 0, done.stderr
        return read_lock(self.lockfile)

    def registry(self, host: str) -> Registry:
        return Registry(Endpoint.parse(f"{self.upstream.url}/{host}"))

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.manifests / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def edit_stack(self, change: Any) -> None:
        path = self.manifests / "stack.yaml"
        document = yaml.safe_load(path.read_text())
        change(document)
        path.write_text(yaml.dump(document, sort_keys=False))


def release(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in document["releases"] if entry["name"] == name)
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, Pushed]]]:
    """A registry that has every image of the stack, each keeping its contract."""
    with running_registry(tmp_path_factory.mktemp("registry")) as address:
        pushed = {}
        for key, text in fetched_images().items():
            reference = Reference.parse(text)
            registry = Registry(Endpoint.parse(f"http://{address}/{reference.host}"))
            pushed[text] = push_image(
                registry,
                reference.repository,
                reference.tag or "",
                config=contract_config(key),
                platforms=("linux/amd64", "linux/arm64"),
            )
        yield address, pushed


@pytest.fixture
def workplace(tmp_path: Path, store: tuple[str, dict[str, Pushed]]) -> Iterator[Workplace]:
    address, pushed = store
    proxy = FaultyProxy(address)
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    for published, content in upstream.published().items():
        place = tmp_path / "files" / published.removeprefix("https://github.com/")
        place.parent.mkdir(parents=True)
        shutil.copyfile(content, place)
    mirrors = ["[mirrors]", *(f'"{host}" = "{proxy.url}/{host}"' for host in HOSTS)]
    mirrors += ["[files]", f'"https://github.com" = "{(tmp_path / "files").as_uri()}"']
    mirrors += [f'"{address}" = "{wheel.as_uri()}"' for address, wheel in all_wheels().items()]
    (tmp_path / "mirrors.toml").write_text("\n".join(mirrors))
    tool = tmp_path / "tool"
    tool.write_bytes(b"#!/bin/sh\n")
    entry = {"name": "tool", "version": "1", "platform": "linux/amd64", "url": tool.as_uri(), "path": None}
    entry["sha256"] = hashlib.sha256(tool.read_bytes()).hexdigest()
    (tmp_path / "tools.yaml").write_text(json.dumps([entry]))
    yield Workplace(tmp_path, proxy, pushed)
    proxy.close()


def test_the_stack_locks_and_every_digest_is_the_one_the_registry_has(workplace: Workplace) -> None:
    done = workplace.lock()
    assert done.returncode == 0, done.stderr
    lock = read_lock(workplace.lockfile)
    fetched = [image for image in lock.images if lock.derivation(image.reference) is None]
    assert {image.reference: image.digest for image in fetched} == {
        reference: image.digest for reference, image in workplace.pushed.items()
    }
    assert {image.reference for image in lock.images} - set(workplace.pushed) == {SYNAPSE}
    assert lock.unconfirmed == ()
    for image in fetched:
        sizes = workplace.pushed[image.reference].sizes
        (platform,) = image.platforms
        assert platform.platform == "linux/amd64"
        for descriptor in (platform.config, *platform.layers):
            assert sizes[descriptor.digest] == descriptor.size
        assert (sizes[platform.digest], sizes[image.digest]) == (platform.size, image.size)
    releases = read_stack(workplace.manifests / "stack.yaml").releases
    assert {chart.release for chart in lock.charts} == {release.name for release in releases if release.chart}
    assert {file.release for file in lock.files} == {release.name for release in releases if release.manifest}
    assert "clusters.postgresql.cnpg.io" in {crd.name for crd in lock.crds}
    assert [(tool.name, tool.size) for tool in lock.tools] == [("tool", 10)]
    assert f"{len(lock.images)} images" in done.stdout


def test_operands_and_operator_variables_are_named_as_uses(workplace: Workplace) -> None:
    lock = workplace.locked()
    postgresql = next(image for image in lock.images if "/postgresql:" in image.reference)
    assert "postgres Cluster/matrix-data/postgres spec.imageName" in postgresql.needed_by
    assert any(use.startswith("cnpg Deployment/cnpg-system/") and ".env[" in use for use in postgresql.needed_by)


def test_a_second_lock_writes_the_same_bytes_and_says_that_nothing_moved(workplace: Workplace) -> None:
    workplace.locked()
    before = workplace.lockfile.read_bytes()
    time.sleep(1.1)  # confirmed_at has seconds: a new time would show
    done = workplace.lock()
    assert workplace.lockfile.read_bytes() == before
    assert "nothing moved" in done.stdout
    assert workplace.lock("--check").returncode == 0


def test_a_moved_tag_is_shown_and_only_its_confirmation_changes(workplace: Workplace) -> None:
    first = workplace.locked()
    valkey = read_stack(workplace.manifests / "stack.yaml").images["valkey"]
    reference = Reference.parse(valkey)
    registry = workplace.registry(reference.host)
    old = registry.manifest(reference.repository, reference.tag or "")
    time.sleep(1.1)
    try:
        push_image(
            registry, reference.repository, reference.tag or "", config=contract_config("valkey"), layers=[b"later"]
        )
        checked = workplace.lock("--check")
        assert checked.returncode == 31, checked.stderr
        assert "lock-stale" in checked.stderr
        assert f"image {valkey} moved" in checked.stderr
        assert read_lock(workplace.lockfile) == first
        second = workplace.locked()
    finally:
        registry.put_manifest(reference.repository, reference.tag or "", old[1], old[0].media_type)
    for before, after in zip(first.images, second.images, strict=True):
        assert (before == after) == (before.reference != valkey)
    assert second.image(valkey).confirmed_at != first.image(valkey).confirmed_at


def test_keep_asks_no_registry_for_what_is_locked_and_renews_the_rest(workplace: Workplace) -> None:
    first = workplace.locked()
    before = len(workplace.upstream.requests("HEAD", "/manifests/"))
    workplace.edit("charts/valkey/Chart.yaml", "name: valkey", "name: valkey # edited")
    (workplace.folder / "tool").unlink()  # kept as well: its pin is the same
    assert workplace.lock("--keep").returncode == 0
    second = read_lock(workplace.lockfile)
    assert len(workplace.upstream.requests("HEAD", "/manifests/")) == before, "a kept image was asked for"
    assert second.images == first.images
    assert [a.digest == b.digest for a, b in zip(first.charts, second.charts, strict=True)].count(False) == 1


def test_all_unresolvable_images_are_named_with_who_needs_them_and_nothing_is_written(workplace: Workplace) -> None:
    def misspell(document: dict[str, Any]) -> None:
        document["images"]["valkey"] = "docker.io/valkey/valkey:no-such-tag"
        document["images"]["haproxy"] = "docker.io/library/haproxie:1"

    workplace.edit_stack(misspell)
    done = workplace.lock()
    assert done.returncode == 37
    assert "images-unresolvable" in done.stderr
    for text in (
        "valkey/valkey:no-such-tag",
        "library/haproxie:1",
        "needed by valkey StatefulSet/matrix-data/valkey",
        "needed by valkey Deployment/matrix-data/valkey-proxy",
    ):
        assert text in done.stderr
    assert not workplace.lockfile.exists()


def test_one_unresolvable_image_is_one_error_with_its_field(workplace: Workplace) -> None:
    workplace.edit_stack(lambda d: d["images"].update(valkey="docker.io/valkey/valkey:no-such-tag"))
    done = workplace.lock("--json")
    assert done.returncode == 33
    error = json.loads(done.stdout.splitlines()[-1])
    assert error["error"] == "image-unresolvable"
    assert "valkey StatefulSet/matrix-data/valkey" in error["fields"]["needed_by"]
    assert "spec.template.spec.containers[0].image" in error["fields"]["needed_by"]
    assert not workplace.lockfile.exists()


def test_a_platform_that_an_image_lacks_is_named(workplace: Workplace) -> None:
    done = workplace.lock("--platform", "linux/s390x")
    assert done.returncode == 37
    assert "it has no linux/s390x, only linux/amd64, linux/arm64" in done.stderr


def test_two_platforms_are_locked_beside_each_other_under_one_index(workplace: Workplace) -> None:
    assert workplace.lock("--platform", "linux/amd64", "--platform", "linux/arm64").returncode == 0
    for image in read_lock(workplace.lockfile).images:
        assert [platform.platform for platform in image.platforms] == ["linux/amd64", "linux/arm64"]


def test_an_image_that_breaks_its_contract_fails_the_lock(workplace: Workplace) -> None:
    workplace.edit("images/synapse.toml", 'entrypoint = ["/start.py"]', 'entrypoint = ["/run.py"]')
    done = workplace.lock()
    assert done.returncode == 35
    assert "entrypoint is ['/start.py'] instead of ['/run.py']" in done.stderr
    assert "synapse.toml" in done.stderr
    assert not workplace.lockfile.exists()


def test_a_published_file_that_changed_fails_the_lock(workplace: Workplace) -> None:
    (published,) = (workplace.folder / "files").rglob("cnpg-*.yaml")
    published.write_text(published.read_text() + "\n")
    done = workplace.lock()
    assert done.returncode == 36
    assert "source-changed" in done.stderr


def test_a_compiled_in_default_that_nothing_names_fails_the_lock(workplace: Workplace) -> None:
    def drop(document: dict[str, Any]) -> None:
        overrides = release(document, "cnpg")["overrides"]
        overrides[:] = [entry for entry in overrides if entry.get("env") != "POSTGRES_IMAGE_NAME"]

    workplace.edit_stack(drop)
    assert workplace.lock().returncode == 0, "the Cluster names its own image, so that nothing is implicit"
    template = workplace.manifests / "charts/postgres/templates"
    (cluster,) = (path for path in template.rglob("*.yaml") if "imageName" in path.read_text())
    cluster.write_text("\n".join(line for line in cluster.read_text().splitlines() if "imageName" not in line))
    done = workplace.lock()
    assert done.returncode == 38, done.stderr
    assert "operand-unnamed" in done.stderr
    assert "Cluster/matrix-data/postgres" in done.stderr
    assert "POSTGRES_IMAGE_NAME" in done.stderr


def test_an_image_that_a_chart_hard_codes_fails_the_lock(workplace: Workplace) -> None:
    extra = workplace.manifests / "charts/valkey/templates/extra.yaml"
    extra.write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: extra, annotations: {helm.sh/hook: test}}\n"
        "spec: {containers: [{name: a, image: 'docker.io/library/busybox:1.38.0'}]}\n"
    )
    done = workplace.lock()
    assert done.returncode == 34
    assert "Pod/extra names docker.io/library/busybox:1.38.0 in spec.containers[0].image" in done.stderr


def test_an_argument_that_names_an_image_fails_the_lock_until_it_is_ignored_with_a_reason(workplace: Workplace) -> None:
    extra = workplace.manifests / "charts/valkey/templates/extra.yaml"
    extra.write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: extra}\ndata: {a: '--reloader=quay.io/p/reloader:v1'}\n"
    )
    done = workplace.lock()
    assert done.returncode == 34
    assert "ConfigMap/extra mentions quay.io/p/reloader:v1 in data.a" in done.stderr
    (workplace.manifests / "operands/extra.yaml").write_text(
        "ignored: [{text: 'quay.io/p/reloader:v1', reason: nothing reads it}]"
    )
    assert workplace.lock().returncode == 0


def test_a_chart_that_does_not_render_fails_with_helms_words(workplace: Workplace) -> None:
    (workplace.manifests / "charts/valkey/templates/bad.yaml").write_text('{{ fail "no such luck" }}')
    done = workplace.lock()
    assert done.returncode == 34
    assert "Release valkey does not render" in done.stderr
    assert "no such luck" in done.stderr


def test_a_chart_that_renders_to_something_else_each_time_fails_the_lock(workplace: Workplace) -> None:
    extra = workplace.manifests / "charts/valkey/templates/extra.yaml"
    extra.write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: extra}\ndata: {a: '{{ randAlphaNum 20 }}'}\n")
    done = workplace.lock()
    assert done.returncode == 34
    assert "ConfigMap/extra is something else each time" in done.stderr


def test_a_registry_that_pushes_back_only_slows_the_lock_down(workplace: Workplace) -> None:
    workplace.upstream.faults = [
        Fault("status", method="HEAD", status=503, times=2),
        Fault("status", method="GET", path="/manifests/", status=429, headers={"Retry-After": "1"}),
        Fault("cut-answer", method="GET", path="/blobs/", after=20),
    ]
    assert len(workplace.locked().images) == len(workplace.pushed) + 1


def test_why_answers_by_reference_by_name_and_by_layer(workplace: Workplace) -> None:
    lock = workplace.locked()
    synapse = lock.image(SYNAPSE)
    layer = synapse.platforms[0].layers[-1].digest
    for question in (synapse.reference, synapse.reference.rpartition(":")[0], "synapse", layer, layer[7:19]):
        done = workplace.run("why", question, "--lock", str(workplace.lockfile))
        assert done.returncode == 0, done.stderr
        assert "synapse StatefulSet/matrix/synapse-main spec.template.spec.containers[0].image" in done.stdout
    assert "layer 2 of 2 for linux/amd64" in workplace.run("why", layer, "--lock", str(workplace.lockfile)).stdout


def test_why_of_an_unknown_image_names_what_is_near(workplace: Workplace) -> None:
    workplace.locked()
    done = workplace.run("why", "synaps", "--lock", str(workplace.lockfile))
    assert done.returncode == 39
    assert "near: synapse" in done.stderr

"""The committed images.lock against the committed stack."""

from __future__ import annotations

from pathlib import Path

import pytest
from mxbundle.build import BuildRequest, build
from mxbundle.derive.pin import is_made_of
from mxbundle.derive.recipe import read_recipes
from mxbundle.lock.model import read_lock

from sitebundle.archive.frames import libzstd_version
from sitebundle.errors import LockUnconfirmed
from sitebundle.events import silent
from sitebundle.helm import Helm
from sitebundle.oci.upstream import Upstream
from sitebundle.reference import Reference
from sitebundle.stack import read_stack

ROOT = Path(__file__).parents[3]
LOCK = read_lock(ROOT / "images.lock")
STACK = read_stack(ROOT / "manifests/stack.yaml")


def test_it_pins_exactly_the_images_of_the_stack_and_the_bases_of_the_derived_ones() -> None:
    bases = {entry.base for entry in LOCK.derived}
    pinned = {image.reference for image in LOCK.images} | {entry.reference for entry in LOCK.derived}
    assert pinned == {Reference.parse(text).tagged for text in STACK.images.values()} | bases


def test_its_derived_images_are_made_of_what_the_recipes_pin() -> None:
    recipes = read_recipes(ROOT / "manifests/derived")
    assert [entry.reference for entry in LOCK.derived] == [recipe.reference for recipe in recipes] != []
    for entry, recipe in zip(LOCK.derived, recipes, strict=True):
        assert is_made_of(entry, recipe, [layer.platform for layer in entry.layers])
        assert entry.base_digest == LOCK.image(entry.base).digest


def test_it_is_refused_by_build_as_long_as_no_registry_confirmed_it(tmp_path: Path) -> None:
    assert LOCK.unconfirmed, "all confirmed: then this test wants to be one that builds from it"
    request = BuildRequest(ROOT / "manifests", tmp_path / "out/site.tar.zst")
    with pytest.raises(LockUnconfirmed) as caught:
        build(request, LOCK, ROOT / "images.lock", Upstream(), Helm(Path("/no/helm/is/asked")), silent)
    assert caught.value.fields["count"] == len(LOCK.unconfirmed)
    assert "mxbundle lock" in caught.value.what_to_do
    assert not list(tmp_path.iterdir())


def test_it_is_for_the_libzstd_that_the_project_installs() -> None:
    assert libzstd_version() == LOCK.libzstd


def test_it_is_written_by_the_one_function() -> None:
    assert LOCK.to_bytes() == (ROOT / "images.lock").read_bytes()


def test_every_image_says_who_needs_it() -> None:
    assert all(image.needed_by for image in LOCK.images)


def test_its_published_files_are_the_ones_that_the_stack_pins() -> None:
    pinned = {release.manifest: release.sha256 for release in STACK.releases if release.manifest}
    assert {file.url: file.digest.hex for file in LOCK.files} == pinned

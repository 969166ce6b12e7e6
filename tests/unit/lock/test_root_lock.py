"""The committed images.lock against the committed stack."""

from __future__ import annotations

from pathlib import Path

from mxbundle.lock.model import read_lock

from sitebundle.reference import Reference
from sitebundle.stack import read_stack

ROOT = Path(__file__).parents[3]
LOCK = read_lock(ROOT / "images.lock")
STACK = read_stack(ROOT / "manifests/stack.yaml")


def test_it_pins_exactly_the_images_of_the_stack() -> None:
    assert {image.reference for image in LOCK.images} == {
        Reference.parse(text).tagged for text in STACK.images.values()
    }


def test_it_is_written_by_the_one_function() -> None:
    assert LOCK.to_bytes() == (ROOT / "images.lock").read_bytes()


def test_every_image_says_who_needs_it() -> None:
    assert all(image.needed_by for image in LOCK.images)


def test_its_published_files_are_the_ones_that_the_stack_pins() -> None:
    pinned = {release.manifest: release.sha256 for release in STACK.releases if release.manifest}
    assert {file.url: file.digest.hex for file in LOCK.files} == pinned

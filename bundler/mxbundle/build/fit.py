"""Does images.lock fit the stack as it is now? Compared before anything is fetched. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from mxbundle.derive.again import base_of
from mxbundle.derive.pin import is_made_of
from mxbundle.derive.recipe import Recipe, recipe_of
from mxbundle.lock.discover import Discovery
from mxbundle.lock.materials import Materials
from mxbundle.lock.model import Lock, LockedImage
from mxbundle.lock.tools import Tool
from sitebundle.errors import LockStale, LockUnconfirmed
from sitebundle.reference import Reference

NAMES_SHOWN = 5


def require_compressor(lock: Lock, running: str) -> None:
    """Raise LockStale when the `running` libzstd is not the locked one, whose bytes the lock promises."""
    if lock.libzstd != running:
        detail = f"it was locked with libzstd {lock.libzstd}, this host compresses with {running} to other bytes"
        raise LockStale(what="this host", detail=detail)


def require_confirmed(lock: Lock, path: Path) -> None:
    """Raise LockUnconfirmed when a registry never answered for one of the images."""
    if names := lock.unconfirmed:
        shown = ", ".join(names[:NAMES_SHOWN]) + (" …" if len(names) > NAMES_SHOWN else "")
        raise LockUnconfirmed(count=len(names), path=path, names=shown)


def require_materials(lock: Lock, materials: Materials, releases: Iterable[str]) -> None:
    """Raise LockStale when a chart or a published file of `releases` is not the locked one."""
    charts = {chart.release: chart for chart in lock.charts}
    files = {file.release: file for file in lock.files}
    for release in releases:
        if release in materials.charts:
            packed = materials.charts[release]
            if release not in charts:
                raise LockStale(what=f"release {release}", detail="its chart was never locked")
            if charts[release].digest != packed.digest:
                detail = f"chart {packed.name} is now {packed.digest.short}, locked {charts[release].digest.short}"
                raise LockStale(what=f"release {release}", detail=detail)
        elif release not in files or files[release].digest != materials.files[release].digest:
            raise LockStale(what=f"release {release}", detail="its manifest file is not the locked one")


def require_tools(lock: Lock, tools: Iterable[Tool], platforms: Sequence[str]) -> None:
    """Raise LockStale when a program that the dark site needs on one of `platforms` was never locked.

    Compared by name: a lock may have been made from another list that serves the same programs elsewhere.
    """
    locked = {(tool.name, tool.platform) for tool in lock.tools}
    for tool in tools:
        if tool.platform in platforms and (tool.name, tool.platform) not in locked:
            raise LockStale(what="the dark site's tools", detail=f"{tool.name} for {tool.platform} was never locked")


def images_of(lock: Lock, found: Discovery) -> tuple[LockedImage, ...]:
    """The locked images that the rendered releases use, sorted. Raises LockStale for one that is not locked."""
    locked = {image.reference: image for image in lock.images}
    wanted: dict[str, LockedImage] = {}
    for use in found.uses:
        tagged = Reference.parse(use.reference).tagged
        if tagged not in locked:
            detail = f"{tagged} is not locked; {use.object} uses it in {use.field}"
            raise LockStale(what=f"release {use.release}", detail=detail)
        wanted[tagged] = locked[tagged]
    return tuple(wanted[reference] for reference in sorted(wanted))


def require_recipes(lock: Lock, recipes: Sequence[Recipe], images: Sequence[LockedImage]) -> None:
    """Raise LockStale when one of `images` is derived in another way than its recipe now says, or from another base."""
    for image in images:
        locked = lock.derivation(image.reference)
        if locked is None:
            continue
        recipe = recipe_of(recipes, image.reference)
        if recipe is None or not is_made_of(locked, recipe, [layer.platform for layer in locked.layers]):
            raise LockStale(what=image.reference, detail="its recipe in manifests/derived/ is not the locked one")
        base_of(locked, lock)


def require_crds(lock: Lock, found: Discovery) -> None:
    """Raise LockStale when a CustomResourceDefinition is not the locked one."""
    locked = {crd.name: crd.digest for crd in lock.crds}
    for crd in found.crds:
        if locked.get(crd.name) != crd.digest:
            raise LockStale(what=crd.source, detail=f"CRD {crd.name} is not the locked one")


def require_platforms(images: Sequence[LockedImage], platforms: Sequence[str]) -> None:
    """Raise LockStale when an image was not locked for one of `platforms`."""
    for image in images:
        have = {platform.platform for platform in image.platforms}
        for platform in platforms:
            if platform not in have:
                detail = f"it is locked for {', '.join(sorted(have)) or 'nothing'}, not for {platform}"
                raise LockStale(what=image.reference, detail=detail)

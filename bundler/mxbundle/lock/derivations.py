"""Derived images in a lock: which of the stack's images they are, and what the lock says of each.

What a derivation is made of, and what comes of it, is `mxbundle.derive`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mxbundle.derive.pin import derive, is_made_of, pin
from mxbundle.derive.recipe import HOST, Recipe, recipe_of
from mxbundle.lock.model import Lock, LockedDerivation, LockedImage
from mxbundle.lock.resolve import Wanted, needed_by, wanted_images
from sitebundle.errors import ImageUnresolvable
from sitebundle.oci.upstream import Upstream
from sitebundle.podspecs import ImageUse
from sitebundle.reference import Reference

ToDerive = tuple[Wanted, Recipe]


def split_uses(uses: Iterable[ImageUse], recipes: Sequence[Recipe]) -> tuple[tuple[ImageUse, ...], list[ToDerive]]:
    """The uses of images that are fetched, those of bases added; and the images to derive, each with its recipe.

    Raises ImageUnresolvable for an image that is called like a derived one and has no recipe.
    """
    fetched: list[ImageUse] = []
    derived: list[ImageUse] = []
    for use in uses:
        (derived if use.reference.startswith(f"{HOST}/") else fetched).append(use)
    wanted, problems = wanted_images(derived)
    for problem in problems:
        raise ImageUnresolvable(
            reference=problem.wanted.reference, detail=problem.detail, needed_by=problem.wanted.needed_by
        )
    to_derive = []
    for image in wanted:
        recipe = recipe_of(recipes, image.reference.tagged)
        if recipe is None:
            detail = "manifests/derived/ has no recipe for it"
            raise ImageUnresolvable(reference=image.reference, detail=detail, needed_by=image.needed_by)
        to_derive.append((image, recipe))
        fetched.append(ImageUse(recipe.base, recipe.reference, "base", "image"))
    return tuple(fetched), to_derive


def derive_images(
    to_derive: Iterable[ToDerive],
    images: Sequence[LockedImage],
    upstream: Upstream,
    platforms: Sequence[str],
    kept: Lock | None,
) -> tuple[tuple[LockedDerivation, ...], tuple[LockedImage, ...]]:
    """How each image is made, and those that can be made already: whose base, one of `images`, is confirmed.

    What `kept` pins for the same recipe stays: then no wheel is fetched. Raises what `pin` and `derive` raise.
    """
    derivations, made = [], []
    for wanted, recipe in to_derive:
        tagged = Reference.parse(recipe.base).tagged
        base = next(image for image in images if image.reference == tagged)
        entry = _derivation(wanted, recipe, base, upstream, platforms, kept)
        derivations.append(entry)
        if base.platforms:
            made.append(_kept_image(entry, kept) or derive(entry, base, upstream))
    return tuple(derivations), tuple(made)


def _derivation(
    wanted: Wanted,
    recipe: Recipe,
    base: LockedImage,
    upstream: Upstream,
    platforms: Sequence[str],
    kept: Lock | None,
) -> LockedDerivation:
    chosen = [platform.platform for platform in base.platforms] or platforms
    old = kept.derivation(recipe.reference) if kept is not None else None
    if old is not None and is_made_of(old, recipe, chosen):
        return old.model_copy(update={"base_digest": base.digest, "needed_by": needed_by(wanted)})
    return pin(recipe, base.digest, chosen, needed_by(wanted), upstream)


def _kept_image(entry: LockedDerivation, kept: Lock | None) -> LockedImage | None:
    """What `kept` says of the image, when it was made in just this way."""
    old = kept.derivation(entry.reference) if kept is not None else None
    if kept is None or old is None or old.model_copy(update={"needed_by": entry.needed_by}) != entry:
        return None
    image = next((image for image in kept.images if image.reference == entry.reference), None)
    return image.model_copy(update={"needed_by": entry.needed_by}) if image is not None else None

"""Why an image is in the lock: by reference, by a name without tag, by a part of a name, or by a digest."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from mxbundle.lock.model import Lock, LockedDerivation, LockedImage
from sitebundle.errors import ImageNotLocked
from sitebundle.reference import Reference


@dataclass(frozen=True)
class Answer:
    """An image of the lock and what matched: the image itself or the part of it that was asked for.

    `derived`: how it is made, None for one that a registry has.
    """

    image: LockedImage
    matched: str
    derived: LockedDerivation | None = None


def why(lock: Lock, question: str) -> tuple[Answer, ...]:
    """The images that `question` means. Raises ImageNotLocked with the nearest names."""
    for match in (_by_digest, _by_reference, _by_part):
        found = ((image, what) for image in lock.images if (what := match(image, question)))
        if answers := tuple(Answer(image, what, lock.derivation(image.reference)) for image, what in found):
            return answers
    names = [name for image in lock.images for name in (image.reference, Reference.parse(image.reference).name)]
    names += [Reference.parse(image.reference).repository.rpartition("/")[2] for image in lock.images]
    near = list(dict.fromkeys(difflib.get_close_matches(question, names, n=3, cutoff=0.5)))
    raise ImageNotLocked(
        image=question,
        near=", ".join(near) if near else "nothing like it",
        count=len(lock.images),
    )


def _by_digest(image: LockedImage, question: str) -> str | None:
    wanted = question.rpartition("@")[2].removeprefix("sha256:")
    if len(wanted) < 7 or set(wanted) - set("0123456789abcdef"):
        return None
    for digest, what in _digests(image):
        if digest.removeprefix("sha256:").startswith(wanted):
            return what
    return None


def _digests(image: LockedImage) -> list[tuple[str, str]]:
    found = [(str(image.digest), "the image")]
    for platform in image.platforms:
        found.append((platform.digest, f"its manifest for {platform.platform}"))
        found.append((platform.config.digest, f"its config for {platform.platform}"))
        found += [
            (layer.digest, f"layer {number} of {len(platform.layers)} for {platform.platform}")
            for number, layer in enumerate(platform.layers, start=1)
        ]
    return found


def _by_reference(image: LockedImage, question: str) -> str | None:
    try:
        asked, locked = Reference.parse(question), Reference.parse(image.reference)
    except ValueError:
        return None
    if asked.name != locked.name or (":" in question.rpartition("/")[2] and asked.tag != locked.tag):
        return None
    return "the image"


def _by_part(image: LockedImage, question: str) -> str | None:
    """`synapse`, `element-hq/synapse`, `synapse:v1.162.0`: whole parts from the end of the name."""
    for name in (image.reference, Reference.parse(image.reference).name):
        if f"/{name}".endswith(f"/{question.strip('/')}"):
            return "the image"
    return None

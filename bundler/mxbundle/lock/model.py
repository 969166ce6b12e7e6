"""`images.lock`: everything the stack needs, pinned. The model and the one function that writes it.

Not here: how a reference becomes a digest (`resolve`). The format: docs/reference/images-lock.md.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError

from sitebundle.atomic import write_durably
from sitebundle.digest import Digest
from sitebundle.errors import BundleUnwritable, LockStale, StackInvalid
from sitebundle.manifest import Value
from sitebundle.oci.descriptor import Descriptor

LOCK_VERSION: Final = 1


class LockedPlatform(Value):
    """One platform's manifest of an image, with its config and its layers in order. Sizes are in bytes."""

    platform: str
    digest: Digest
    media_type: str
    size: int
    config: Descriptor
    layers: tuple[Descriptor, ...]


class LockedImage(Value):
    """An image as its upstream tag meant it when it was locked.

    `reference` is `host/repository:tag`; `digest`, `media_type` and `size` are of what the tag names (an index
    where upstream has one). `platforms` are the ones asked for; an index that lists more keeps its bytes.
    `needed_by`: `release object field`, one text per use. `confirmed_at`: UTC time at which a registry first
    answered with this digest, None when none ever did: then `platforms` is empty and `size` 0. `source` is None for
    a registry. A derived image counts as confirmed when its base is.
    """

    reference: str
    digest: Digest
    media_type: str
    size: int
    source: Literal["docker-daemon"] | None = None
    confirmed_at: str | None = None
    needed_by: tuple[str, ...] = ()
    platforms: tuple[LockedPlatform, ...] = ()


class LockedWheel(Value):
    """A wheel in the layer of a derived image, for `platforms` (none: all). `size` in bytes, of the file at `url`."""

    name: str
    version: str
    platforms: tuple[str, ...] = ()
    url: str
    digest: Digest
    size: int


class LockedLayer(Value):
    """The layer that a derivation adds for one platform, uncompressed: its digest is its diff id. `size` in bytes."""

    platform: str
    digest: Digest
    size: int


class LockedDerivation(Value):
    """How a derived image is made: on which base, of which wheels, and the layer that they are.

    What comes of it is one of the images, as soon as a registry has confirmed the base. `needed_by`: see LockedImage.
    """

    reference: str
    base: str
    base_digest: Digest
    site_packages: str
    scripts: str
    interpreter: str
    needed_by: tuple[str, ...] = ()
    layers: tuple[LockedLayer, ...]
    wheels: tuple[LockedWheel, ...]


class LockedChart(Value):
    """A chart; `digest` is of the .tgz that we pack (`charts.pack_chart`), `source` is where it came from."""

    release: str
    name: str
    version: str
    source: str
    digest: Digest


class LockedFile(Value):
    """A published manifest file, byte for byte. `size` in bytes."""

    release: str
    url: str
    digest: Digest
    size: int


class LockedCrd(Value):
    """A CustomResourceDefinition. `digest` is of its canonical YAML (`sitebundle.crds.canonical`)."""

    name: str
    group: str
    kind: str
    versions: tuple[str, ...]
    source: str
    digest: Digest


class LockedTool(Value):
    """A program for the dark site: taken from the download at `path_in_archive`, or the download itself (None).

    `digest` and `size` (bytes) are of the program, `download_digest` is of what `url` serves.
    """

    name: str
    version: str
    platform: str
    url: str
    download_digest: Digest
    path_in_archive: str | None = None
    digest: Digest
    size: int


class Lock(Value):
    """The whole of `images.lock`. `libzstd` is the version that compresses: the archive's bytes depend on it."""

    lock_version: Literal[1] = LOCK_VERSION
    libzstd: str
    images: tuple[LockedImage, ...] = ()
    derived: tuple[LockedDerivation, ...] = ()
    charts: tuple[LockedChart, ...] = ()
    files: tuple[LockedFile, ...] = ()
    crds: tuple[LockedCrd, ...] = ()
    tools: tuple[LockedTool, ...] = ()

    def image(self, reference: str) -> LockedImage:
        """The image locked for `host/repository:tag`. Raises KeyError."""
        for entry in self.images:
            if entry.reference == reference:
                return entry
        raise KeyError(reference)

    def derivation(self, reference: str) -> LockedDerivation | None:
        """How the image `host/repository:tag` is made; None for one that is not derived."""
        return next((entry for entry in self.derived if entry.reference == reference), None)

    @property
    def unconfirmed(self) -> tuple[str, ...]:
        """The references of the images that no registry ever confirmed, and of those derived from one of them."""
        images = [image.reference for image in self.images if image.confirmed_at is None or not image.platforms]
        known = {image.reference for image in self.images}
        return (*images, *(entry.reference for entry in self.derived if entry.reference not in known))

    @property
    def unique_bytes(self) -> int:
        """Bytes of all different blobs: indexes, manifests, configs and layers, each counted once."""
        sizes: dict[str, int] = {}
        for image in self.images:
            sizes[image.digest] = image.size
            for platform in image.platforms:
                sizes[platform.digest] = platform.size
                sizes[platform.config.digest] = platform.config.size
                sizes.update((layer.digest, layer.size) for layer in platform.layers)
        return sum(sizes.values())

    def to_bytes(self) -> bytes:
        """The canonical text: tables sorted, one layer a line, stable to the byte."""
        return ("\n".join(_lines(self)) + "\n").encode()


def read_lock(path: Path) -> Lock:
    """Read and check an `images.lock`. Raises LockStale when there is none, StackInvalid when it is malformed."""
    try:
        return Lock.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as fault:
        raise LockStale(what="this stack", detail=f"{path} does not exist") from fault
    except ValidationError as fault:
        first = fault.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StackInvalid(path=path, detail=f"{place}: {first['msg']}") from fault
    except (OSError, ValueError) as fault:
        raise StackInvalid(path=path, detail=str(fault)) from fault


def write_lock(lock: Lock, path: Path) -> None:
    """Write `lock` to `path`, whole or not at all. Raises BundleUnwritable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, lock.to_bytes())
    except OSError as fault:
        raise BundleUnwritable(path=path, detail=fault.strerror or str(fault)) from fault


def _lines(lock: Lock) -> Iterator[str]:
    yield "# Written by `mxbundle lock`; read the difference before you commit it."
    yield f"lock_version = {lock.lock_version}"
    yield f"libzstd = {_text(lock.libzstd)}"
    for image in sorted(lock.images, key=lambda i: i.reference):
        yield ""
        yield "[[images]]"
        yield from _pairs(image.model_dump(mode="json", exclude={"platforms"}, exclude_none=True))
        for platform in sorted(image.platforms, key=lambda p: (p.platform, p.digest)):
            yield ""
            yield "[[images.platforms]]"
            yield from _pairs(platform.model_dump(mode="json"))
    for derivation in sorted(lock.derived, key=lambda d: d.reference):
        yield ""
        yield "[[derived]]"
        yield from _pairs(derivation.model_dump(mode="json"))
    for name, key in (
        ("charts", ("release",)),
        ("files", ("release", "url")),
        ("crds", ("name",)),
        ("tools", ("name", "platform")),
    ):
        for entry in sorted(getattr(lock, name), key=lambda e: tuple(getattr(e, part) for part in key)):
            yield ""
            yield f"[[{name}]]"
            yield from _pairs(entry.model_dump(mode="json", exclude_none=True))


def _pairs(table: Mapping[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, list) and value:
            yield f"{key} = ["
            yield from (f"    {_text(item)}," for item in value)
            yield "]"
        else:
            yield f"{key} = {_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_text(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

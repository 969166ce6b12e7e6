"""What a bundle of these images holds, blob by blob, each once: where it comes from and who needs it. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mxbundle.lock.model import LockedDerivation, LockedImage
from sitebundle.digest import Digest
from sitebundle.errors import LockStale
from sitebundle.manifest import Image, PlatformManifest
from sitebundle.reference import Reference

OCI_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_OCI_INDEX = "application/vnd.oci.image.index.v1+json"
_REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True)
class Place:
    """Where a blob can be had."""

    host: str
    repository: str


@dataclass(frozen=True)
class WantedBlob:
    """A blob, its size in bytes, every place that has it, and who needs it. No place: it is made here.

    `is_manifest`: it is asked for as a manifest, not as a blob.
    """

    digest: Digest
    size: int
    places: tuple[Place, ...]
    reference: str
    needed_by: str
    is_manifest: bool = False


@dataclass(frozen=True)
class BlobPlan:
    """`documents`: manifests, indexes and configs by digest. `layers`: largest first, then by digest."""

    documents: tuple[WantedBlob, ...]
    layers: tuple[WantedBlob, ...]

    @property
    def layer_bytes(self) -> int:
        """Bytes of all layers, each once."""
        return sum(layer.size for layer in self.layers)


def plan_blobs(
    images: Sequence[LockedImage], platforms: Sequence[str], derived: Sequence[LockedDerivation] = ()
) -> BlobPlan:
    """Every blob of `images` for `platforms`, each once. Raises LockStale when the lock gives one two sizes.

    Of an image that is `derived` the base's layers are where the base is, and everything else is made here.
    """
    documents: dict[Digest, WantedBlob] = {}
    layers: dict[Digest, WantedBlob] = {}
    derivations = {entry.reference: entry for entry in derived}
    for image in images:
        derivation = derivations.get(image.reference)
        whole = _places(image.reference) if image.source is None and derivation is None else ()
        below = _places(derivation.base) if derivation is not None else whole
        added = {layer.digest for layer in derivation.layers} if derivation is not None else set()
        _note(documents, image, image.digest, image.size, whole, is_manifest=True)
        for platform in image.platforms:
            if platform.platform not in platforms:
                continue
            _note(documents, image, platform.digest, platform.size, whole, is_manifest=True)
            _note(documents, image, platform.config.digest, platform.config.size, whole)
            for layer in platform.layers:
                _note(layers, image, layer.digest, layer.size, () if layer.digest in added else below)
    return BlobPlan(
        documents=tuple(documents[digest] for digest in sorted(documents)),
        layers=tuple(
            sorted(
                (layer for layer in layers.values() if layer.digest not in documents),
                key=lambda layer: (-layer.size, layer.digest),
            )
        ),
    )


def image_entries(images: Sequence[LockedImage], platforms: Sequence[str]) -> tuple[Image, ...]:
    """The manifest's entries of `images`."""
    return tuple(
        Image(
            reference=image.reference,
            digest=image.digest,
            media_type=image.media_type,
            size=image.size,
            needed_by=image.needed_by,
            carried=tuple(
                PlatformManifest(
                    platform=platform.platform,
                    digest=platform.digest,
                    media_type=platform.media_type,
                    size=platform.size,
                    config=platform.config.digest,
                    config_size=platform.config.size,
                    layers=tuple(layer.digest for layer in platform.layers),
                )
                for platform in image.platforms
                if platform.platform in platforms
            ),
        )
        for image in images
    )


def index_json(images: Iterable[LockedImage]) -> bytes:
    """The OCI layout's `index.json`: every image by what its upstream tag names, called by its full reference."""
    entries = [
        {
            "mediaType": image.media_type,
            "digest": image.digest,
            "size": image.size,
            "annotations": {_REF_NAME: image.reference},
        }
        for image in images
    ]
    document: Mapping[str, object] = {"schemaVersion": 2, "mediaType": _OCI_INDEX, "manifests": entries}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _places(reference: str) -> tuple[Place, ...]:
    named = Reference.parse(reference)
    return (Place(named.host, named.repository),)


def _note(
    found: dict[Digest, WantedBlob],
    image: LockedImage,
    digest: Digest,
    size: int,
    places: tuple[Place, ...],
    *,
    is_manifest: bool = False,
) -> None:
    known = found.get(digest)
    if known is None:
        more = len(image.needed_by) - 1
        needed_by = (image.needed_by or ("nothing that is known",))[0] + (f" and {more} more" if more > 0 else "")
        found[digest] = WantedBlob(digest, size, places, image.reference, needed_by, is_manifest)
        return
    if known.size != size:
        raise LockStale(what=image.reference, detail=f"{digest} has {size} bytes here, {known.size} elsewhere")
    if more_places := tuple(place for place in places if place not in known.places):
        found[digest] = replace(known, places=(*known.places, *more_places))

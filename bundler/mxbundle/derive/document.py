"""Config, manifests and index of a derived image, as canonical bytes. Pure.

The config is the base's with one layer more: user, entry point, environment and labels stay as they are. The manifest
is an OCI one whatever the base's is; blobs keep their digests. Source: OCI image-spec, config.md, annotations.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sitebundle.digest import Digest
from sitebundle.oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor

OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
CREATED: Final = "1970-01-01T00:00:00Z"
"""When a derived image was made, as it says of itself: always the same."""
BASE_NAME: Final = "org.opencontainers.image.base.name"
BASE_DIGEST: Final = "org.opencontainers.image.base.digest"

_OCI_LAYERS: Final = {
    OCI_LAYER: OCI_LAYER,
    f"{OCI_LAYER}+gzip": f"{OCI_LAYER}+gzip",
    f"{OCI_LAYER}+zstd": f"{OCI_LAYER}+zstd",
    "application/vnd.docker.image.rootfs.diff.tar": OCI_LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{OCI_LAYER}+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": f"{OCI_LAYER}+zstd",
}


def derived_layers(base: Sequence[Descriptor], layer: Descriptor) -> tuple[Descriptor, ...]:
    """The base's layers under OCI's media types, and `layer`. Raises ValueError for a kind that has none."""
    for known in base:
        if known.media_type not in _OCI_LAYERS:
            raise ValueError(f"its layer {known.digest} is {known.media_type}")
    kept = (Descriptor(_OCI_LAYERS[known.media_type], known.digest, known.size) for known in base)
    return (*kept, layer)


def derived_config(base: bytes, layer: Digest, made_of: str) -> bytes:
    """The config `base` with the layer whose diff id is `layer`. Raises ValueError when it is not an image's config."""
    document = json.loads(base)
    try:
        diff_ids = list(document["rootfs"]["diff_ids"])
    except (KeyError, TypeError) as fault:
        raise ValueError("its config names no layers") from fault
    document["rootfs"] = {**document["rootfs"], "diff_ids": [*diff_ids, layer]}
    document["created"] = CREATED
    # Readers expect one entry for each layer, or no history at all.
    if history := document.get("history"):
        document["history"] = [*history, {"created": CREATED, "created_by": f"mxbundle lock: {made_of}"}]
    return _encoded(document)


def derived_manifest(
    config: Descriptor, layers: Sequence[Descriptor], base: str, base_digest: Digest
) -> tuple[Descriptor, bytes]:
    """The manifest for one platform."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _entry(config),
        "layers": [_entry(layer) for layer in layers],
        "annotations": {BASE_NAME: base, BASE_DIGEST: base_digest},
    }
    return described(OCI_MANIFEST, _encoded(document))


def derived_index(manifests: Mapping[str, Descriptor], base: str, base_digest: Digest) -> tuple[Descriptor, bytes]:
    """The index of the manifests by platform (`os/architecture[/variant]`)."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [
            {**_entry(manifests[platform]), "platform": _platform(platform)} for platform in sorted(manifests)
        ],
        "annotations": {BASE_NAME: base, BASE_DIGEST: base_digest},
    }
    return described(OCI_INDEX, _encoded(document))


def described(media_type: str, content: bytes) -> tuple[Descriptor, bytes]:
    """`content` with its descriptor."""
    return Descriptor(media_type, Digest.of(content), len(content)), content


def _entry(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}


def _platform(name: str) -> dict[str, str]:
    return dict(zip(("os", "architecture", "variant"), name.split("/"), strict=False))


def _encoded(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

"""Config, manifests and index of a derived image, as canonical bytes. Pure.

The config is the base's with one layer more: user, entry point, environment and labels stay as they are. The manifest
is an OCI one whatever the base's is; blobs keep their digests. Source: OCI image-spec, config.md, annotations.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from mxbundle.ocidocument import OCI_LAYER, encoded, oci_index, oci_manifest
from sitebundle.digest import Digest
from sitebundle.oci.descriptor import Descriptor

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
    return encoded(document)


def derived_manifest(
    config: Descriptor, layers: Sequence[Descriptor], base: str, base_digest: Digest
) -> tuple[Descriptor, bytes]:
    """The manifest for one platform."""
    return oci_manifest(config, layers, {BASE_NAME: base, BASE_DIGEST: base_digest})


def derived_index(manifests: Mapping[str, Descriptor], base: str, base_digest: Digest) -> tuple[Descriptor, bytes]:
    """The index of the manifests by platform (`os/architecture[/variant]`)."""
    return oci_index(manifests, {BASE_NAME: base, BASE_DIGEST: base_digest})

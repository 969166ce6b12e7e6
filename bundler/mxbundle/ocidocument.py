"""Manifests and indexes that are written here, for images that no registry has: canonical bytes. Pure.

Source: OCI image-spec, manifest.md, image-index.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sitebundle.digest import Digest
from sitebundle.oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor

OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"


def oci_manifest(
    config: Descriptor, layers: Sequence[Descriptor], annotations: Mapping[str, str] | None = None
) -> tuple[Descriptor, bytes]:
    """The manifest for one platform."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _entry(config),
        "layers": [_entry(layer) for layer in layers],
        **({"annotations": dict(annotations)} if annotations else {}),
    }
    return described(OCI_MANIFEST, encoded(document))


def oci_index(
    manifests: Mapping[str, Descriptor], annotations: Mapping[str, str] | None = None
) -> tuple[Descriptor, bytes]:
    """The index of the manifests by platform (`os/architecture[/variant]`), sorted."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [
            {**_entry(manifests[platform]), "platform": _platform(platform)} for platform in sorted(manifests)
        ],
        **({"annotations": dict(annotations)} if annotations else {}),
    }
    return described(OCI_INDEX, encoded(document))


def described(media_type: str, content: bytes) -> tuple[Descriptor, bytes]:
    """`content` with its descriptor."""
    return Descriptor(media_type, Digest.of(content), len(content)), content


def encoded(document: Mapping[str, Any]) -> bytes:
    """The canonical JSON: sorted keys, no spaces."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _entry(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}


def _platform(name: str) -> dict[str, str]:
    return dict(zip(("os", "architecture", "variant"), name.split("/"), strict=False))

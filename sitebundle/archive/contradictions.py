"""Whether a manifest contradicts itself: all it speaks of must be members with the digests it gives. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sitebundle.archive import names
from sitebundle.digest import Digest
from sitebundle.manifest import BundleManifest


def contradictions(manifest: BundleManifest) -> str | None:
    """The first contradiction in words, None when there is none."""
    members = {member.name: member for member in manifest.members}
    for member in manifest.members:
        if member.name.startswith("blobs/") and member.name != member.digest.blob_path:
            return f"{member.name} is said to have digest {member.digest}"
    for name in (names.INDEX, names.OCI_LAYOUT):
        if name not in members:
            return f"there is no {name}"
    for name, digest, size in _spoken_of(manifest):
        if name not in members:
            return f"there is no {name}"
        if members[name].digest != digest or size not in (None, members[name].size):
            return f"{name} is not what the rest of the manifest says it is"
    return None


def _spoken_of(manifest: BundleManifest) -> Iterator[tuple[str, Digest, int | None]]:
    """(member, digest, size in bytes where it is said) of everything outside the list of members."""
    for image in manifest.images:
        yield image.digest.blob_path, image.digest, image.size
        for carried in image.carried:
            yield carried.digest.blob_path, carried.digest, carried.size
            yield carried.config.blob_path, carried.config, carried.config_size
            for layer in carried.layers:
                yield layer.blob_path, layer, None
    for entries in (manifest.charts, manifest.files, manifest.crds, manifest.tools):
        yield from ((entry.member, entry.digest, None) for entry in entries)

"""What a bundle holds and what takes its space, as one value that both faces print. Pure but for the open reader."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from mxbundle.derive.document import BASE_DIGEST, BASE_NAME
from mxbundle.derive.recipe import HOST
from sitebundle.archive import BundleReader
from sitebundle.manifest import BundleManifest, Image
from sitebundle.reference import Reference
from sitebundle.signature import Signature
from sitebundle.units import bytes_for_people

LARGEST_SHOWN = 10
_KINDS = (
    ("stack/", "stack definition"),
    ("charts/", "charts"),
    ("files/", "manifest files"),
    ("crds/", "CRDs"),
    ("tools/", "tools"),
)


def describe(reader: BundleReader) -> dict[str, Any]:
    """Everything that `mxbundle inspect` shows. Sizes in bytes; `archive_bytes` is what it takes in the file."""
    manifest = reader.manifest
    sizes = {member.name: member.size for member in manifest.members}
    users = _users(manifest)
    layers = sorted(((name, sizes[name]) for name in users if name in sizes), key=lambda item: (-item[1], item[0]))
    return {
        "path": str(reader.path),
        "name": manifest.name,
        "generation": manifest.generation,
        "created": manifest.created,
        "profile": manifest.profile,
        "platforms": list(manifest.platforms),
        "file_bytes": reader.file_bytes,
        "manifest_digest": reader.manifest_digest,
        "lock_digest": manifest.lock_digest,
        "provenance": reader.provenance(),
        "signatures": [_signature(armored) for armored in reader.signatures],
        "images": [{**_image(image, sizes, users), "base": _base(reader, image)} for image in manifest.images],
        "charts": [{"release": c.release, "name": c.name, "version": c.version} for c in manifest.charts],
        "files": [{"release": f.release, "url": f.url} for f in manifest.files],
        "crds": [{"name": c.name, "versions": list(c.versions)} for c in manifest.crds],
        "tools": [
            {"name": t.name, "version": t.version, "platform": t.platform, "bytes": sizes[t.member]}
            for t in manifest.tools
        ],
        "space": _space(manifest),
        "largest": [
            {"digest": name.removeprefix("blobs/sha256/"), "bytes": size, "images": sorted(users[name])}
            for name, size in layers[:LARGEST_SHOWN]
        ],
    }


def as_text(about: dict[str, Any]) -> str:
    """The description for people."""
    size = bytes_for_people
    lines = [
        f"{about['path']}: {size(about['file_bytes'])}",
        f"  bundle {about['name']}, generation {about['generation']}, profile {about['profile']}, "
        + ", ".join(about["platforms"]),
        f"  manifest {about['manifest_digest']}",
        f"  {_built(about['provenance'])} from lock {about['lock_digest']}",
        *(f"  signed by {entry}" for entry in about["signatures"]),
        *([] if about["signatures"] else ["  not signed"]),
        "",
        f"images ({len(about['images'])}): layers, of these in no other image",
        *(
            f"  {size(image['bytes']):>10} {size(image['own_bytes']):>10}  {image['reference']}  "
            + image["digest"][7:19]
            + (f"  derived from {image['base']}" if image["base"] else "")
            for image in about["images"]
        ),
        "",
        "charts and manifest files",
        *(f"  {chart['release']}: {chart['name']} {chart['version']}" for chart in about["charts"]),
        *(f"  {file['release']}: {file['url']}" for file in about["files"]),
        f"  {len(about['crds'])} CRDs",
        "",
        "tools",
        *(
            f"  {size(tool['bytes']):>10}  {tool['name']} {tool['version']} {tool['platform']}"
            for tool in about["tools"]
        ),
        "",
        "what takes the space in the file",
        *(f"  {size(entry['archive_bytes']):>10}  {entry['what']} ({entry['members']})" for entry in about["space"]),
        "",
        "largest layers",
        *(
            f"  {size(entry['bytes']):>10}  {entry['digest'][:12]}  {', '.join(entry['images'])}"
            for entry in about["largest"]
        ),
    ]
    return "\n".join(lines)


def _built(provenance: dict[str, Any]) -> str:
    """Who says to have built it, and when; signed only as far as the attestations are."""
    parts = [f"built by {provenance.get('builder', 'an unknown program')}"]
    if "built_at" in provenance:
        parts.append(f"at {provenance['built_at']}")
    if "source_commit" in provenance:
        parts.append(f"of commit {provenance['source_commit']}")
    return " ".join(parts)


def _users(manifest: BundleManifest) -> dict[str, set[str]]:
    """Layer member -> references of the images that need it."""
    users: dict[str, set[str]] = defaultdict(set)
    for image in manifest.images:
        for carried in image.carried:
            for layer in carried.layers:
                users[layer.blob_path].add(image.reference)
    return users


def _image(image: Image, sizes: dict[str, int], users: dict[str, set[str]]) -> dict[str, Any]:
    layers = {layer.blob_path for carried in image.carried for layer in carried.layers}
    return {
        "reference": image.reference,
        "digest": image.digest,
        "platforms": [carried.platform for carried in image.carried],
        "bytes": sum(sizes[layer] for layer in layers),
        "own_bytes": sum(sizes[layer] for layer in layers if len(users[layer]) == 1),
        "needed_by": list(image.needed_by),
    }


def _base(reader: BundleReader, image: Image) -> str | None:
    """What a derived image was made from, as its index says; None for one that a registry has."""
    if Reference.parse(image.reference).host != HOST:
        return None
    said = json.loads(reader.read(image.digest.blob_path)).get("annotations", {})
    return f"{said.get(BASE_NAME)}@{said.get(BASE_DIGEST)}"


def _space(manifest: BundleManifest) -> list[dict[str, Any]]:
    found: dict[str, list[int]] = defaultdict(list)
    for member in manifest.members:
        found[_kind(member.name, member.storage)].append(member.frame_bytes)
    entries: Iterable[tuple[str, list[int]]] = found.items()
    return [
        {"what": what, "members": len(parts), "archive_bytes": sum(parts)}
        for what, parts in sorted(entries, key=lambda item: (-sum(item[1]), item[0]))
    ]


def _kind(name: str, storage: str) -> str:
    for prefix, what in _KINDS:
        if name.startswith(prefix):
            return what
    return "layers" if storage == "stored" else "manifests, configs and indexes"


def _signature(armored: str) -> str:
    try:
        return Signature.parse(armored).key.fingerprint
    except ValueError:
        return "an unreadable signature"

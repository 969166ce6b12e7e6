"""Small bundles written by the real writer, for tests that read, break or sign them."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sitebundle.archive import ArchiveWriter, SmallMembers, frames, stored_member, tarheader
from sitebundle.digest import Digest
from sitebundle.manifest import BundleManifest, Image, PlatformManifest

CREATED = 1_700_000_000
MEDIA = "application/vnd.oci.image.manifest.v1+json"


def noise(size: int, seed: int) -> bytes:
    """Bytes that no compressor shortens, the same everywhere."""
    return hashlib.shake_256(str(seed).encode()).digest(size)


def write_bundle(
    path: Path,
    layers: Mapping[str, bytes] | None = None,
    extra: Mapping[str, bytes] | None = None,
    generation: int = 1,
    attestation: Mapping[str, str] | None = None,
) -> Path:
    """A bundle with one image of these layers, and small members `extra` (name -> content)."""
    layers = {"a": noise(300_000, 1), "b": noise(1000, 2)} if layers is None else layers
    blobs = {Digest.of(data): data for data in layers.values()}
    config = b'{"architecture":"amd64","os":"linux"}'
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MEDIA,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Digest.of(config),
                "size": len(config),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": Digest.of(data),
                    "size": len(data),
                }
                for data in layers.values()
            ],
        }
    ).encode()
    top = Digest.of(body)
    index = {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": MEDIA,
                "digest": top,
                "size": len(body),
                "annotations": {"org.opencontainers.image.ref.name": "ghcr.io/a/b:1"},
            }
        ],
    }
    with SmallMembers(path.parent, CREATED) as small:
        for name, data in (extra or {}).items():
            small.add(name, data)
        small.add(top.blob_path, body)
        small.add(Digest.of(config).blob_path, config)
        small.add("index.json", json.dumps(index).encode())
        small.add("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        stored = [
            stored_member(digest.blob_path, len(data), digest)
            for digest, data in sorted(blobs.items(), key=lambda item: (-len(item[1]), item[0]))
        ]
        manifest = BundleManifest(
            name="test",
            generation=generation,
            created=CREATED,
            profile="demo",
            lock_digest=Digest.of(b"lock"),
            platforms=("linux/amd64",),
            images=(
                Image(
                    reference="ghcr.io/a/b:1",
                    digest=top,
                    media_type=MEDIA,
                    size=len(body),
                    carried=(
                        PlatformManifest(
                            platform="linux/amd64",
                            digest=top,
                            media_type=MEDIA,
                            size=len(body),
                            config=Digest.of(config),
                            config_size=len(config),
                            layers=tuple(Digest.of(data) for data in layers.values()),
                        ),
                    ),
                ),
            ),
            charts=(),
            files=(),
            crds=(),
            tools=(),
            members=(*small.members, *stored),
        )
        writer = ArchiveWriter.create(path, manifest, small)
    with writer:
        for digest, data in reversed(blobs.items()):
            blob = writer.blob(digest.blob_path)
            for start in range(0, len(data), 70_001):
                blob.write(memoryview(data)[start : start + 70_001])
            blob.finish()
        writer.finish(json.dumps(attestation or {"manifest": manifest.digest}, sort_keys=True).encode())
    return path


def manifest_of(path: Path) -> bytes:
    """The manifest's text, taken out of the archive without the reader."""
    begin = frames.stored_bytes(1024)
    length, _ = frames.walk(lambda at, n: path.read_bytes()[at : at + n], begin, 1 << 30)
    content = frames.open_stored(path.read_bytes()[begin : begin + length])
    return content[512 : 512 + int(content[124:135], 8)]


def rebuild(path: Path, change: Callable[[dict[str, Any]], object], raw: bytes | None = None) -> None:
    """Put another manifest into the archive: the old one after `change`, or `raw`. The rest stays as it is."""
    content = path.read_bytes()
    begin = frames.stored_bytes(1024)
    length, _ = frames.walk(lambda at, n: content[at : at + n], begin, 1 << 30)
    document = {} if raw is not None else json.loads(manifest_of(path))
    change(document)
    text = raw if raw is not None else json.dumps(document).encode()
    head = tarheader.header("mxbundle.json", len(text), CREATED, 0o644)
    frame = frames.stored(head + text + bytes(tarheader.padding(len(text))))
    path.write_bytes(content[:begin] + frame + content[begin + length :])

"""Bundles with images of random layers, shared between repositories, and a site to seed them to."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

from mxinstall.site import Site

from sitebundle.archive import ArchiveWriter, SmallMembers, stored_member
from sitebundle.digest import Digest
from sitebundle.manifest import BundleManifest, Image, PlatformManifest, Tool
from sitebundle.oci.descriptor import OCI_INDEX, OCI_MANIFEST

MIB = 1 << 20
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"


@dataclass
class Content:
    """Blobs and images on their way into an archive."""

    small: dict[str, bytes] = field(default_factory=dict)
    layers: dict[Digest, bytes] = field(default_factory=dict)
    images: list[Image] = field(default_factory=list)

    def layer(self, seed_number: int, size: int) -> Digest:
        data = random.Random(seed_number).randbytes(size)
        digest = Digest.of(data)
        self.layers[digest] = data
        return digest

    def image(self, reference: str, layers: list[Digest], indexed: bool = True) -> Image:
        config = json.dumps({"architecture": "amd64", "os": "linux", "name": reference}).encode()
        self.small[Digest.of(config).blob_path] = config
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": _descriptor(CONFIG, config),
                "layers": [{"mediaType": LAYER, "digest": d, "size": len(self.layers[d])} for d in layers],
            }
        )
        self.small[Digest.of(manifest).blob_path] = manifest
        carried = PlatformManifest(
            platform="linux/amd64",
            digest=Digest.of(manifest),
            media_type=OCI_MANIFEST,
            size=len(manifest),
            config=Digest.of(config),
            config_size=len(config),
            layers=tuple(layers),
        )
        top, kind = manifest, OCI_MANIFEST
        if indexed:
            absent = {"mediaType": OCI_MANIFEST, "digest": Digest.of(b"not carried"), "size": 11}
            top = _json(
                {
                    "schemaVersion": 2,
                    "mediaType": OCI_INDEX,
                    "manifests": [
                        _descriptor(OCI_MANIFEST, manifest) | {"platform": {"os": "linux", "architecture": "amd64"}},
                        absent | {"platform": {"os": "linux", "architecture": "arm64"}},
                    ],
                }
            )
            kind = OCI_INDEX
            self.small[Digest.of(top).blob_path] = top
        image = Image(reference=reference, digest=Digest.of(top), media_type=kind, size=len(top), carried=(carried,))
        self.images.append(image)
        return image

    def write(self, path: Path, generation: int = 1, tools: tuple[tuple[Tool, bytes], ...] = ()) -> Path:
        with SmallMembers(path.parent, 0) as small:
            for tool, program in tools:
                small.add(tool.member, program)
            for name, data in self.small.items():
                small.add(name, data)
            small.add("index.json", _json({"schemaVersion": 2, "manifests": []}))
            small.add("oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
            ordered = sorted(self.layers.items(), key=lambda item: (-len(item[1]), item[0]))
            stored = [stored_member(digest.blob_path, len(data), digest) for digest, data in ordered]
            manifest = BundleManifest(
                name="test",
                generation=generation,
                created=0,
                profile="demo",
                lock_digest=Digest.of(b""),
                platforms=("linux/amd64",),
                images=tuple(self.images),
                charts=(),
                files=(),
                crds=(),
                tools=tuple(tool for tool, _ in tools),
                members=(*small.members, *stored),
            )
            with ArchiveWriter.create(path, manifest, small) as writer:
                for digest, data in ordered:
                    blob = writer.blob(digest.blob_path)
                    blob.write(memoryview(data))
                    blob.finish()
                writer.finish(_json({"manifest": manifest.digest}))
        return path


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _descriptor(kind: str, data: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": Digest.of(data), "size": len(data)}


def two_images(layer_bytes: int = 9 * MIB) -> Content:
    content = Content()
    base = content.layer(1, layer_bytes)
    content.image("ghcr.io/example/one:1.0", [base, content.layer(2, MIB)])
    content.image("docker.io/library/two:2.0", [base, content.layer(3, 70_001), content.layer(4, 0)], indexed=False)
    return content


def site_at(address: str) -> Site:
    return Site.model_validate(
        {
            "apiVersion": "mxbundle.io/v1alpha1",
            "kind": "Site",
            "metadata": {"name": "test"},
            "spec": {
                "profile": "demo",
                "serverName": "test.site",
                "hosts": {"matrix": "matrix.test.site"},
                "registry": {"push": address, "pull": address, "prefix": "mx"},
                "storage": {"default": "standard", "database": "standard", "objects": "standard"},
                "edge": {"address": "127.0.0.1"},
            },
        }
    )


def seeding_program(bundle: Path, address: str, state: Path | None = None, then: str = "") -> list[str]:
    """The command of a process that seeds `bundle` to the registry at `address` and is there to be killed."""
    site = bundle.with_suffix(".site.json")
    site.write_text(json.dumps(site_at(address).as_mapping()))
    keeping = f", state=Path({str(state)!r})" if state else ""
    program = (
        "import json; from pathlib import Path;"
        "from mxinstall.seed import seed; from mxinstall.site import Site;"
        "from sitebundle.archive import BundleReader; from sitebundle.events import silent;"
        "from sitebundle.oci.client import Endpoint, Registry;"
        f"site = Site.model_validate(json.loads(Path({str(site)!r}).read_text()));"
        f"reader = BundleReader.open(Path({str(bundle)!r}));"
        f"seed(reader, site, Registry(Endpoint('http://{address}')), silent{keeping});"
    )
    return [sys.executable, "-c", program + then]

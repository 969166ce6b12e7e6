"""Small synthetic images, pushed to a real registry: for tests of what is locked, carried and seeded."""

from __future__ import annotations

import io
import json
import random
import tarfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxbundle.derive.recipe import read_recipes

from sitebundle.digest import Digest
from sitebundle.oci.client import Readable, Registry
from sitebundle.oci.descriptor import OCI_INDEX, OCI_MANIFEST
from sitebundle.stack import read_stack

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
MANIFESTS = Path(__file__).parents[2] / "manifests"


@dataclass(frozen=True)
class Pushed:
    """What was pushed: the digest that the tag names, and every blob and manifest below it with its size."""

    digest: Digest
    sizes: Mapping[str, int]


def layer(seed: str, size: int = 20_000) -> bytes:
    """A tar with one file of random bytes that follow from `seed`."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        entry = tarfile.TarInfo(f"files/{seed.replace('/', '_')}")
        entry.size = size
        archive.addfile(entry, io.BytesIO(random.Random(seed).randbytes(size)))
    return content.getvalue()


def push_image(
    registry: Registry,
    repository: str,
    tag: str,
    *,
    config: Mapping[str, Any] | None = None,
    layers: Sequence[bytes] | None = None,
    platforms: Sequence[str] = ("linux/amd64",),
    index: bool = True,
) -> Pushed:
    """Push one image: an index over `platforms`, or one bare manifest when `index` is false."""
    sizes: dict[str, int] = {}
    entries = []
    for platform in platforms:
        system, architecture = platform.split("/")[:2]
        blobs = list(layers) if layers is not None else [layer(f"{repository}:{tag}:{platform}")]
        document = {
            "os": system,
            "architecture": architecture,
            "config": dict(config or {}),
            "rootfs": {"type": "layers", "diff_ids": [Digest.of(blob) for blob in blobs]},
        }
        body = _manifest(registry, repository, json.dumps(document).encode(), blobs, sizes)
        digest = Digest.of(body)
        registry.put_manifest(repository, digest, body, OCI_MANIFEST)
        sizes[digest] = len(body)
        entries.append(
            {
                "mediaType": OCI_MANIFEST,
                "digest": digest,
                "size": len(body),
                "platform": {"os": system, "architecture": architecture},
            }
        )
    if not index:
        registry.put_manifest(repository, tag, body, OCI_MANIFEST)
        return Pushed(digest, sizes)
    attestation = {"mediaType": OCI_MANIFEST, "digest": Digest.of(b"attestation"), "size": 11}
    unknown = {**attestation, "platform": {"os": "unknown", "architecture": "unknown"}}
    top = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*entries, unknown]}).encode()
    registry.put_manifest(repository, tag, top, OCI_INDEX)
    sizes[Digest.of(top)] = len(top)
    return Pushed(Digest.of(top), sizes)


def fetched_images(manifests: Path = MANIFESTS) -> dict[str, str]:
    """Key of the stack's table -> the image that a registry is asked for: the base where the stack's is derived."""
    bases = {recipe.reference: recipe.base for recipe in read_recipes(manifests / "derived")}
    return {key: bases.get(text, text) for key, text in read_stack(manifests / "stack.yaml").images.items()}


def contract_config(key: str, manifests: Path = MANIFESTS) -> dict[str, Any]:
    """The config of an image that keeps the contract `manifests/images/KEY.toml`."""
    config = tomllib.loads((manifests / "images" / f"{key}.toml").read_text())["config"]
    return {
        "Entrypoint": config["entrypoint"],
        "Cmd": config["command"],
        "User": config["user"],
        "Env": [f"{name}={value}" for name, value in config["environment"].items()] + ["MORE=1"],
    }


def _manifest(
    registry: Registry, repository: str, config: bytes, layers: Sequence[bytes], sizes: dict[str, int]
) -> bytes:
    for blob in (config, *layers):
        digest = Digest.of(blob)
        sizes[digest] = len(blob)
        if registry.blob_size(repository, digest) is None:

            @contextmanager
            def source(offset: int, data: bytes = blob) -> Iterator[Readable]:
                yield io.BytesIO(data[offset:])

            registry.upload(repository, digest, len(blob), source)
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": CONFIG_TYPE, "digest": Digest.of(config), "size": len(config)},
            "layers": [{"mediaType": LAYER_TYPE, "digest": Digest.of(blob), "size": len(blob)} for blob in layers],
        }
    ).encode()

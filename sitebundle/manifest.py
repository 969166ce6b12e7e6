"""`mxbundle.json`: what is in a bundle, and where. The signed root that everything else is reached through.

Pure values; reading and writing the archive is `sitebundle.archive`. The format: docs/reference/bundle-format.md.
"""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sitebundle.digest import Digest

FORMAT = 1
"""The format that this program writes and the newest that it reads."""


class Value(BaseModel):
    """A frozen value that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PlatformManifest(Value):
    """One platform's manifest of an image, with what it needs. Sizes are in bytes."""

    platform: str
    digest: Digest
    media_type: str
    size: int
    config: Digest
    config_size: int
    layers: tuple[Digest, ...]


class Image(Value):
    """An image as upstream's tag means it: `digest` is the index where upstream has one.

    `carried` lists the platforms whose blobs are in the bundle; an index keeps its bytes whatever is carried.
    """

    reference: str
    digest: Digest
    media_type: str
    size: int
    carried: tuple[PlatformManifest, ...]
    needed_by: tuple[str, ...] = ()


class Chart(Value):
    """A chart, packed by us; `member` is its path in the archive."""

    release: str
    name: str
    version: str
    member: str
    digest: Digest


class ManifestFile(Value):
    """A published manifest file, byte for byte."""

    release: str
    url: str
    member: str
    digest: Digest


class Crd(Value):
    """A CustomResourceDefinition, taken out of its source; applied before any release, never deleted."""

    name: str
    group: str
    kind: str
    versions: tuple[str, ...]
    source: str
    member: str
    digest: Digest


class Tool(Value):
    """A program that the dark site needs: helm, registry."""

    name: str
    version: str
    platform: str
    member: str
    digest: Digest


class Member(Value):
    """One file of the archive, in archive order.

    `size` is the file's own bytes. `frame_bytes` is what its frames take in the archive, tar header and
    padding included, so that every offset follows from the manifest. `stored`: raw zstd blocks.
    """

    name: str
    size: int = Field(ge=0)
    digest: Digest
    storage: Literal["stored", "zstd"]
    frame_bytes: int = Field(gt=0)


class BundleManifest(Value):
    """The whole of `mxbundle.json`. `created` is SOURCE_DATE_EPOCH seconds; `generation` never goes back at a site.

    `members` lists what follows the signature area, in order, up to and without `attestations.json`.
    """

    format: int = FORMAT
    name: str
    generation: int = Field(ge=1)
    created: int = Field(ge=0)
    profile: str
    lock_digest: Digest
    platforms: tuple[str, ...]
    attestations_required: bool = False
    images: tuple[Image, ...]
    charts: tuple[Chart, ...]
    files: tuple[ManifestFile, ...]
    crds: tuple[Crd, ...]
    tools: tuple[Tool, ...]
    members: tuple[Member, ...]

    def to_bytes(self) -> bytes:
        """The canonical bytes: sorted keys, no spaces, one newline at the end."""
        return (json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")) + "\n").encode()

    @property
    def digest(self) -> Digest:
        """The digest of the canonical bytes: what a site admits."""
        return Digest.of(self.to_bytes())

    def member(self, name: str) -> Member:
        """The member called `name`. Raises KeyError."""
        for entry in self.members:
            if entry.name == name:
                return entry
        raise KeyError(name)

"""`attestations.json`: what the bundle's bytes cannot say, because it depends on who built it and when. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sitebundle.digest import Digest
from sitebundle.manifest import BundleManifest, Value


class Provenance(Value):
    """Who builds, from what. `built_at`: seconds since the epoch, None to leave the clock out.

    `request` is the digest of all that decides the archive's bytes (`BuildRequest.purpose`).
    """

    builder: str
    libzstd: str
    request: Digest
    source_commit: str | None = None
    built_at: float | None = None


def attestations(manifest: BundleManifest, provenance: Provenance) -> bytes:
    """The canonical text."""
    said: dict[str, Any] = {
        **provenance.model_dump(mode="json", exclude={"built_at"}, exclude_none=True),
        "lock": manifest.lock_digest,
        "generation": manifest.generation,
        "platforms": list(manifest.platforms),
        "profile": manifest.profile,
    }
    if provenance.built_at is not None:
        said["built_at"] = f"{datetime.fromtimestamp(provenance.built_at, UTC):%Y-%m-%dT%H:%M:%SZ}"
    document: Mapping[str, Any] = {"manifest": manifest.digest, "provenance": said}
    return (json.dumps(document, sort_keys=True, separators=(",", ":")) + "\n").encode()

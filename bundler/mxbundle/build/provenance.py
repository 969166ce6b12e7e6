"""`attestations.json`: what the bundle's bytes cannot say, because it depends on who built it and when. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sitebundle.manifest import BundleManifest


def attestations(
    manifest: BundleManifest, tool_version: str, libzstd: str, source_commit: str | None, built_at: float | None
) -> bytes:
    """The canonical text. `built_at`: seconds since the epoch, None to leave the clock out."""
    provenance: dict[str, Any] = {
        "builder": f"mxbundle {tool_version}",
        "libzstd": libzstd,
        "lock": manifest.lock_digest,
        "generation": manifest.generation,
        "platforms": list(manifest.platforms),
        "profile": manifest.profile,
    }
    if source_commit is not None:
        provenance["source_commit"] = source_commit
    if built_at is not None:
        provenance["built_at"] = f"{datetime.fromtimestamp(built_at, UTC):%Y-%m-%dT%H:%M:%SZ}"
    document: Mapping[str, Any] = {"manifest": manifest.digest, "provenance": provenance}
    return (json.dumps(document, sort_keys=True, separators=(",", ":")) + "\n").encode()

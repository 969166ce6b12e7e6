"""Whether the output is already what is asked for: recognised by what it says of itself, with nothing fetched.

Its layers are not read again: that is `mxbundle verify`.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from mxbundle.build.provenance import Provenance, attestations
from sitebundle.archive import BundleReader
from sitebundle.errors import BundleError
from sitebundle.manifest import BundleManifest


def finished(output: Path, wish: Provenance) -> BundleManifest | None:
    """The manifest of a bundle at `output` that `wish` would give again, byte for byte; clock and signatures aside.

    None when there is no such bundle, another one, or one that is not whole.
    """
    if not output.is_file():
        return None
    try:
        with BundleReader.open(output) as reader:
            clock = reader.provenance().get("built_at")
            if (clock is None) != (wish.built_at is None):
                return None
            built_at = None if clock is None else datetime.fromisoformat(clock).timestamp()
            again = attestations(reader.manifest, wish.model_copy(update={"built_at": built_at}))
            return reader.manifest if again == reader.attestation_content() else None
    except (BundleError, ValueError, TypeError):
        return None

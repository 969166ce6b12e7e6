"""Is a bundle whole, and does somebody whom this host trusts vouch for it? Opens no connection, changes nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mxinstall.trust import check_signature, store_path
from sitebundle.archive import BundleReader
from sitebundle.events import Sink


@dataclass(frozen=True)
class Verdict:
    """A bundle that can be believed. `checked`: its signed beginning, or every byte."""

    path: str
    name: str
    generation: int
    manifest: str
    principal: str
    fingerprint: str
    checked: str

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)

    def text(self) -> str:
        """For people."""
        return (
            f"{self.path}: {self.name}, generation {self.generation}, manifest {self.manifest}\n"
            f"signed by {self.principal} {self.fingerprint}, who is trusted here; checked: {self.checked}"
        )


def verify_bundle(bundle: Path, allowed_signers: Path | None, deep: bool, sink: Sink) -> Verdict:
    """Check signature and structure, with `deep` every byte.

    Raises BundleError and TrustError leaves; whether the generation may be installed is judged at the install.
    """
    with BundleReader.open(bundle) as reader:
        principal, fingerprint = check_signature(reader, store_path(allowed_signers))
        if deep:
            reader.verify(sink)
        return Verdict(
            path=str(bundle),
            name=reader.manifest.name,
            generation=reader.manifest.generation,
            manifest=reader.manifest_digest,
            principal=principal,
            fingerprint=fingerprint,
            checked="every byte" if deep else "manifest and signature (every byte: --deep)",
        )

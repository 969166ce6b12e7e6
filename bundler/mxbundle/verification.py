"""Whether a bundle is whole, and who vouches for it: the connected side's view, before it travels."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sitebundle.archive import BundleReader
from sitebundle.digest import Digest
from sitebundle.errors import NoTrustYet
from sitebundle.events import Sink
from sitebundle.signature import (
    ATTESTATIONS_NAMESPACE,
    MANIFEST_NAMESPACE,
    AllowedSigners,
    Signature,
    Signer,
    verify,
)


@dataclass(frozen=True)
class Verified:
    """A whole bundle. `signer` is None when no trust store was given; `fingerprints` are of keys that nobody judged."""

    path: Path
    generation: int
    manifest_digest: Digest
    members: int
    fingerprints: tuple[str, ...]
    signer: Signer | None

    def as_json(self) -> dict[str, Any]:
        """The value as the JSON face prints it."""
        return {
            "bundle": str(self.path),
            "generation": self.generation,
            "manifest_digest": self.manifest_digest,
            "members": self.members,
            "signatures": list(self.fingerprints),
            "signer": None
            if self.signer is None
            else {"principal": self.signer.principal, "fingerprint": self.signer.fingerprint},
        }

    def __str__(self) -> str:
        whole = f"{self.path} is whole: generation {self.generation}, {self.members} members, {self.manifest_digest}"
        if self.signer is not None:
            return f"{whole}\nsigned by {self.signer.principal} {self.signer.fingerprint}"
        if self.fingerprints:
            by = ", ".join(self.fingerprints)
            return f"{whole}\ncarries signatures by {by}; give --allowed-signers to have them judged"
        return f"{whole}\nnot signed"


def verify_bundle(path: Path, allowed_signers: Path | None, sink: Sink) -> Verified:
    """Judge the signatures, when there is a trust store, then check every byte.

    Raises what the signatures and the bundle have to say (TrustError, BundleError).
    """
    with BundleReader.open(path) as reader:
        signer = None
        if allowed_signers is not None:
            allowed = AllowedSigners.read(allowed_signers)
            if not allowed.signers:
                raise NoTrustYet(store=allowed_signers)
            now = datetime.now(UTC)
            signer = verify(
                reader.manifest_bytes, reader.signatures, allowed, MANIFEST_NAMESPACE, now, path=reader.path
            )
            said = reader.attestations()
            if said.signatures or reader.manifest.attestations_required:
                verify(
                    said.content, said.signatures, allowed, ATTESTATIONS_NAMESPACE, now, path=f"{path} (attestations)"
                )
        reader.verify(sink)
        return Verified(
            path=path,
            generation=reader.manifest.generation,
            manifest_digest=reader.manifest_digest,
            members=len(reader.manifest.members),
            fingerprints=tuple(_fingerprint(armored) for armored in reader.signatures),
            signer=signer,
        )


def _fingerprint(armored: str) -> str:
    try:
        return Signature.parse(armored).key.fingerprint
    except ValueError:
        return "an unreadable signature"

"""May this bundle be installed here? Signature, window of validity, generation: decided before any connection.

Reads the bundle's manifest and the host's files, changes nothing; `records.record_admission` is called by the
installer when it is about to change something.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mxinstall.trust.records import Admitted, Record, admit, now
from mxinstall.trust.store import list_keys
from sitebundle.archive import BundleReader
from sitebundle.digest import Digest
from sitebundle.errors import NoTrustYet
from sitebundle.signature import AllowedSigners, verify

NAMESPACE = "manifest@mxbundle.io"


@dataclass(frozen=True)
class Admission:
    """A bundle that may be installed. `notes` is what a person should know about the records."""

    entry: Admitted
    principal: str
    again: bool
    notes: tuple[str, ...] = ()


def check_signature(reader: BundleReader, store: Path, at: datetime | None = None) -> tuple[str, str]:
    """Principal and fingerprint of the trusted key that signed the manifest, valid `at` (now unless given).

    Raises NoTrustYet, Unsigned, UnknownKey, BadSignature, KeyExpired, KeyUnreadable.
    """
    if not list_keys(store):
        raise NoTrustYet(store=store)
    signer = verify(
        reader.manifest_bytes,
        reader.signatures,
        AllowedSigners.read(store),
        NAMESPACE,
        at or now(),
        path=reader.path,
    )
    return signer.principal, signer.fingerprint


def admit_bundle(
    reader: BundleReader, store: Path, host_record: Record, cluster_record: Record | None = None
) -> Admission:
    """Judge a bundle by signature and generation.

    A manifest that was admitted before is judged at the time of its admission: keys may have run out since.
    Raises what `check_signature` raises, OlderGeneration and GenerationReused.
    """
    digest = Digest.of(reader.manifest_bytes)
    before = host_record.union(cluster_record or Record()).find(digest)
    at = datetime.fromtimestamp(before.at, UTC) if before else now()
    principal, fingerprint = check_signature(reader, store, at)
    notes = admit(digest, reader.manifest.generation, host_record, cluster_record, reader.path)
    entry = before or Admitted(reader.manifest.generation, digest, at.timestamp(), fingerprint)
    return Admission(entry=entry, principal=principal, again=before is not None, notes=notes)

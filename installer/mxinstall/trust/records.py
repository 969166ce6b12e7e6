"""Which manifests a site has admitted: one record on the host, one in the cluster, and the rule between them.

`admit` is pure. The host's record is a file in the site's state directory; the cluster's copy is written by
`mxinstall.deploy` from `record_to_json`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sitebundle.atomic import write_durably
from sitebundle.digest import Digest
from sitebundle.errors import GenerationReused, JournalUnwritable, OlderGeneration

FILE = "admitted.json"


@dataclass(frozen=True)
class Admitted:
    """One admission. `at` is seconds since the epoch; `signer` the fingerprint that vouched for it."""

    generation: int
    digest: Digest
    at: float
    signer: str


@dataclass(frozen=True)
class Record:
    """All admissions that one place remembers."""

    admitted: tuple[Admitted, ...] = ()

    @property
    def highest(self) -> int:
        """The highest admitted generation, 0 when there is none."""
        return max((entry.generation for entry in self.admitted), default=0)

    def find(self, digest: Digest) -> Admitted | None:
        """The admission of `digest`, the first one when there are several."""
        return next((entry for entry in self.admitted if entry.digest == digest), None)

    def with_admission(self, entry: Admitted) -> Record:
        """The record with `entry`; the same record when this digest is in it."""
        return self if self.find(entry.digest) else replace(self, admitted=(*self.admitted, entry))

    def union(self, other: Record) -> Record:
        """What either remembers, by generation."""
        both = {entry.digest: entry for entry in (*other.admitted, *self.admitted)}
        return Record(tuple(sorted(both.values(), key=lambda entry: (entry.generation, entry.at))))


def admit(
    manifest_digest: Digest, generation: int, host_record: Record, cluster_record: Record | None, path: Path
) -> tuple[str, ...]:
    """Judge a manifest by the generations that were admitted; what either place remembers counts.

    Returns what a person should know about a disagreement of the two records. `cluster_record` is None when the
    cluster has none yet. Raises OlderGeneration, and GenerationReused for other content in the newest generation.
    """
    known = host_record.union(cluster_record or Record())
    if generation < known.highest:
        raise OlderGeneration(path=path, offered=generation, admitted=known.highest)
    others = [e for e in known.admitted if e.generation == generation and e.digest != manifest_digest]
    if others and known.find(manifest_digest) is None:
        raise GenerationReused(path=path, offered=generation, admitted=others[0].digest)
    return _disagreement(host_record, cluster_record)


def _disagreement(host: Record, cluster: Record | None) -> tuple[str, ...]:
    there = cluster or Record()
    if host.highest == there.highest:
        return ()
    if not there.highest:
        return (f"this host has admitted generation {host.highest}, the cluster none: is it a new cluster?",)
    if not host.highest:
        return (f"the cluster has admitted generation {there.highest}, this host none: it is a new install host",)
    return (f"this host has admitted generation {host.highest}, the cluster {there.highest}; the higher one counts",)


def record_to_json(record: Record) -> str:
    """The record as text, for the file and for the cluster's copy."""
    return json.dumps({"admitted": [asdict(entry) for entry in record.admitted]}, sort_keys=True, indent=1) + "\n"


def record_from_json(text: str) -> Record:
    """Read what `record_to_json` wrote. Raises ValueError."""
    try:
        entries: list[dict[str, Any]] = json.loads(text)["admitted"]
        return Record(
            tuple(
                Admitted(int(e["generation"]), Digest(e["digest"]), float(e["at"]), str(e["signer"])) for e in entries
            )
        )
    except (KeyError, TypeError) as fault:
        raise ValueError(f"not a record of admissions: {fault}") from fault


def read_record(state: Path) -> Record:
    """The host's record in state directory `state`; empty when there is none.

    A record that cannot be read stops the installer: forgetting generations would open the door that it closes.
    Raises JournalUnwritable.
    """
    path = state / FILE
    try:
        return record_from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Record()
    except (OSError, ValueError) as fault:
        raise JournalUnwritable(detail=f"{path}: {fault}") from fault


def record_admission(state: Path, entry: Admitted, cluster_record: Record | None = None) -> Record:
    """Add `entry` (and what the cluster remembers) to the host's record and return it. Raises JournalUnwritable."""
    record = read_record(state).union(cluster_record or Record()).with_admission(entry)
    try:
        write_durably(state / FILE, record_to_json(record).encode(), 0o600)
    except OSError as fault:
        raise JournalUnwritable(detail=str(fault)) from fault
    return record


def now() -> datetime:
    """The site's clock: windows of validity are judged by it."""
    return datetime.now(UTC)

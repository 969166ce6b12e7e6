"""What this host remembers of its last complete seeding: the right to a quick one.

It holds only for the same manifest at the same run of the registry: a restart forgets it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sitebundle.atomic import write_durably
from sitebundle.digest import Digest

FILE = "seeded.json"


@dataclass(frozen=True)
class SeedRecord:
    """Manifest `manifest` was completely seeded to `registry` (host:port) in its run `start_id`, at epoch `at`."""

    registry: str
    start_id: str
    manifest: Digest
    at: float


def read_seed_record(state: Path) -> SeedRecord | None:
    """The record in state directory `state`; None when there is none that can be read: seeding in full is safe."""
    try:
        fields = json.loads((state / FILE).read_text())
        return SeedRecord(
            str(fields["registry"]), str(fields["start_id"]), Digest(fields["manifest"]), float(fields["at"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_seed_record(state: Path, record: SeedRecord) -> None:
    """Remember a complete seeding."""
    write_durably(state / FILE, json.dumps(asdict(record)).encode(), 0o600)


def forget_seed_record(state: Path) -> None:
    """From now on nothing is known: a seeding is under way."""
    (state / FILE).unlink(missing_ok=True)

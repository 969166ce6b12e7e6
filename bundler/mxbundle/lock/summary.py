"""What a lock comes to, for people and for machines: counts, unique bytes, what moved. Text only, no printing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mxbundle.lock.compute import Change
from mxbundle.lock.model import Lock
from sitebundle.units import bytes_for_people


@dataclass(frozen=True)
class Summary:
    """Counts of one lock, and its differences from the one before. `unique_bytes`: every blob counted once."""

    path: Path
    images: int
    charts: int
    files: int
    crds: int
    tools: int
    unique_bytes: int
    changes: tuple[Change, ...]

    @classmethod
    def of(cls, lock: Lock, changes: Sequence[Change], path: Path) -> Summary:
        """Count `lock`."""
        return cls(
            path=path,
            images=len(lock.images),
            charts=len(lock.charts),
            files=len(lock.files),
            crds=len(lock.crds),
            tools=len(lock.tools),
            unique_bytes=lock.unique_bytes,
            changes=tuple(changes),
        )

    def as_json(self) -> dict[str, Any]:
        """The summary as plain values."""
        return {**asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        head = (
            f"{self.path}: {self.images} images, {bytes_for_people(self.unique_bytes)} in unique blobs; "
            f"{self.charts} charts, {self.files} manifest files, {self.crds} CRDs, {self.tools} tools"
        )
        moved = [f"  {change}" for change in self.changes]
        return "\n".join([head, *(moved or ["  nothing moved"])])

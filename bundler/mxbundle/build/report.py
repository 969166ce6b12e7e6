"""What `mxbundle build` says at its end, and what it says beforehand when it is asked to write nothing. Text only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sitebundle.digest import Digest
from sitebundle.units import bytes_for_people


@dataclass(frozen=True)
class BuildReport:
    """What was built. Bytes: of the archive, fetched over the network, kept from an earlier run.

    `changed` is false when the output already was what was asked for, signatures aside.
    """

    output: Path
    manifest_digest: Digest
    generation: int
    images: int
    archive_bytes: int
    layer_bytes: int
    fetched_bytes: int
    kept_bytes: int
    seconds: float
    signed_by: str | None
    changed: bool = True

    def as_json(self) -> dict[str, Any]:
        """The report as the JSON face prints it."""
        return {**asdict(self), "output": str(self.output), "seconds": round(self.seconds, 3)}

    def __str__(self) -> str:
        size = bytes_for_people(self.archive_bytes)
        about = f"{self.output}: generation {self.generation}, {self.images} images, {size}"
        if not self.changed:
            return "\n".join((f"{about}\nnothing to do: it is already what was asked for", *self._identity()))
        kept = f", {bytes_for_people(self.kept_bytes)} were there from an earlier run" if self.kept_bytes else ""
        layers = f"layers: {bytes_for_people(self.layer_bytes)}, {bytes_for_people(self.fetched_bytes)} fetched{kept}"
        return "\n".join((f"{about} in {self.seconds:.1f} s", layers, *self._identity()))

    def _identity(self) -> tuple[str, str]:
        return f"manifest {self.manifest_digest}", f"signed by {self.signed_by}" if self.signed_by else "not signed"


@dataclass(frozen=True)
class BuildPreview:
    """What a build would do. Bytes: of layers, of documents and programs, free where the output would lie."""

    output: Path
    generation: int
    images: int
    layers: int
    layer_bytes: int
    small_bytes: int
    free_bytes: int
    finished: bool

    def as_json(self) -> dict[str, Any]:
        """The preview as the JSON face prints it."""
        return {**asdict(self), "output": str(self.output)}

    def __str__(self) -> str:
        about = f"{self.output}: generation {self.generation}, {self.images} images"
        if self.finished:
            return f"{about}\nnothing to do: it is already what was asked for"
        layers, small, free = map(bytes_for_people, (self.layer_bytes, self.small_bytes, self.free_bytes))
        return (
            f"{about}\nto fetch: {self.layers} layers with {layers}; documents and programs with {small}\n"
            f"free in {self.output.absolute().parent}: {free}\nnothing was written"
        )

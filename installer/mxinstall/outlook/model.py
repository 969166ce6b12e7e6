"""The values of an outlook. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from mxinstall.deploy.inventory import Deployed

Action = Literal["create", "change", "replace", "delete", "keep", "run"]
"""`replace`: a dry run was refused. `keep`: it leaves the release and stays. `run`: a hook of helm's."""


@dataclass(frozen=True)
class FieldChange:
    """One field of an object: `before` or `after` is None where there is none. Secrets are already hidden."""

    path: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.before is None:
            return f"+ {self.path}: {self.after}"
        if self.after is None:
            return f"- {self.path}: {self.before}"
        return f"~ {self.path}: {self.before} -> {self.after}"


@dataclass(frozen=True)
class ObjectChange:
    """What becomes of one object. `note`: what the server said against a dry run, or why something is so."""

    object: Deployed
    action: Action
    fields: tuple[FieldChange, ...] = ()
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "object": str(self.object),
            "api_version": self.object.api_version,
            "action": self.action,
            "fields": [vars(change) for change in self.fields],
            "note": self.note,
        }


@dataclass(frozen=True)
class Restart:
    """Pods that end: `pods` of them, of `workload` (`Kind/namespace/name`); `how` says in which order or why."""

    workload: str
    pods: int
    how: str


@dataclass(frozen=True)
class Expectation:
    """How long a stage should take. `seconds` None: not measured here yet. `basis`: from what it follows."""

    stage: str
    seconds: float | None
    basis: str


@dataclass(frozen=True)
class Outlook:
    """Everything that an install would do. `objects`: release -> changes; bytes are those the registry lacks."""

    generation: int
    bytes_to_move: int
    images_missing: tuple[str, ...]
    images: int
    objects: dict[str, tuple[ObjectChange, ...]]
    restarts: tuple[Restart, ...]
    durations: tuple[Expectation, ...]
    for_good: tuple[str, ...]
    around: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What is made or changed beside the releases: namespaces, secrets, CRDs, certificates."""

    @property
    def nothing_to_do(self) -> bool:
        """Whether the install would change nothing at all."""
        return not (self.bytes_to_move or any(self.objects.values()) or any(self.around.values()))

    @property
    def known_seconds(self) -> float:
        """The sum of what was measured."""
        return sum(entry.seconds for entry in self.durations if entry.seconds is not None)

    @property
    def unknown(self) -> tuple[str, ...]:
        """The stages for which this site has no measurement yet."""
        return tuple(entry.stage for entry in self.durations if entry.seconds is None)

    def as_json(self) -> dict[str, Any]:
        """As plain values, for `--json`."""
        return {
            "nothing_to_do": self.nothing_to_do,
            "bytes_to_move": self.bytes_to_move,
            "images": self.images,
            "images_missing": list(self.images_missing),
            "objects": {name: [change.as_json() for change in changes] for name, changes in self.objects.items()},
            "around": {name: list(names) for name, names in self.around.items()},
            "restarts": [vars(restart) for restart in self.restarts],
            "durations": [vars(entry) for entry in self.durations],
            "known_seconds": round(self.known_seconds, 1),
            "not_measured": list(self.unknown),
            "for_good": list(self.for_good),
        }

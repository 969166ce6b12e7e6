"""What happens, as typed values that a domain function gives to a sink; faces (terminal, plain, JSON) subscribe.

Totals are unique bytes, fixed before the first byte moves, and `done_bytes` never goes backwards. No printing here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal


@dataclass(frozen=True)
class Event:
    """Something that happened. `at` is seconds since the epoch."""

    kind: ClassVar[str] = ""
    at: float = field(default_factory=time.time, kw_only=True)

    def as_json(self) -> dict[str, Any]:
        """The event as one JSON line."""
        return {"event": self.kind, **asdict(self)}


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage begins; `total_bytes` is what it will move, 0 when it moves nothing."""

    kind = "stage-started"
    stage: str
    title: str
    total_bytes: int = 0


@dataclass(frozen=True)
class Progress(Event):
    """`done_bytes` of the stage's unique bytes are done; `detail` names what is under way."""

    kind = "progress"
    stage: str
    done_bytes: int
    total_bytes: int
    detail: str = ""


@dataclass(frozen=True)
class Step(Event):
    """One named thing inside a stage came to an end (a release deployed, a check judged, a proof step)."""

    kind = "step"
    stage: str
    id: str
    verdict: Literal["ok", "warn", "fail", "skipped", "unchanged", "not-checked"]
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Note(Event):
    """Something a person should read; never needed to follow the run."""

    kind = "note"
    level: Literal["info", "warning"]
    text: str


@dataclass(frozen=True)
class Retried(Event):
    """Something failed in passing and is tried again."""

    kind = "retried"
    what: str
    attempt: int
    why: str


@dataclass(frozen=True)
class StageFinished(Event):
    """A stage ended well; `moved_bytes` were really moved (less than the total when some were there already)."""

    kind = "stage-finished"
    stage: str
    seconds: float
    moved_bytes: int = 0
    detail: str = ""


Sink = Callable[[Event], None]


def silent(event: Event) -> None:
    """A sink that listens to nothing."""


@dataclass
class StageTally:
    """What a running stage counts for its last event."""

    moved_bytes: int = 0
    detail: str = ""


@contextmanager
def stage(sink: Sink, name: str, title: str, total_bytes: int = 0) -> Iterator[StageTally]:
    """Announce a stage, yield its tally, and announce its end when the block ends well."""
    started = time.monotonic()
    tally = StageTally()
    sink(StageStarted(name, title, total_bytes))
    yield tally
    sink(StageFinished(name, time.monotonic() - started, tally.moved_bytes, tally.detail))

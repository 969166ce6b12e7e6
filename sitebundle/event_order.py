"""The rules that a well-behaved event stream keeps, checked while it flows. For tests and debugging.

It changes nothing and hides nothing: the first event that breaks a rule raises in the domain code that sent it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from sitebundle.events import Event, Progress, Sink, StageFinished, StageStarted, silent


class EventsOutOfOrder(AssertionError):
    """A stage's events contradict each other: our bug, never the user's."""


@dataclass
class _Running:
    total_bytes: int
    done_bytes: int = 0


def in_order(sink: Sink = silent) -> Sink:
    """`sink`, with every event checked first. Raises EventsOutOfOrder from the offending call.

    The rules: a stage starts before it progresses or ends, and not twice at once; its total is fixed from its
    first event on; `done_bytes` never goes backwards and never passes the total.
    """
    lock = threading.Lock()
    running: dict[str, _Running] = {}

    def check(event: Event) -> None:
        match event:
            case StageStarted():
                if event.stage in running:
                    raise EventsOutOfOrder(f"stage {event.stage} started twice")
                running[event.stage] = _Running(event.total_bytes)
            case Progress():
                _progress(running, event)
            case StageFinished():
                if running.pop(event.stage, None) is None:
                    raise EventsOutOfOrder(f"stage {event.stage} finished but never started")

    def checked(event: Event) -> None:
        with lock:
            check(event)
        sink(event)

    return checked


def _progress(running: dict[str, _Running], event: Progress) -> None:
    stage = running.get(event.stage)
    if stage is None:
        raise EventsOutOfOrder(f"stage {event.stage} progressed before it started")
    if event.total_bytes != stage.total_bytes:
        raise EventsOutOfOrder(f"stage {event.stage} changed its total: {stage.total_bytes} to {event.total_bytes}")
    if event.done_bytes < stage.done_bytes:
        raise EventsOutOfOrder(f"stage {event.stage} went back from {stage.done_bytes} to {event.done_bytes} bytes")
    if event.done_bytes > stage.total_bytes:
        raise EventsOutOfOrder(f"stage {event.stage} did {event.done_bytes} of {stage.total_bytes} bytes")
    stage.done_bytes = event.done_bytes

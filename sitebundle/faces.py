"""Three faces of one event stream: a live terminal, plain lines, JSON lines. Presentation only, no domain.

A face shows what it is told and clamps nothing: an event that goes backwards is a bug of whoever sent it
(`sitebundle.event_order` finds it in tests).
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TextIO

from sitebundle.events import Event, Note, Progress, Retried, Sink, StageFinished, StageStarted, Step
from sitebundle.units import bytes_for_people

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

Mode = Literal["rich", "plain", "json"]

PLAIN_INTERVAL_SECONDS = 5.0
"""A stage's progress is written at most this often as a plain line; its last event always is."""


@contextmanager
def face(mode: Mode, stream: TextIO | None = None) -> Iterator[Sink]:
    """A sink that shows events on `stream` (standard output if none) until the block ends.

    Events may come from several threads at once; each is shown whole.
    """
    out = stream if stream is not None else sys.stdout
    if mode == "json":
        yield _whole(JsonFace(out))
    elif mode == "plain":
        yield _whole(PlainFace(out))
    else:
        with _live_face(out) as live:
            yield _whole(live)


class JsonFace:
    """One JSON object per line and event, as `Event.as_json` gives it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        self._stream.write(json.dumps(event.as_json(), ensure_ascii=False, default=str) + "\n")
        self._stream.flush()


class PlainFace:
    """One line per event for logs and pipes; progress lines are limited in rate, per stage."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._next: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        line = self._line(event)
        if line is not None:
            self._stream.write(line + "\n")
            self._stream.flush()

    def _line(self, event: Event) -> str | None:
        match event:
            case StageStarted():
                size = f" ({bytes_for_people(event.total_bytes)})" if event.total_bytes else ""
                self._next[event.stage] = self._clock() + PLAIN_INTERVAL_SECONDS
                return f"[{event.stage}] {event.title}{size}"
            case Progress():
                return self._progress(event)
            case Step():
                return f"[{event.stage}] {step_for_people(event)}"
            case StageFinished():
                return f"[{event.stage}] {end_for_people(event)}"
            case Note():
                return f"{'warning: ' if event.level == 'warning' else ''}{event.text}"
            case Retried():
                return f"retry {event.attempt} of {event.what}: {event.why}"
        return None

    def _progress(self, event: Progress) -> str | None:
        now = self._clock()
        complete = event.done_bytes >= event.total_bytes
        if now < self._next.get(event.stage, 0.0) and not complete:
            return None
        self._next[event.stage] = now + PLAIN_INTERVAL_SECONDS
        share = 100 * event.done_bytes // event.total_bytes if event.total_bytes else 100
        amount = f"{bytes_for_people(event.done_bytes)} of {bytes_for_people(event.total_bytes)}"
        return f"[{event.stage}] {share:3d} %  {amount}  {event.detail}".rstrip()


class LiveFace:
    """A terminal's bars of unique bytes, one per running stage, with finished steps scrolling above them."""

    def __init__(self, console: Console, bars: Bars) -> None:
        self._console = console
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case StageStarted():
                self._tasks[event.stage] = self._bars.add_task(event.title, total=event.total_bytes or None)
            case Progress():
                task = self._tasks.get(event.stage)
                if task is None:
                    task = self._tasks[event.stage] = self._bars.add_task(event.stage, total=event.total_bytes)
                self._bars.update(task, completed=event.done_bytes, total=event.total_bytes)
            case Step():
                self._print(f"  {step_for_people(event)}", _STYLES[event.verdict])
            case StageFinished():
                task = self._tasks.pop(event.stage, None)
                title = event.stage
                if task is not None:
                    title = next(row.description for row in self._bars.tasks if row.id == task)
                    self._bars.remove_task(task)
                self._print(f"{title}: {end_for_people(event)}", "bold")
            case Note():
                self._print(event.text, "yellow" if event.level == "warning" else "")
            case Retried():
                self._print(f"retry {event.attempt} of {event.what}: {event.why}", "dim")

    def _print(self, text: str, style: str) -> None:
        self._console.print(text, style=style or None, markup=False, highlight=False)


_STYLES = {
    "ok": "green",
    "unchanged": "dim",
    "warn": "yellow",
    "fail": "bold red",
    "skipped": "dim",
    "not-checked": "dim",
}


def step_for_people(event: Step) -> str:
    """One step's line: verdict, id, what was seen, seconds when it took any."""
    took = f" ({event.seconds:.1f} s)" if event.seconds >= 0.05 else ""
    return f"{event.verdict:<9} {event.id}  {event.detail}".rstrip() + took


def end_for_people(event: StageFinished) -> str:
    """A finished stage's line: seconds, bytes really moved, what it says of itself."""
    moved = f", {bytes_for_people(event.moved_bytes)} moved" if event.moved_bytes else ""
    return f"done in {event.seconds:.1f} s{moved}" + (f": {event.detail}" if event.detail else "")


def _whole(face: Sink) -> Sink:
    lock = threading.Lock()

    def sink(event: Event) -> None:
        with lock:
            face(event)

    return sink


@contextmanager
def _live_face(stream: TextIO) -> Iterator[LiveFace]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        ProgressColumn,
        SpinnerColumn,
        Task,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars
    from rich.table import Column
    from rich.text import Text

    class Title(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text.from_markup(escape(task.description))

    class Moved(DownloadColumn):
        def render(self, task: Task) -> Text:
            return super().render(task) if task.total else Text("")

    class Speed(TransferSpeedColumn):
        def render(self, task: Task) -> Text:
            return super().render(task) if task.total else Text("")

    class Remaining(TimeRemainingColumn):
        def render(self, task: Task) -> Text:
            return super().render(task) if task.total else TimeElapsedColumn().render(task)

    console = Console(file=stream)
    title = Title(table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
    columns = (SpinnerColumn(), title, BarColumn(bar_width=16), Moved(), Speed(), Remaining(compact=True))
    with Bars(*columns, console=console, transient=True, expand=True) as bars:
        yield LiveFace(console, bars)

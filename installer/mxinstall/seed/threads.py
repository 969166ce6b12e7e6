"""One job for many things on a bounded number of threads, where one fault ends all.

Daemon threads rather than an executor's: whoever interrupts does not wait for a registry that hangs.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from threading import Event
from typing import TypeVar

_Thing = TypeVar("_Thing")
_Answer = TypeVar("_Answer")


NOTICE_SECONDS = 10.0
"""How long after a fault the others are waited for: one that talks to a registry that hangs may need minutes."""


class Stopped(Exception):
    """Another thread failed: this one's work is of no use any more. Never leaves `together`."""


def together(
    job: Callable[[_Thing], _Answer], things: Sequence[_Thing], workers: int, stop: Event | None = None
) -> list[_Answer]:
    """`job` of each thing, in their order, started in that order; the first fault sets `stop` and is raised.

    An interrupt sets `stop` too and leaves at once: what is under way ends by itself, or with the process.
    """
    ending, over = stop or Event(), Event()
    waiting = deque(enumerate(things))
    answers: dict[int, _Answer] = {}
    faults: list[BaseException] = []

    def work() -> None:
        while not ending.is_set():
            try:
                place, thing = waiting.popleft()  # Of a deque, so without a lock.
            except IndexError:
                return
            try:
                answers[place] = job(thing)
            except BaseException as fault:
                faults.append(fault)
                ending.set()
                over.set()
                return
            if len(answers) == len(things):
                over.set()

    threads = [
        threading.Thread(target=work, name=f"seed-{number}", daemon=True) for number in range(min(workers, len(things)))
    ]
    try:
        for thread in threads:
            thread.start()
        if threads:
            over.wait()
    finally:
        ending.set()
    deadline = time.monotonic() + NOTICE_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if faults:
        raise next((fault for fault in faults if not isinstance(fault, Stopped)), faults[0])
    return [answers[place] for place in range(len(things))]

"""One job for many things on a bounded number of threads, where one fault ends all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event
from typing import TypeVar

_Thing = TypeVar("_Thing")
_Answer = TypeVar("_Answer")


class Stopped(Exception):
    """Another thread failed: this one's work is of no use any more. Never leaves `together`."""


def together(
    job: Callable[[_Thing], _Answer], things: Sequence[_Thing], workers: int, stop: Event | None = None
) -> list[_Answer]:
    """`job` of each thing, in their order, started in that order; the first fault sets `stop` and is raised."""
    with ThreadPoolExecutor(workers, thread_name_prefix="seed") as pool:
        futures = [pool.submit(job, thing) for thing in things]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            faults = [fault for future in futures if future.done() and (fault := future.exception()) is not None]
            fault = next((fault for fault in faults if not isinstance(fault, Stopped)), None)
            if fault is None:
                return [future.result() for future in futures]
        finally:
            if stop is not None:
                stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    raise fault

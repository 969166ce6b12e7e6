"""Counting what is done across threads: unique bytes, never more than there are, never backwards."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from sitebundle.digest import Digest
from sitebundle.events import Progress, Sink

_PAUSE_SECONDS = 0.1


class Tally:
    """The bytes of one stage. Each digest counts up to its size, whoever reports it and however often."""

    def __init__(self, sink: Sink, stage: str, total_bytes: int) -> None:
        self._sink = sink
        self._stage = stage
        self._total = total_bytes
        self._done: dict[Digest, int] = {}
        self._sum = 0
        self._said = float("-inf")
        self._lock = threading.Lock()

    def add(self, digest: Digest, step: int, size: int, detail: str = "") -> None:
        """`step` more bytes of `digest`, which has `size`."""
        with self._lock:
            before = self._done.get(digest, 0)
            after = min(size, before + step)
            self._done[digest] = after
            self._sum += after - before
            now = time.monotonic()
            if now - self._said < _PAUSE_SECONDS and self._sum < self._total:
                return
            self._said = now
            # Inside the lock: two threads must not say their sums in the wrong order.
            self._sink(Progress(self._stage, self._sum, self._total, detail))

    def complete(self, digest: Digest, size: int, detail: str = "") -> None:
        """All of `digest` is done."""
        self.add(digest, size, size, detail)


@dataclass
class Counts:
    """What became of unique bytes: sent (`moved` counts what is sent twice, too), mounted, or there already."""

    moved: int = 0
    mounted: int = 0
    present: int = 0

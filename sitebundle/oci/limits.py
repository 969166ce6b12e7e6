"""How many requests one host gets at a time: grows by one per round of successes, halves when the host pushes back.

Additive increase, multiplicative decrease (RFC 5681's idea). It knows nothing of HTTP; `transport` tells it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

START = 8
CEILING = 16
ROUND_SECONDS = 1.0
"""Push-backs inside this time count once: they answer requests that were sent before the limit fell."""


class HostLimit:
    """A semaphore whose size adapts, shared by all threads that talk to one host."""

    def __init__(self, start: int = START, ceiling: int = CEILING, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = float(start)
        self._ceiling = ceiling
        self._clock = clock
        self._in_flight = 0
        self._closed_until = 0.0
        self._last_fall = float("-inf")
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        """Requests allowed at the same time now."""
        return int(self._limit)

    @property
    def in_flight(self) -> int:
        """Requests that have a permit now."""
        return self._in_flight

    def acquire(self) -> None:
        """Wait until the host may be asked once more."""
        with self._changed:
            while True:
                pause = self._closed_until - self._clock()
                if pause <= 0 and self._in_flight < int(self._limit):
                    self._in_flight += 1
                    return
                self._changed.wait(timeout=pause if pause > 0 else 1.0)

    def release(self) -> None:
        """One request is over, well or not."""
        with self._changed:
            self._in_flight -= 1
            self._changed.notify()

    def succeeded(self) -> None:
        """The host answered: after a whole round of answers one more request is allowed."""
        with self._changed:
            self._limit = min(float(self._ceiling), self._limit + 1 / self._limit)
            self._changed.notify()

    def pushed_back(self, pause_seconds: float = 0.0) -> None:
        """The host is overloaded (429, 503, timeout): halve, and ask nothing for `pause_seconds`."""
        with self._changed:
            now = self._clock()
            self._closed_until = max(self._closed_until, now + pause_seconds)
            if now - self._last_fall >= ROUND_SECONDS:
                self._last_fall = now
                self._limit = max(1.0, self._limit / 2)


_limits: dict[str, HostLimit] = {}
_limits_lock = threading.Lock()


def limit_of(host: str) -> HostLimit:
    """The one limit of `host` (`name:port`) in this process."""
    with _limits_lock:
        return _limits.setdefault(host, HostLimit())

"""What may be tried again, and how long to wait: by the type of the fault, with backoff, jitter and a patience.

Not here: the request itself (`transport`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sitebundle.errors import MxError, RegistryRefused, RegistryUnreachable
from sitebundle.events import Retried, Sink

PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
PUSH_BACK_STATUSES = frozenset({429, 503})
ENOUGH_PROGRESS_BYTES = 64 * 1024
"""A transfer that got this far since its last fault is patient again."""
MOST_FAULTS = 200
"""Of one transfer, however much progress lies between them."""


class Passing(Exception):
    """A fault that may pass when the same thing is tried again; never leaves `sitebundle.oci`."""

    def __init__(self, why: str, *, status: int | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.status = status
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True)
class RetryPolicy:
    """Waits of `base_seconds` × 2ⁿ with full jitter, at most `cap_seconds`; Retry-After goes first, capped too."""

    attempts: int = 6
    base_seconds: float = 0.5
    cap_seconds: float = 20.0
    retry_after_cap_seconds: float = 60.0
    sleep: Callable[[float], None] = time.sleep

    def wait_seconds(self, attempt: int, retry_after_seconds: float | None) -> float:
        """How long to wait after failed attempt number `attempt`, which counts from 1."""
        if retry_after_seconds is not None:
            return min(max(retry_after_seconds, 0.0), self.retry_after_cap_seconds)
        longest = min(self.cap_seconds, self.base_seconds * 2 ** (attempt - 1))
        return random.uniform(longest / 4, longest)


class Patience:
    """How often one action was tried; `wait` sleeps, or raises the error that ends it."""

    def __init__(self, policy: RetryPolicy, registry: str, action: str, sink: Sink) -> None:
        self._policy = policy
        self._registry = registry
        self._action = action
        self._sink = sink
        self._attempt = 0
        self._faults = 0
        self._bytes_since_fault = 0

    def progressed(self, size_bytes: int) -> None:
        """Bytes arrived: enough of them, and earlier faults are forgiven."""
        self._bytes_since_fault += size_bytes
        if self._bytes_since_fault >= ENOUGH_PROGRESS_BYTES:
            self._attempt = 0

    def wait(self, fault: Passing) -> None:
        """Sleep before the next attempt. Raises RegistryUnreachable or RegistryRefused when it was the last."""
        self._attempt += 1
        self._faults += 1
        self._bytes_since_fault = 0
        if self._attempt >= self._policy.attempts or self._faults >= MOST_FAULTS:
            raise self._end(fault) from fault
        self._sink(Retried(what=f"{self._action} at {self._registry}", attempt=self._attempt, why=fault.why))
        self._policy.sleep(self._policy.wait_seconds(self._attempt, fault.retry_after_seconds))

    def _end(self, fault: Passing) -> MxError:
        tries = f"{fault.why} ({self._attempt} attempts: {self._action})"
        if fault.status is not None and fault.status < 500:
            return RegistryRefused(registry=self._registry, action=self._action, status=fault.status, detail=tries)
        return RegistryUnreachable(registry=self._registry, detail=tries)


def retry_after_seconds(header: str | None, now: datetime | None = None) -> float | None:
    """The seconds that a Retry-After header asks for (RFC 9110 §10.2.3); None when it is missing or malformed."""
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header.strip())
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())

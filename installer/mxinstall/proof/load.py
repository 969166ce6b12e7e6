"""Many messages at a steady rate while something breaks, and the count of what came of each.

`judge` is pure. Not here: what breaks (`faults`) and how a message is sent (`matrix`).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from mxinstall.proof.matrix import MatrixError, Message, Session, gap_of_room, texts_of_room

SENDERS_AT_MOST = 2048
"""Threads that wait for acknowledgements: one a message that may be waiting at once."""


@dataclass(frozen=True)
class Sent:
    """One message's fate; times are seconds since the load began."""

    body: str
    first_tried_at: float
    tries: int
    acknowledged_at: float | None = None
    event_id: str | None = None


@dataclass(frozen=True)
class Load:
    """Every message of a load, and when the fault was injected."""

    sent: tuple[Sent, ...]
    fault_at: float
    ended_at: float = 0.0

    @property
    def per_second(self) -> float:
        """The rate at which messages were first tried."""
        times = [one.first_tried_at for one in self.sent]
        span = max(times) - min(times) if times else 0.0
        return (len(times) - 1) / span if span else 0.0

    @property
    def acknowledged(self) -> tuple[Sent, ...]:
        """Those whose event id came back."""
        return tuple(one for one in self.sent if one.event_id is not None)

    @property
    def unacknowledged(self) -> tuple[Sent, ...]:
        """Those that were never answered with an event id."""
        return tuple(one for one in self.sent if one.event_id is None)

    @property
    def retried(self) -> int:
        """How many needed more than one try."""
        return sum(one.tries > 1 for one in self.sent)

    @property
    def longest_silence_seconds(self) -> float:
        """The longest time without any acknowledgement from the fault on; a silence that never ended counts too."""
        times = sorted(one.acknowledged_at for one in self.sent if one.acknowledged_at is not None)
        after = [self.fault_at, *(at for at in times if at > self.fault_at), max(self.ended_at, self.fault_at)]
        return max((later - earlier for earlier, later in itertools.pairwise(after)), default=0.0)

    @property
    def recovered(self) -> bool:
        """Whether the last message was acknowledged: the system takes messages again."""
        return bool(self.sent) and self.sent[-1].acknowledged_at is not None


@dataclass(frozen=True)
class Judgement:
    """What a fresh reader finds of a load."""

    lost: tuple[str, ...]
    arrived_unacknowledged: int
    repeated: int


def judge(load: Load, history: Iterable[Message]) -> Judgement:
    """Compare a load with what is in the room: lost is what was acknowledged and is not there under its event id."""
    found = list(history)
    there = {(message.event_id, message.body) for message in found}
    bodies = Counter(message.body for message in found)
    lost = tuple(one.body for one in load.acknowledged if (one.event_id, one.body) not in there)
    arrived = sum(bodies[one.body] > 0 for one in load.unacknowledged)
    repeated = sum(bodies[one.body] > 1 for one in load.sent)
    return Judgement(lost, arrived, repeated)


def send_load(
    session: Session,
    room_id: str,
    name: str,
    *,
    count: int,
    per_second: float,
    patience_seconds: float,
    fault: Callable[[], object],
    fault_after: int,
) -> Load:
    """Send `count` messages, message k at k / `per_second` seconds, each tried again with its own transaction id for
    at most `patience_seconds`; call `fault` once, when `fault_after` messages have been started.

    Bounded: it ends at the latest `patience_seconds` and one request after the last message was started. Raises
    ValueError when the fault would never come.
    """
    if not 0 <= fault_after < count:
        raise ValueError(f"the fault after {fault_after} of {count} messages would never come")
    began = time.monotonic()

    def elapsed() -> float:
        return time.monotonic() - began

    def send(number: int) -> Sent:
        body = f"{name} message {number:05d}"
        first, end = elapsed(), time.monotonic() + patience_seconds
        for tries in itertools.count(1):
            try:
                event_id = session.send(
                    room_id, body, f"{name}-{number:05d}", patience_seconds=0.0, timeout_seconds=20.0
                )
            except MatrixError as refused:
                # Like a client: back off, then say the same thing again under the same transaction id.
                pause = max(min(0.5 * tries, 4.0), getattr(refused, "retry_after_seconds", 0.0))
                if time.monotonic() + pause >= end:
                    return Sent(body, first, tries)
                time.sleep(pause)
            else:
                return Sent(body, first, tries, elapsed(), event_id)
        raise AssertionError("unreachable")

    fault_at = 0.0
    with ThreadPoolExecutor(min(SENDERS_AT_MOST, count + 1), "proof-sender") as senders:
        waiting = []
        for number in range(count):
            if number == fault_after:
                fault_at = elapsed()
                waiting_fault = senders.submit(fault)
            time.sleep(max(0.0, number / per_second - elapsed()))
            waiting.append(senders.submit(send, number))
        waiting_fault.result()
        sent = tuple(future.result() for future in waiting)
    last = max((one.acknowledged_at or 0.0 for one in sent), default=0.0)
    # After the last acknowledgement there is silence only where somebody still waited for one.
    return Load(sent, fault_at, last if sent[-1].acknowledged_at is not None else elapsed())


@dataclass
class Heard:
    """What a device that keeps syncing heard, and the longest time that no sync was answered."""

    event_ids: set[str] = field(default_factory=set)
    longest_silence_seconds: float = 0.0
    failures: int = 0


@contextmanager
def keep_syncing(session: Session, room_id: str) -> Iterator[Heard]:
    """A client that syncs in the background for the length of the block, through whatever happens to the servers."""
    heard, ended = Heard(), threading.Event()
    start = session.sync()
    known = {message.event_id for message in texts_of_room(start, room_id)}
    since = str(start["next_batch"])

    def missed(gap: str) -> Iterator[str]:
        """What is between the gap's end and what was heard before."""
        for message in session.history(room_id, before=gap):
            if message.event_id in known or message.event_id in heard.event_ids:
                return
            yield message.event_id

    def listen(since: str) -> None:
        last = time.monotonic()
        while not ended.is_set():
            try:
                answer = session.sync(since, timeout_seconds=2, request_timeout_seconds=15.0)
                gap = gap_of_room(answer, room_id)
                between = set(missed(gap)) if gap else set()
            except MatrixError:
                heard.failures += 1
                ended.wait(0.25)
                continue
            since = str(answer["next_batch"])
            heard.event_ids |= between | {message.event_id for message in texts_of_room(answer, room_id)}
            heard.longest_silence_seconds = max(heard.longest_silence_seconds, time.monotonic() - last)
            last = time.monotonic()

    listener = threading.Thread(target=listen, args=(since,), name="proof-listener")
    listener.start()
    try:
        yield heard
    finally:
        ended.set()
        listener.join()

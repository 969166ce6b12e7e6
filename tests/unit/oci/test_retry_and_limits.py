from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitebundle.errors import RegistryRefused, RegistryUnreachable
from sitebundle.events import Event, Retried
from sitebundle.oci.limits import CEILING, HostLimit
from sitebundle.oci.retry import ENOUGH_PROGRESS_BYTES, MOST_FAULTS, Passing, Patience, RetryPolicy, retry_after_seconds


@given(attempt=st.integers(1, 1000))
def test_a_wait_is_never_longer_than_the_cap(attempt: int) -> None:
    assert 0 < RetryPolicy(base_seconds=0.5, cap_seconds=20).wait_seconds(attempt, None) <= 20


@given(asked=st.floats(-10, 1e9))
def test_a_registry_cannot_make_us_wait_longer_than_the_cap(asked: float) -> None:
    assert 0 <= RetryPolicy(retry_after_cap_seconds=60).wait_seconds(1, asked) <= 60


NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
    ],
)
def test_retry_after_is_read_in_both_of_its_forms(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW) == seconds


def patience(attempts: int, waits: list[float], events: list[Event]) -> Patience:
    return Patience(RetryPolicy(attempts=attempts, sleep=waits.append), "r:5000", "blob x", events.append)


def test_patience_ends_after_the_last_attempt_and_says_what_was_seen() -> None:
    waits: list[float] = []
    events: list[Event] = []
    action = patience(3, waits, events)
    action.wait(Passing("cut"))
    action.wait(Passing("cut again"))
    with pytest.raises(RegistryUnreachable, match=r"cut for good \(3 attempts: blob x\)"):
        action.wait(Passing("cut for good"))
    assert len(waits) == 2
    assert [event.attempt for event in events if isinstance(event, Retried)] == [1, 2]


def test_a_lasting_429_is_a_refusal_and_a_lasting_503_an_absence() -> None:
    with pytest.raises(RegistryRefused) as refused:
        patience(1, [], []).wait(Passing("429 Too Many Requests", status=429))
    assert refused.value.fields["status"] == 429
    with pytest.raises(RegistryUnreachable):
        patience(1, [], []).wait(Passing("503", status=503))


def test_progress_renews_patience_but_not_for_ever() -> None:
    action = patience(2, [], [])
    for _ in range(10):
        action.wait(Passing("cut"))
        action.progressed(ENOUGH_PROGRESS_BYTES)
    action = patience(2, [], [])
    for _ in range(MOST_FAULTS - 1):
        action.wait(Passing("cut"))
        action.progressed(ENOUGH_PROGRESS_BYTES)
    with pytest.raises(RegistryUnreachable):
        action.wait(Passing("cut"))


def test_a_trickle_does_not_renew_patience() -> None:
    action = patience(3, [], [])
    for _ in range(2):
        action.wait(Passing("cut"))
        action.progressed(1)
    with pytest.raises(RegistryUnreachable):
        action.wait(Passing("cut"))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_limit_halves_once_per_round_and_never_falls_below_one() -> None:
    clock = Clock()
    limit = HostLimit(start=8, clock=clock)
    limit.pushed_back()
    limit.pushed_back()
    assert limit.limit == 4, "answers to the same burst counted twice"
    for _ in range(10):
        clock.now += 1
        limit.pushed_back()
    assert limit.limit == 1


@given(st.integers(0, 2000))
def test_the_limit_grows_with_success_and_stops_at_its_ceiling(successes: int) -> None:
    limit = HostLimit(start=1)
    for _ in range(successes):
        limit.succeeded()
    assert 1 <= limit.limit <= CEILING
    assert successes < 200 or limit.limit == CEILING

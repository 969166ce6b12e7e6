"""A step that fails now and then is no proof that an edge is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest

from tests.matrix import edges
from tests.matrix.registry import Wrong

RULE = {"metadata": {"namespace": "matrix", "name": "some-edge-out"}}


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(10_000))
    monkeypatch.setattr(edges.time, "monotonic", lambda: float(next(now)))
    monkeypatch.setattr(edges.time, "sleep", lambda _seconds: None)


def saying(faults: Iterable[str]) -> Callable[[], str]:
    told: Iterator[str] = iter(faults)
    return lambda: next(told)


def test_a_step_that_goes_on_failing_has_failed() -> None:
    seen = edges._must_fail(saying(["", *["no"] * 10]), "messages", RULE, {})
    assert seen["tries_without_it"] == 1 + seen["failed_in_a_row"]
    assert seen["failed_in_a_row"] >= edges.FAILURES
    assert seen["failed_for_seconds"] >= edges.FAILING_SECONDS
    assert seen["said"] == "no"


def test_a_step_that_fails_twice_and_passes_again_has_not_failed() -> None:
    flapping = ["no", "no", ""] * edges.TRIES
    with pytest.raises(Wrong, match=f"times in a row, after {edges.TRIES} tries"):
        edges._must_fail(saying(flapping), "messages", RULE, {})


def test_a_step_that_passes_all_the_time_has_not_failed() -> None:
    with pytest.raises(Wrong, match="fails only 0 times"):
        edges._must_fail(saying([""] * 2 * edges.TRIES), "messages", RULE, {})


def test_one_that_begins_anew_by_itself_must_be_down_for_longer() -> None:
    seen = edges._must_fail(saying(["no"] * 100), "messages", RULE, {}, 40.0)
    assert seen["failed_for_seconds"] >= 40.0
    with pytest.raises(Wrong, match="fails only 0 times"):
        edges._must_fail(saying(["no"] * 6 + [""] * 100), "messages", RULE, {}, 40.0)


def test_it_is_told_how_many_tries_a_pass_took() -> None:
    assert edges._must_pass(saying(["no", "no", ""]), "messages", {}, "before") == 3
    with pytest.raises(Wrong, match="does not pass before"):
        edges._must_pass(saying(["no"] * 10_000), "messages", {}, "before")


@pytest.mark.parametrize("late", ["one", "other"])
def test_a_rule_that_is_not_back_in_time_keeps_no_other_away(monkeypatch: pytest.MonkeyPatch, late: str) -> None:
    rules = [{"metadata": {"name": name}, "spec": {"podSelector": name}} for name in ("one", "other")]
    selects: dict[str, object] = {}

    def select(_trial: object, rule: dict[str, dict[str, str]], selector: object) -> None:
        selects[rule["metadata"]["name"]] = selector
        if selector == late:
            raise Wrong("it is not enforced in time")

    monkeypatch.setattr(edges, "_rules", lambda _trial, _edge: rules)
    monkeypatch.setattr(edges, "_select", select)
    monkeypatch.setattr(edges, "_forget_connections", lambda _trial, _ports: None)
    with pytest.raises(Wrong, match="in time"), edges._without(None, "another"):  # type: ignore[arg-type]
        assert selects == {"one": edges.NOBODY, "other": edges.NOBODY}
    assert selects == {"one": "one", "other": "other"}

"""What the three faces show of one event stream, and that a stream which goes backwards is found."""

from __future__ import annotations

import io
import json
import threading

import pytest

from sitebundle.event_order import EventsOutOfOrder, in_order
from sitebundle.events import Event, Note, Progress, Retried, StageFinished, StageStarted, Step, stage
from sitebundle.faces import PlainFace, face
from sitebundle.units import bytes_for_people

TOTAL_BYTES = 2_000_000_000


def a_run() -> list[Event]:
    """One stage with everything that may happen in it; text that a terminal could take for markup."""
    return [
        StageStarted("seed", "Seed the registry", TOTAL_BYTES),
        Progress("seed", 500_000_000, TOTAL_BYTES, "synapse"),
        Retried("blob [bold]sha256:00[/bold]", 2, "connection reset"),
        Step("seed", "synapse", "ok", "pushed [red]all[/red]", 1.25),
        Note("warning", "the registry is slow"),
        Progress("seed", TOTAL_BYTES, TOTAL_BYTES),
        StageFinished("seed", 12.34, 1_500_000_000, "500.0 MB were there"),
    ]


def shown(mode: str, events: list[Event]) -> str:
    stream = io.StringIO()
    with face(mode, stream) as sink:  # type: ignore[arg-type]
        for event in events:
            sink(event)
    return stream.getvalue()


def test_the_json_face_writes_one_complete_object_per_event() -> None:
    events = a_run()
    lines = shown("json", events).splitlines()
    assert [json.loads(line) for line in lines] == [event.as_json() for event in events]


def test_the_plain_face_says_stage_share_retry_step_and_end() -> None:
    text = shown("plain", a_run())
    assert text.splitlines() == [
        "[seed] Seed the registry (2.0 GB)",
        "retry 2 of blob [bold]sha256:00[/bold]: connection reset",
        "[seed] ok        synapse  pushed [red]all[/red] (1.2 s)",
        "warning: the registry is slow",
        "[seed] 100 %  2.0 GB of 2.0 GB",
        "[seed] done in 12.3 s, 1.5 GB moved: 500.0 MB were there",
    ]


def test_plain_progress_is_limited_in_rate_and_its_end_is_always_written() -> None:
    now = 0.0
    stream = io.StringIO()
    plain = PlainFace(stream, clock=lambda: now)
    plain(StageStarted("seed", "Seed", 1000))
    for done_bytes in range(0, 1001, 10):
        now = done_bytes / 100  # ten seconds in all
        plain(Progress("seed", done_bytes, 1000))
    shares = [line.split("%")[0].removeprefix("[seed]").strip() for line in stream.getvalue().splitlines()[1:]]
    assert shares == ["50", "100"]


def test_the_terminal_face_shows_what_happened_and_takes_no_text_for_markup() -> None:
    text = shown("rich", a_run())
    assert "pushed [red]all[/red]" in text
    assert "blob [bold]sha256:00[/bold]" in text
    assert "Seed the registry: done in 12.3 s, 1.5 GB moved" in text
    assert "warning" not in text.split("the registry is slow")[1]


def test_all_three_faces_take_events_of_a_stage_that_moves_no_bytes() -> None:
    for mode in ("rich", "plain", "json"):
        stream = io.StringIO()
        with face(mode, stream) as sink, stage(sink, "prove", "Prove it [works]"):
            sink(Step("prove", "login", "ok"))
        assert "login" in stream.getvalue()


def test_lines_from_parallel_threads_are_never_mixed() -> None:
    stream = io.StringIO()
    with face("json", stream) as sink:

        def send(name: str) -> None:
            for number in range(200):
                sink(Step("deploy", name, "ok", "x" * 200 + str(number)))

        threads = [threading.Thread(target=send, args=(f"release-{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(json.loads(line)["event"] == "step" for line in stream.getvalue().splitlines()) == 800


def test_a_terminal_that_breaks_off_midway_is_left_usable() -> None:
    stream = io.StringIO()
    before = set(threading.enumerate())

    def interrupted() -> None:
        with face("rich", stream) as sink:
            sink(StageStarted("seed", "Seed", 10))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert shown("plain", [Note("info", "after the end")]) == "after the end\n"
    for refresher in set(threading.enumerate()) - before:
        refresher.join(timeout=5)
        assert not refresher.is_alive()


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ([StageStarted("a", "A", 10), Progress("a", 7, 10), Progress("a", 6, 10)], "went back from 7 to 6"),
        ([StageStarted("a", "A", 10), Progress("a", 7, 12)], "changed its total"),
        ([StageStarted("a", "A", 10), Progress("a", 11, 10)], "did 11 of 10"),
        ([Progress("a", 1, 10)], "before it started"),
        ([StageStarted("a", "A"), StageStarted("a", "A")], "started twice"),
        ([StageFinished("a", 1.0)], "never started"),
    ],
)
def test_a_stream_that_contradicts_itself_is_found_where_it_is_sent(broken: list[Event], why: str) -> None:
    seen: list[Event] = []
    sink = in_order(seen.append)
    for event in broken[:-1]:
        sink(event)
    with pytest.raises(EventsOutOfOrder, match=why):
        sink(broken[-1])
    assert seen == broken[:-1]


def test_a_proper_stream_passes_the_check_untouched_and_a_stage_may_run_again() -> None:
    seen: list[Event] = []
    sink = in_order(seen.append)
    events = [*a_run(), *a_run()]
    for event in events:
        sink(event)
    assert seen == events


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (1_234_000, "1.2 MB"), (5_000_000_000_000, "5.0 TB")],
)
def test_bytes_are_told_in_decimal_units(count: int, text: str) -> None:
    assert bytes_for_people(count) == text

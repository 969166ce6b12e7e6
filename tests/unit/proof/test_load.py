"""Many messages across a fault: what the count says when a homeserver forgets, stalls, or answers and is not heard."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from mxinstall.proof.load import Load, Sent, judge, keep_syncing, send_load
from mxinstall.proof.matrix import Account, Homeserver, MatrixRefused, MatrixUnreachable, Message, Session

ROOM = "!room:test"


class Scripted(ThreadingHTTPServer):
    """A homeserver's send, messages and sync over loopback, with the faults that a test switches on."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.timeline: list[tuple[str, str]] = []
        self.by_transaction: dict[str, str] = {}
        self.forgets: set[str] = set()
        self.unheard: set[str] = set()
        self.down = False
        self.shows_at_most = 100
        self.guard = threading.Lock()
        self.requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def accept(self, transaction: str, body: str) -> str:
        with self.guard:
            if transaction not in self.by_transaction:
                self.by_transaction[transaction] = f"${len(self.by_transaction)}"
                if body not in self.forgets:
                    self.timeline.append((self.by_transaction[transaction], body))
            return self.by_transaction[transaction]


class _Handler(BaseHTTPRequestHandler):
    server: Scripted
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_PUT(self) -> None:
        self.server.requests += 1
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["body"]
        if self.server.down:
            return self._answer(503, {"errcode": "M_UNKNOWN", "error": "down"})
        event_id = self.server.accept(unquote(urlsplit(self.path).path.rsplit("/", 1)[1]), body)
        if body in self.server.unheard:
            self.server.unheard.discard(body)
            self.close_connection = True
            return None
        return self._answer(200, {"event_id": event_id})

    def do_GET(self) -> None:
        self.server.requests += 1
        with self.server.guard:
            events = [
                {"type": "m.room.message", "event_id": event_id, "sender": "@a:test", "content": {"body": body}}
                for event_id, body in self.server.timeline
            ]
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        if "/sync" in self.path:
            time.sleep(0.02)
            shown = events[int(asked.get("since", 0)) :]
            gap = max(0, len(shown) - self.server.shows_at_most)
            timeline = {"events": shown[gap:], "limited": gap > 0, "prev_batch": str(len(events) - len(shown) + gap)}
            room = {"timeline": timeline}
            return self._answer(200, {"next_batch": str(len(events)), "rooms": {"join": {ROOM: room}}})
        end = int(asked.get("from", len(events)))
        start = max(0, end - 7)
        more = {"end": str(start)} if start else {}
        return self._answer(200, {"chunk": events[start:end][::-1], **more})

    def _answer(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def homeserver() -> Iterator[Scripted]:
    server = Scripted()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def session_on(server: Scripted) -> Session:
    return Session(Homeserver(server.url), Account("@a:test", "secret"), "token", "DEVICE")


def send(server: Scripted, fault: object = None, count: int = 40, patience_seconds: float = 5.0) -> Load:
    return send_load(
        session_on(server),
        ROOM,
        "load",
        count=count,
        per_second=100.0,
        patience_seconds=patience_seconds,
        fault=fault if callable(fault) else lambda: None,
        fault_after=count // 4,
    )


def test_without_a_fault_everything_is_acknowledged_and_found_at_the_rate_that_was_asked(homeserver: Scripted) -> None:
    load = send(homeserver)
    judgement = judge(load, session_on(homeserver).history(ROOM, page=7))
    assert (len(load.acknowledged), len(load.unacknowledged), load.retried) == (40, 0, 0)
    assert (judgement.lost, judgement.arrived_unacknowledged, judgement.repeated) == ((), 0, 0)
    assert load.per_second > 50


def test_a_message_that_was_acknowledged_and_is_not_there_is_called_lost(homeserver: Scripted) -> None:
    homeserver.forgets = {"load message 00007", "load message 00031"}
    judgement = judge(send(homeserver), session_on(homeserver).history(ROOM))
    assert judgement.lost == ("load message 00007", "load message 00031")


def test_an_outage_is_ridden_out_and_its_length_is_told(homeserver: Scripted) -> None:
    def outage() -> None:
        homeserver.down = True
        threading.Timer(1.0, setattr, (homeserver, "down", False)).start()

    load = send(homeserver, outage)
    assert len(load.acknowledged) == 40
    assert load.retried > 0
    assert 0.9 < load.longest_silence_seconds < 3.0
    assert load.per_second > 50, "the schedule of first tries must not wait for the outage"
    assert judge(load, session_on(homeserver).history(ROOM)).lost == ()


def test_an_answer_that_was_not_heard_leads_to_the_same_message_not_to_a_second_one(homeserver: Scripted) -> None:
    homeserver.unheard = {"load message 00020"}
    load = send(homeserver)
    judgement = judge(load, session_on(homeserver).history(ROOM))
    assert (load.retried, len(load.acknowledged), judgement.repeated) == (1, 40, 0)


def test_sends_end_after_their_patience_and_are_counted_as_unacknowledged(homeserver: Scripted) -> None:
    started = time.monotonic()
    load = send(homeserver, lambda: setattr(homeserver, "down", True), patience_seconds=1.0)
    assert time.monotonic() - started < 5
    assert 25 <= len(load.unacknowledged) <= 35
    assert len(load.acknowledged) + len(load.unacknowledged) == 40


def test_what_arrived_though_nobody_was_told_is_counted_apart() -> None:
    load = Load((Sent("a", 0.0, 1, 0.1, "$a"), Sent("b", 0.1, 5), Sent("c", 0.2, 5)), 0.0)
    judgement = judge(load, [Message("$a", "@a:test", "a"), Message("$b", "@a:test", "b")])
    assert (judgement.lost, judgement.arrived_unacknowledged) == ((), 1)


def test_the_same_text_under_another_event_id_does_not_stand_for_the_acknowledged_one() -> None:
    load = Load((Sent("a", 0.0, 1, 0.1, "$a"),), 0.0)
    assert judge(load, [Message("$other", "@a:test", "a")]).lost == ("a",)


def test_a_message_that_is_there_twice_is_counted() -> None:
    load = Load((Sent("a", 0.0, 2, 0.1, "$a"),), 0.0)
    assert judge(load, [Message("$a", "@a:test", "a"), Message("$b", "@a:test", "a")]).repeated == 1


def test_a_client_in_the_background_hears_what_is_sent(homeserver: Scripted) -> None:
    with keep_syncing(session_on(homeserver), ROOM) as heard:
        load = send(homeserver, count=8)
        end = time.monotonic() + 5
        while len(heard.event_ids) < 8 and time.monotonic() < end:
            time.sleep(0.02)
    assert heard.event_ids == {one.event_id for one in load.acknowledged}


def test_a_client_that_is_shown_a_part_of_what_is_new_reads_the_rest_and_hears_nothing_older(
    homeserver: Scripted,
) -> None:
    before = send(homeserver, count=8)
    homeserver.shows_at_most = 3
    with keep_syncing(session_on(homeserver), ROOM) as heard:
        load = send_load(
            session_on(homeserver),
            ROOM,
            "burst",
            count=40,
            per_second=4000.0,
            patience_seconds=5.0,
            fault=lambda: None,
            fault_after=0,
        )
        end = time.monotonic() + 5
        while len(heard.event_ids) < 40 and time.monotonic() < end:
            time.sleep(0.02)
    assert heard.event_ids == {one.event_id for one in load.acknowledged}
    assert not heard.event_ids & {one.event_id for one in before.acknowledged}


def test_a_refusal_is_repeated_for_a_put_and_never_for_a_post(homeserver: Scripted) -> None:
    homeserver.down = True
    session = session_on(homeserver)
    with pytest.raises(MatrixRefused, match="503 M_UNKNOWN down"):
        session.send(ROOM, "a", "t", patience_seconds=1.0)
    assert homeserver.requests > 1
    homeserver.requests = 0
    with pytest.raises(MatrixRefused, match="501"):
        session.server.call("POST", "/anything", b"x", patience_seconds=1.0)
    assert homeserver.requests == 0


def test_no_homeserver_at_all_is_told_as_unreachable() -> None:
    server = Homeserver("http://127.0.0.1:9")
    with pytest.raises(MatrixUnreachable, match="GET /_matrix/client/versions"):
        server.call("GET", "/_matrix/client/versions", patience_seconds=0.5)

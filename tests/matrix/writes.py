"""One write of each kind that a stream writer answers, to be tried again and again across a fault."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from mxinstall.proof.matrix import MatrixUnreachable, Session

from tests.matrix.trial import People

Write = Callable[[], object]
ONE_TRY: dict[str, Any] = {"patience_seconds": 0.0, "timeout_seconds": 10.0}


def _path(*parts: str) -> str:
    return "/_matrix/client/v3/" + "/".join(quote(part, safe="") for part in parts)


def typing(people: People) -> Write:
    """Alice types, and stops."""
    me = people.alice
    flags = itertools.cycle((True, False))

    def write() -> object:
        body = {"typing": next(flags), "timeout": 30000}
        return _put(me, _path("rooms", people.room, "typing", me.account.user_id), body)

    return write


def to_device(people: People) -> Write:
    """A message to all of bob's devices."""

    def write() -> object:
        body = {"messages": {people.bob.account.user_id: {"*": {"n": secrets.token_hex(4)}}}}
        return _put(people.alice, _path("sendToDevice", "site.mxbundle.trial", secrets.token_hex(8)), body)

    return write


def account_data(people: People) -> Write:
    """Global account data of alice."""
    me = people.alice

    def write() -> object:
        body = {"n": secrets.token_hex(4)}
        return _put(me, _path("user", me.account.user_id, "account_data", "site.mxbundle.trial"), body)

    return write


def receipts(people: People) -> Write:
    """Alice has read what bob has just said."""

    def write() -> object:
        # A receipt that is there already is not written again, so there must be something new to read.
        fresh = people.bob.send(people.room, "read me", secrets.token_hex(8), **ONE_TRY)
        path = _path("rooms", people.room, "receipt", "m.read", fresh)
        return people.alice.json("POST", path, {}, **ONE_TRY)

    return write


def presence(people: People) -> Write:
    """Alice comes and goes."""
    states = itertools.cycle(("online", "unavailable"))

    def write() -> object:
        body = {"presence": next(states), "status_msg": secrets.token_hex(4)}
        return _put(people.alice, _path("presence", people.alice.account.user_id, "status"), body)

    return write


def push_rules(people: People) -> Write:
    """A push rule of alice."""

    def write() -> object:
        body = {"actions": ["notify"], "pattern": secrets.token_hex(6)}
        return _put(people.alice, _path("pushrules", "global", "content", "site.mxbundle.trial"), body)

    return write


def device_lists(people: People) -> Write:
    """Alice's device gets another name."""

    def write() -> object:
        return _put(people.alice, _path("devices", people.alice.device_id), {"display_name": secrets.token_hex(4)})

    return write


def _put(session: Session, path: str, body: dict[str, object]) -> object:
    return session.json("PUT", path, body, **ONE_TRY)


def heard(people: People) -> Write:
    """What needs Valkey: a message sent through one process reaches a syncing client of another."""
    state = {"since": str(people.bob.sync()["next_batch"])}

    def write() -> object:
        sent = people.alice.send(
            people.room, "heard?", secrets.token_hex(8), patience_seconds=0.0, timeout_seconds=10.0
        )
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            answer = people.bob.sync(state["since"], timeout_seconds=2, request_timeout_seconds=10.0)
            state["since"] = str(answer["next_batch"])
            events = answer.get("rooms", {}).get("join", {}).get(people.room, {}).get("timeline", {}).get("events", [])
            if any(event["event_id"] == sent for event in events):
                return sent
        raise MatrixUnreachable("not heard within 5 s")

    return write


def asked_of_main(people: People) -> Write:
    """What no worker answers: alice's pushers are set at main."""
    body = {
        "app_id": "site.mxbundle.trial",
        "pushkey": secrets.token_hex(8),
        "kind": None,
    }

    def write() -> object:
        return people.alice.json("POST", "/_matrix/client/v3/pushers/set", body, **ONE_TRY)

    return write


def synced(people: People) -> Write:
    """Bob's next sync; it waits for nothing."""
    state = {"since": str(people.bob.sync()["next_batch"])}

    def write() -> object:
        answer = people.bob.sync(state["since"], request_timeout_seconds=10.0)
        state["since"] = str(answer["next_batch"])
        return answer

    return write

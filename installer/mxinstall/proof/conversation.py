"""The steps in which two users meet, talk and find again what they said; the last one removes their traces."""

from __future__ import annotations

import secrets
import time

from mxinstall.proof.matrix import MatrixError, texts_of_room, transaction_id
from mxinstall.proof.steps import Disproved, Scene, step

SYNC_REQUESTS = "synapse_http_server_requests_received_total"
EVENTS_PERSISTED = "synapse_storage_events_persisted_events_total"
SYNCS = 4
ARRIVAL_SECONDS = 30.0
"""How long a message may take to the other user."""


@step("client-api", "The client API answers at the address that users have")
def client_api(scene: Scene) -> str:
    versions = scene.server.versions()
    if not versions:
        raise Disproved("the homeserver speaks no version of the specification")
    connected = f" (connected to {scene.context.address})" if scene.context.address else ""
    return f"{scene.context.base_url}{connected} speaks up to {versions[-1]}"


@step("discovery", "Clients and other servers are told where this one is", needs=("client-api",))
def discovery(scene: Scene) -> str:
    told = scene.server.json("GET", "/.well-known/matrix/client")
    address = str(told.get("m.homeserver", {}).get("base_url", "")).rstrip("/")
    if address != scene.context.base_url.rstrip("/"):
        raise Disproved(f"clients are sent to {address or 'nowhere'}, not to {scene.context.base_url}")
    delegated = str(scene.server.json("GET", "/.well-known/matrix/server").get("m.server", ""))
    if not delegated:
        raise Disproved("/.well-known/matrix/server names no server")
    return f"clients to {address}, servers to {delegated}"


@step("register", "Two users and an administrator for the clean-up are registered", needs=("client-api",))
def register(scene: Scene) -> str:
    for person in ("alice", "bob", "admin"):
        name, password = f"{scene.name}-{person}", secrets.token_urlsafe(24)
        scene.accounts[person] = scene.admin.register(name, password, admin=person == "admin")
    return " and ".join(scene.accounts[person].user_id for person in ("alice", "bob"))


@step("login", "Both log in with their passwords", needs=("register",))
def login(scene: Scene) -> str:
    for person, account in scene.accounts.items():
        device = scene.devices[person] = scene.server.login(account)
        if device.whoami() != account.user_id:
            raise Disproved(f"the token of {account.user_id} is taken for one of {device.whoami()}")
    return f"devices {scene.devices['alice'].device_id} and {scene.devices['bob'].device_id}"


@step("room", "One makes a room and invites, the other joins", needs=("login",))
def room(scene: Scene) -> str:
    bob = scene.devices["bob"]
    scene.rooms.append(scene.devices["alice"].create_room(scene.name, bob.account.user_id))
    invited = bob.sync().get("rooms", {}).get("invite", {})
    if scene.room not in invited:
        raise Disproved(f"{bob.account.user_id} sees no invitation to {scene.room}")
    bob.join(scene.room)
    return scene.room


@step("messages", "A message each way arrives at the other by sync", needs=("room",))
def messages(scene: Scene) -> str:
    slowest = 0.0
    for sender, receiver in (("alice", "bob"), ("bob", "alice")):
        listening = scene.devices[receiver]
        since = str(listening.sync()["next_batch"])
        text = f"{sender} to {receiver}: {secrets.token_hex(8)}"
        started = time.monotonic()
        event_id = scene.devices[sender].send(scene.room, text, transaction_id())
        scene.said.append(text)
        while True:
            heard = listening.sync(since, timeout_seconds=5)
            since = str(heard["next_batch"])
            if any(m.event_id == event_id and m.body == text for m in texts_of_room(heard, scene.room)):
                break
            if time.monotonic() - started > ARRIVAL_SECONDS:
                raise Disproved(f"{event_id} did not arrive at {receiver} within {ARRIVAL_SECONDS:.0f} s")
        slowest = max(slowest, time.monotonic() - started)
    return f"two messages, the slower one in {slowest:.2f} s"


@step("sync-by-synchrotron", "The synchrotrons' own counters say that they served the syncs", needs=("room",))
def sync_by_synchrotron(scene: Scene) -> str:
    processes, bob = scene.context.processes, scene.devices["bob"]
    count = processes.count("synchrotron")
    if not count:
        raise Disproved("no synchrotron runs")
    since = str(bob.sync()["next_batch"])
    before = processes.counter("synchrotron", SYNC_REQUESTS, servlet="SyncRestServlet")
    for _ in range(SYNCS):
        since = str(bob.sync(since)["next_batch"])
    served = processes.counter("synchrotron", SYNC_REQUESTS, servlet="SyncRestServlet") - before
    if served < SYNCS:
        raise Disproved(f"{SYNCS} syncs were answered, but the {count} synchrotrons counted only {served:.0f}")
    return f"{SYNCS} syncs asked, {served:.0f} counted by {count} synchrotrons"


@step("written-by-persister", "The event persisters' own counters say that they wrote the messages", needs=("room",))
def written_by_persister(scene: Scene) -> str:
    processes = scene.context.processes
    count = processes.count("event-persister")
    if not count:
        raise Disproved("no event persister runs")
    before = processes.counter("event-persister", EVENTS_PERSISTED)
    for number in range(3):
        text = f"for the persister {number} {secrets.token_hex(4)}"
        scene.devices["alice"].send(scene.room, text, transaction_id())
        scene.said.append(text)
    end = time.monotonic() + 10
    while (written := processes.counter("event-persister", EVENTS_PERSISTED) - before) < 3:
        if time.monotonic() > end:
            raise Disproved(f"3 messages were sent, but the {count} event persisters counted {written:.0f}")
        time.sleep(0.5)
    return f"3 messages sent, {written:.0f} events counted by {count} event persisters"


@step("read-back", "A fresh login finds every message, once each and in order", needs=("messages",))
def read_back(scene: Scene) -> str:
    fresh = scene.server.login(scene.accounts["bob"], "mxinstall proof, second device")
    found = [message.body for message in fresh.history(scene.room, page=2)]
    found.reverse()
    if found != scene.said:
        raise Disproved(f"{len(scene.said)} messages were said, {len(found)} found: {found!r:.300}")
    return f"{len(found)} messages"


@step("clean-up", "The room is purged and the users are deactivated", kind="end")
def clean_up(scene: Scene) -> str:
    left: list[str] = []
    admin = scene.devices.get("admin")
    for room_id in scene.rooms:
        if admin is None or not scene.admin.purge_room(room_id, admin):
            left.append(f"room {room_id}")
    for person, account in scene.accounts.items():
        try:
            (scene.devices.get(person) or scene.server.login(account)).deactivate()
        except MatrixError as fault:
            left.append(f"user {account.user_id} ({fault})")
    if left:
        raise Disproved(f"left behind: {', '.join(left)}")
    return f"{len(scene.rooms)} rooms purged, {len(scene.accounts)} users deactivated"

"""What every case works with: the installed site, two users in a room, and a steady load across a fault.

A trial is bounded: its load ends, its waits end, and what it broke is mended or said to be broken.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from mxinstall.cluster import Cluster
from mxinstall.proof import context_of
from mxinstall.proof.admin import Admin
from mxinstall.proof.load import Load, judge, send_load
from mxinstall.proof.matrix import Homeserver, MatrixError, Session
from mxinstall.proof.reach import is_ready
from mxinstall.proof.steps import Scene, scene_of
from mxinstall.site import Site as SiteFile
from mxinstall.site import known_site

from darksite import network_policy
from darksite.site import Node, Site
from sitebundle.errors import MxError
from tests.matrix.registry import Row, Wrong

MESSAGES = 560
LEAST_MESSAGES = 500
PER_SECOND = 7.0
LEAST_PER_SECOND = 5.0
FAULT_AFTER = 105
PAYLOAD = ("matrix", "matrix-data")
PULSE_SECONDS = 0.25
Pod = dict[str, Any]


@dataclass(frozen=True)
class People:
    """Two users in one room; alice may send as fast as she can."""

    scene: Scene
    alice: Session
    bob: Session
    room: str


@dataclass
class Pulse:
    """One kind of write, tried again and again; when it was answered, in monotonic seconds."""

    answered: list[float] = field(default_factory=list)
    refused: int = 0
    ended: float = 0.0

    def longest_silence(self, since: float) -> float:
        """The longest time without an answer from `since` to the end, in seconds."""
        after = [since, *(at for at in self.answered if at > since), max(self.ended, since)]
        return max((later - earlier for earlier, later in itertools.pairwise(after)), default=0.0)


class Trial:
    """The installed system of one dark site, seen from its operator's host (the caller is in its network)."""

    def __init__(self, site: Site) -> None:
        self.site = site
        if not network_policy.is_enforced(site):
            raise Wrong(f"site {site.name} enforces no network policies: python -m darksite up --network-policy")
        self.cluster = Cluster.connect(site.kubeconfig)
        self.answers: SiteFile = known_site(None)

    def operator(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on the operator's host. With `check` raises Wrong when it does not end well."""
        inside = [sys.executable, "-m", "darksite", "shell", "--", *command]
        done = subprocess.run(inside, capture_output=True, text=True, check=False, timeout=700)
        if check and done.returncode != 0:
            raise Wrong(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-800:]}")
        return done

    def pods(self, namespace: str, labels: str = "") -> list[Pod]:
        """Pods by name, ready or not."""
        return sorted(self.cluster.list("v1", "Pod", namespace, labels), key=lambda pod: str(pod["metadata"]["name"]))

    def ready(self) -> dict[str, str]:
        """Name → uid of every ready pod of the payload's namespaces, those of finished jobs left out."""
        found = {}
        for namespace in PAYLOAD:
            for pod in filter(is_ready, self.pods(namespace)):
                found[f"{namespace}/{pod['metadata']['name']}"] = str(pod["metadata"]["uid"])
        return found

    def kill_pod(self, pod: Pod) -> str:
        """Delete a pod with a second's grace: too short for an orderly end, long enough for its name to be free."""
        meta = pod["metadata"]
        self.cluster.delete("v1", "Pod", meta["name"], meta["namespace"], grace_seconds=1)
        return f"pod {meta['name']}"

    def worker(self, kind: str) -> Pod:
        """The first ready pod of a type of worker. Raises Wrong."""
        labels = f"app.kubernetes.io/name=synapse,app.kubernetes.io/component={kind}"
        return first([pod for pod in self.pods("matrix", labels) if is_ready(pod)], f"a ready {kind}")

    def routing(self) -> Pod:
        """A ready pod of the HAProxy tier. Raises Wrong."""
        pods = self.pods("matrix", "app.kubernetes.io/component=routing")
        return first([pod for pod in pods if is_ready(pod)], "a ready pod of the routing tier")

    def primary(self) -> Pod:
        """The PostgreSQL primary's pod. Raises Wrong."""
        labels = "cnpg.io/cluster=postgres,cnpg.io/podRole=instance,cnpg.io/instanceRole=primary"
        return first(self.pods("matrix-data", labels), "a PostgreSQL primary")

    @contextmanager
    def people(self, avoid: Node | None = None) -> Iterator[People]:
        """Two fresh users and their room; both are deactivated and all rooms are purged at the end.

        They reach the edge at another node than `avoid`: what they cannot reach would tell nothing of the rest.
        """
        context = context_of(self.cluster, self.answers)
        if avoid is not None and context.address is not None:
            host = next(node.address for node in self.site.nodes if node != avoid)
            context = replace(context, address=f"{host}:{context.address.rpartition(':')[2]}")
        scene = scene_of(context)
        scene.name = f"mxtrial-{secrets.token_hex(4)}"
        try:
            for person in ("alice", "bob", "admin"):
                name, password = f"{scene.name}-{person}", secrets.token_urlsafe(24)
                scene.accounts[person] = scene.admin.register(name, password, admin=person == "admin")
                scene.devices[person] = scene.server.login(scene.accounts[person])
            alice, bob = scene.devices["alice"], scene.devices["bob"]
            scene.rooms.append(alice.create_room(scene.name, bob.account.user_id))
            bob.join(scene.room)
            scene.admin.lift_message_limit(alice.account.user_id, scene.devices["admin"])
            yield People(scene, alice, bob, scene.room)
        finally:
            _clear_away(scene)

    def across(
        self,
        people: People,
        fault: Callable[[], str],
        *,
        pulse: Callable[[], object] | None = None,
        patience_seconds: float = 150.0,
        whole_seconds: float = 300.0,
        until_whole: Callable[[], bool] | None = None,
        count: int = MESSAGES,
        per_second: float = PER_SECOND,
        least_per_second: float = LEAST_PER_SECOND,
        fault_after: int = FAULT_AFTER,
    ) -> Row:
        """Send the load, break something on the way, wait until all is whole, read back. Raises Wrong.

        pulse: one write of the kind that the fault concerns; else the messages themselves tell when writes work again.
        """
        before = self.ready()
        whole = until_whole or (lambda: self._whole(before))
        told: dict[str, Any] = {}

        def break_it() -> None:
            told["at"] = time.monotonic()
            told["what"] = fault()
            while not whole():
                if time.monotonic() - told["at"] > whole_seconds:
                    return
                time.sleep(0.5)
            told["whole"] = time.monotonic() - told["at"]

        label = f"{people.scene.name}-{secrets.token_hex(2)}"
        with beating(pulse) as beat:
            load = send_load(
                people.alice,
                people.room,
                label,
                count=count,
                per_second=per_second,
                patience_seconds=patience_seconds,
                fault=break_it,
                fault_after=fault_after,
            )
        return self._judged(people, load, beat, told, least_per_second)

    def all_ready(self, wanted: int) -> bool:
        """Whether as many pods as `wanted` are ready; no where nobody answers."""
        return len(self.ready_or_none()) >= wanted

    def _whole(self, before: dict[str, str]) -> bool:
        now = self.ready_or_none()
        return len(now) >= len(before) and now != before

    def ready_or_none(self) -> dict[str, str]:
        """As `ready`; nothing where nobody answers."""
        try:
            return self.ready()
        except MxError:
            return {}

    def _judged(self, people: People, load: Load, beat: Pulse | None, told: dict[str, Any], least: float) -> Row:
        fresh = people.scene.server.login(people.scene.accounts["bob"], "mxtrial, afterwards")
        judgement = judge(load, fresh.history(people.room))
        silence = beat.longest_silence(told["at"]) if beat else load.longest_silence_seconds
        row: Row = {
            "what": told["what"],
            "seconds": round(silence, 1),
            "whole_seconds": round(told["whole"], 1) if "whole" in told else None,
            "sent": len(load.sent),
            "per_second": round(load.per_second, 1),
            "acknowledged": len(load.acknowledged),
            "lost": len(judgement.lost),
            "unacknowledged": len(load.unacknowledged),
            "repeated": judgement.repeated,
            "messages_silent_seconds": round(load.longest_silence_seconds, 1),
        }
        if judgement.lost:
            raise Wrong(f"acknowledged and lost: {', '.join(judgement.lost[:5])}", row)
        if len(load.sent) < LEAST_MESSAGES:
            raise Wrong(f"only {len(load.sent)} messages were sent across it", row)
        if load.per_second < least or not load.recovered:
            raise Wrong("the load was too slow, or its last message was never acknowledged", row)
        if "whole" not in told:
            raise Wrong("not everything came back in time", row)
        if beat is not None and (not beat.answered or beat.answered[-1] < told["at"] + told["whole"]):
            raise Wrong(f"the write that the fault concerns is not answered afterwards ({beat.refused} refused)", row)
        return row


def first(pods: list[Pod], what: str) -> Pod:
    """The first of `pods`. Raises Wrong when there is none: a fault that hits nothing proves nothing."""
    if not pods:
        raise Wrong(f"there is no {what}")
    return pods[0]


@contextmanager
def beating(write: Callable[[], object] | None) -> Iterator[Pulse | None]:
    """Try `write` four times a second for the length of the block."""
    if write is None:
        yield None
        return
    pulse, ended = Pulse(), threading.Event()

    def beat() -> None:
        while not ended.is_set():
            try:
                write()
            except MatrixError:
                pulse.refused += 1
            else:
                pulse.answered.append(time.monotonic())
            ended.wait(PULSE_SECONDS)

    thread = threading.Thread(target=beat, name="pulse")
    thread.start()
    try:
        yield pulse
        # One more, so that what never came back is not taken for what had no more time.
        time.sleep(2 * PULSE_SECONDS)
    finally:
        ended.set()
        thread.join()
        pulse.ended = time.monotonic()


def _clear_away(scene: Scene) -> None:
    admin: Admin = scene.admin
    server: Homeserver = scene.server
    for room in scene.rooms:
        if "admin" in scene.devices:
            # A site that is still broken keeps the room; what broke it is what has to be told.
            with contextlib.suppress(MatrixError, MxError):
                admin.purge_room(room, scene.devices["admin"])
    for person, account in scene.accounts.items():
        try:
            (scene.devices.get(person) or server.login(account)).deactivate()
        except (MatrixError, MxError):
            continue

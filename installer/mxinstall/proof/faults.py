"""The steps that break something under load: one synchrotron's pod, the PostgreSQL primary's pod.

Nothing that was acknowledged may be lost. They run only when asked for: they end pods of a living system.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from mxinstall.proof.load import judge, keep_syncing, send_load
from mxinstall.proof.steps import Disproved, Scene, Wrecker, step

MESSAGES = 560
PER_SECOND = 7.0
LEAST_PER_SECOND = 5.0
PATIENCE_SECONDS = 150.0
WHOLE_SECONDS = 300.0
CATCH_UP_SECONDS = 60.0


@step("synchrotron-lost", "No message is lost when a synchrotron dies", needs=("messages",), kind="fault")
def synchrotron_lost(scene: Scene) -> str:
    wrecker = _wrecker(scene)
    return _across(scene, "synchrotron", lambda: wrecker.kill_worker("synchrotron"))


@step("primary-lost", "No message is lost when the PostgreSQL primary dies", needs=("messages",), kind="fault")
def primary_lost(scene: Scene) -> str:
    return _across(scene, "primary", _wrecker(scene).kill_database_primary)


def _wrecker(scene: Scene) -> Wrecker:
    if scene.context.wrecker is None:
        raise Disproved("nothing may be broken here: the proof was given no way to delete pods")
    return scene.context.wrecker


def _across(scene: Scene, label: str, kill: Callable[[], str]) -> str:
    alice, bob, wrecker = scene.devices["alice"], scene.devices["bob"], _wrecker(scene)
    scene.admin.lift_message_limit(alice.account.user_id, scene.devices["admin"])
    told: list[tuple[str, float, str]] = []

    def kill_and_wait() -> None:
        name = kill()
        told.append((name, *wrecker.until_whole(WHOLE_SECONDS)))

    with keep_syncing(bob, scene.room) as heard:
        load = send_load(
            alice,
            scene.room,
            f"{scene.name}-{label}",
            count=MESSAGES,
            per_second=PER_SECOND,
            patience_seconds=PATIENCE_SECONDS,
            fault=kill_and_wait,
            fault_after=MESSAGES // 4,
        )
        ((killed, whole_seconds, now),) = told
        wanted = {str(one.event_id) for one in load.acknowledged}
        end = time.monotonic() + CATCH_UP_SECONDS
        while not wanted <= heard.event_ids and time.monotonic() < end:
            time.sleep(0.5)
    fresh = scene.server.login(scene.accounts["bob"], f"mxinstall proof, after {label}")
    judgement = judge(load, fresh.history(scene.room))
    detail = (
        f"{len(load.sent)} messages at {load.per_second:.1f}/s across the deletion of {killed}: "
        f"{len(load.acknowledged)} acknowledged, {len(judgement.lost)} of them lost; "
        f"{len(load.unacknowledged)} unacknowledged ({judgement.arrived_unacknowledged} of them arrived), "
        f"{load.retried} retried, {judgement.repeated} there twice; "
        f"longest silence {load.longest_silence_seconds:.1f} s for the sender, "
        f"{heard.longest_silence_seconds:.1f} s for a syncing client, "
        f"which heard {len(wanted & heard.event_ids)}; whole again after {whole_seconds:.0f} s ({now})"
    )
    if judgement.lost or load.per_second < LEAST_PER_SECOND or not load.recovered:
        raise Disproved(detail)
    if not wanted <= heard.event_ids:
        raise Disproved(f"the syncing client never heard {len(wanted - heard.event_ids)} messages: {detail}")
    return detail

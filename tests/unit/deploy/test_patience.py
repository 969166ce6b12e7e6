"""How long is waited for pods that are replaced one after another, where an autoscaler says how many there are."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event
from typing import Any, cast

import pytest
from mxinstall.cluster import Cluster
from mxinstall.deploy import certificates
from mxinstall.deploy.inventory import Deployed, ReleaseRecord
from mxinstall.deploy.journal import Journal
from mxinstall.deploy.ready import Expected, live_bound_seconds, on_record, wait_ready
from mxinstall.deploy.rollout import Choreography

from sitebundle.errors import ClusterUnreachable, ReleaseNotReady
from sitebundle.events import silent
from sitebundle.stack import Release

GRACE = 30
EACH = 60 + GRACE
TEMPLATE = {"spec": {"terminationGracePeriodSeconds": GRACE}}
RENDERED: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "StatefulSet",
    "metadata": {"name": "reader", "namespace": "matrix"},
    "spec": {"template": TEMPLATE},
}
RELEASE = Release.model_validate(
    {
        "name": "parts",
        "chart": "./charts/parts",
        "namespace": "matrix",
        "ready": [{"statefulset": "*"}],
        "timeout_seconds": 60,
    }
)
RECORD = ReleaseRecord(
    "parts", "matrix", "chart", 1, "x", (Deployed("apps/v1", "StatefulSet", "matrix", "reader"),), ()
)


class Readers:
    """The API server with one StatefulSet that an autoscaler scales, and the clock; pods are new one after another."""

    def __init__(self, replicas: Callable[[float], int], each_seconds: float = EACH - 10) -> None:
        self.now, self.replicas, self.each_seconds, self.away = 0.0, replicas, each_seconds, False

    def monotonic(self) -> float:
        return self.now

    def is_set(self) -> bool:
        return False

    def wait(self, _: float) -> bool:
        self.now += 5.0
        return False

    def get(self, _: str, kind: str, name: str, namespace: str) -> dict[str, Any] | None:
        assert (kind, name, namespace) == ("StatefulSet", "reader", "matrix")
        if self.away:
            raise ClusterUnreachable(server="https://x", detail="away")
        wanted = self.replicas(self.now)
        new = min(wanted, int(self.now // self.each_seconds))
        status = {"observedGeneration": 1, "readyReplicas": wanted, "updatedReplicas": new}
        spec = {"replicas": wanted, "template": TEMPLATE}
        return {**RENDERED, "metadata": {**RENDERED["metadata"], "generation": 1}, "spec": spec, "status": status}

    def list(self, *_: Any, **__: Any) -> list[dict[str, Any]]:
        return []

    def patch(self, *_: Any, **__: Any) -> None:
        pass


def five(_: float) -> int:
    return 5


def more_and_more(now: float) -> int:
    """The load of the rollout itself makes the autoscaler add some."""
    return 5 if now < 200 else 9


@pytest.fixture(params=[five, more_and_more])
def readers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Readers:
    found = Readers(request.param)
    monkeypatch.setattr(time, "monotonic", found.monotonic)
    return found


def waits_for(readers: Readers, expected: Expected) -> None:
    wait_ready(cast(Cluster, readers), expected, silent, fresh=True, stop=cast(Event, readers))


def test_a_release_whose_autoscaled_pods_take_their_turns_is_waited_for(readers: Readers) -> None:
    waits_for(readers, Expected(RELEASE, [RENDERED], {}))
    assert readers.now > RELEASE.timeout_seconds + 2 * EACH


def test_so_it_is_when_only_the_record_is_known(readers: Readers) -> None:
    waits_for(readers, on_record(RELEASE, RECORD))
    assert readers.now > RELEASE.timeout_seconds + 2 * EACH


def test_a_wave_is_waited_for_though_its_autoscaler_adds_pods_on_the_way(readers: Readers) -> None:
    expected = Expected(RELEASE, [RENDERED], {})
    stop = cast(Event, readers)
    rollout = Choreography(cast(Cluster, readers), expected, None, cast(Journal, None), silent, stop)
    rollout._await_wave(2, [RENDERED], [3])
    assert readers.now > RELEASE.timeout_seconds + 2 * EACH


def test_a_restart_for_a_certificate_is_waited_for_with_as_many_pods_as_there_are(
    readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "_WAIT_SECONDS", 60.0)
    live = readers.get("apps/v1", "StatefulSet", "reader", "matrix")
    assert live is not None
    behind = [certificates.Behind(live, {"parts-tls": "x"})]
    certificates.restart(cast(Cluster, readers), behind, silent, "deploy", cast(Event, readers))
    assert readers.now > 60 + 2 * EACH


def test_pods_that_never_come_are_given_up_when_the_time_of_all_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = Readers(five, each_seconds=10_000)
    monkeypatch.setattr(time, "monotonic", stuck.monotonic)
    with pytest.raises(ReleaseNotReady):
        waits_for(stuck, Expected(RELEASE, [RENDERED], {}))
    bound = RELEASE.timeout_seconds + 4 * EACH
    assert bound < stuck.now <= bound + 10


def test_an_api_server_that_is_away_shortens_nothing() -> None:
    readers = Readers(five)
    cluster = cast(Cluster, readers)
    assert live_bound_seconds(cluster, 60, [RENDERED]) == 60 + 4 * EACH
    readers.away = True
    assert live_bound_seconds(cluster, 60, [RENDERED], 60 + 4 * EACH) == 60 + 4 * EACH
    assert live_bound_seconds(cluster, 60, [RENDERED]) == 60

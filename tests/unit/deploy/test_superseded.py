"""Which ConfigMaps of before may go, in front of a cluster that holds what it is told."""

from __future__ import annotations

from typing import Any, cast

from mxinstall.cluster import Cluster
from mxinstall.deploy.inventory import ReleaseRecord
from mxinstall.deploy.releases import remove_release
from mxinstall.deploy.superseded import mounted, remove_superseded
from mxinstall.helm_release import HelmReleases


def config_map(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}


def pod(*volumes: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "spec": {"volumes": list(volumes)}}


class Held:
    """Answers with its lists and notes what is asked to go."""

    def __init__(self, maps: list[str], pods: list[dict[str, Any]]) -> None:
        self.lists = {"ConfigMap": [config_map(name) for name in maps], "Pod": pods}
        self.asked: list[str] = []
        self.gone: list[str] = []

    def list(self, _: str, kind: str, namespace: str, labels: str = "") -> list[dict[str, Any]]:
        assert namespace == "matrix"
        self.asked.append(labels)
        return self.lists[kind]

    def delete(self, _: str, kind: str, name: str, namespace: str) -> bool:
        assert (kind, namespace) in (("ConfigMap", "matrix"), ("Secret", "mx-system"))
        self.gone.append(name)
        return True


def test_what_a_pod_of_before_still_mounts_stays_and_so_does_what_is_wanted() -> None:
    sources = [{"secret": {"name": "x"}}, {"configMap": {"name": "config-2"}}]
    projected = {"name": "c", "projected": {"sources": sources}}
    held = Held(["config-1", "config-2", "config-3"], [pod(projected)])
    wanted = [config_map("config-3"), {"kind": "Service", "metadata": {"name": "config-1"}}]
    assert remove_superseded(cast(Cluster, held), "synapse", "matrix", wanted) == ["config-1"]
    assert held.gone == ["config-1"]
    assert held.asked[0] == "mxbundle.io/named-by-content=true,app.kubernetes.io/instance=synapse"


def test_a_release_that_goes_leaves_nothing_of_what_a_pod_that_still_ends_mounts() -> None:
    held = Held(["config-1", "config-2"], [pod({"name": "c", "configMap": {"name": "config-1"}})])
    record = ReleaseRecord("synapse", "matrix", "manifest", 1, "sha256:x", (), ())
    remove_release(cast(Cluster, held), cast(HelmReleases, None), record, 60)
    assert held.gone == ["config-1", "config-2", "inventory-synapse"]


def test_every_way_of_mounting_counts() -> None:
    plain = {"name": "a", "configMap": {"name": "one"}}
    projected = {"name": "b", "projected": {"sources": [{"configMap": {"name": "two"}}]}}
    assert mounted([pod(plain, {"name": "e", "emptyDir": {}}), pod(projected), {"spec": {}}]) == {"one", "two"}

"""A node that is lost for good is seen, given up and taken back: a real API server and the control plane's controllers.

Its nodes have no kubelet, so a pod that is told to end there stays as it does on a machine without power. The machine
that really loses its power: the failure tests of the running site.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from apiserver import breakable_api_server
from mxinstall import node_loss
from mxinstall.cluster import Cluster, Object
from mxinstall.deploy.fencing import hold
from mxinstall.deploy.nodes import OUT_OF_SERVICE, lost_nodes
from mxinstall.deploy.workdir import work_dir

from sitebundle.errors import AnotherInstaller, LastCopy, NodeAlive, NodeAway, NodeUnknown, StorageUnknown
from sitebundle.events import silent

NAMESPACE = "matrix"
CONTROLLERS = (
    "statefulset-controller",
    "node-lifecycle-controller",
    "taint-eviction-controller",
    "pod-garbage-collector-controller",
    "persistentvolumeclaim-protection-controller",
    "persistentvolume-protection-controller",
)
CNPG = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "clusters.postgresql.cnpg.io"},
    "spec": {
        "group": "postgresql.cnpg.io",
        "scope": "Namespaced",
        "names": {"kind": "Cluster", "plural": "clusters", "singular": "cluster"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


class Heart:
    """Keeps the leases of living nodes fresh, as their kubelets do."""

    def __init__(self, cluster: Cluster) -> None:
        self.beating: set[str] = set()
        self._cluster, self._ended = cluster, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(1.0):
            for name in sorted(self.beating):
                beat(self._cluster, name, datetime.now(UTC))

    def end(self) -> None:
        self._ended.set()


def beat(cluster: Cluster, name: str, at: datetime) -> None:
    cluster.apply(
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": name, "renewTime": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")},
        }
    )
    moment = at.strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": moment}
    status = {"status": {"conditions": [{**ready, "lastTransitionTime": moment}]}}
    cluster.patch("v1", "Node", name, status, subresource="status", type="strategic")


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with breakable_api_server(tmp_path_factory.mktemp("apiserver"), CONTROLLERS) as server:
        cluster = Cluster.connect(server.kubeconfig)
        for name in (NAMESPACE, "kube-node-lease"):
            cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        cluster.apply(CNPG)
        yield cluster


@pytest.fixture
def heart(operator: Cluster) -> Iterator[Heart]:
    """Two nodes, both alive."""
    living = Heart(operator)
    for name in ("n1", "n2"):
        labels = {"kubernetes.io/hostname": name}
        operator.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
        living.beating.add(name)
    thread = threading.Thread(target=living.run, daemon=True)
    thread.start()
    eventually(lambda: all(condition(operator, name) == "True" for name in ("n1", "n2")))
    eventually(lambda: not [taint for name in ("n1", "n2") for taint in taints(operator, name)])
    yield living
    living.end()
    thread.join()
    clean_up(operator)


def clean_up(operator: Cluster) -> None:
    for kind, api in (("StatefulSet", "apps/v1"), ("Cluster", "postgresql.cnpg.io/v1")):
        for obj in operator.list(api, kind, NAMESPACE):
            operator.delete(api, kind, obj["metadata"]["name"], NAMESPACE)
    for pod in operator.list("v1", "Pod", NAMESPACE):
        operator.delete("v1", "Pod", pod["metadata"]["name"], NAMESPACE, grace_seconds=0)
    for kind in ("PersistentVolumeClaim", "PersistentVolume"):
        for obj in operator.list("v1", kind):
            operator.delete("v1", kind, obj["metadata"]["name"], obj["metadata"].get("namespace"))
        eventually(lambda kind=kind: operator.list("v1", kind) == [])  # type: ignore[misc]
    for name in ("n1", "n2"):
        operator.delete("v1", "Node", name)
        operator.delete("coordination.k8s.io/v1", "Lease", name, "kube-node-lease")


def taints(operator: Cluster, name: str) -> list[str]:
    return [taint["key"] for taint in (operator.get("v1", "Node", name) or {})["spec"].get("taints") or []]


def condition(operator: Cluster, name: str) -> str:
    conditions = ((operator.get("v1", "Node", name) or {}).get("status") or {}).get("conditions") or []
    return next((str(entry["status"]) for entry in conditions if entry["type"] == "Ready"), "")


def eventually(true: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def writer(operator: Cluster, annotations: dict[str, str] | None = None, claim: str = "") -> None:
    """A StatefulSet of one, its pod on n1."""
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}] if claim else []
    soon = [
        {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}
        for what in ("not-ready", "unreachable")
    ]
    pod = {
        "tolerations": soon,
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "c"}],
        "volumes": volumes,
    }
    operator.create(
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "writer", "namespace": NAMESPACE, "annotations": annotations or {}},
            "spec": {
                "replicas": 1,
                "serviceName": "writer",
                "selector": {"matchLabels": {"part": "writer"}},
                "template": {"metadata": {"labels": {"part": "writer"}}, "spec": pod},
            },
        }
    )
    eventually(lambda: operator.get("v1", "Pod", "writer-0", NAMESPACE) is not None)
    place(operator, "writer-0", "n1")


def place(operator: Cluster, pod: str, node: str) -> None:
    target = {"apiVersion": "v1", "kind": "Node", "name": node}
    bound = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}, "target": target}
    assert operator.request("POST", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/binding", body=bound)[0] == 201


def pinned_claim(operator: Cluster, name: str, labels: dict[str, str] | None = None) -> None:
    """A claim and its volume, whose data is on n1's disk."""
    common: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "storageClassName": "local"}
    match = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels or {}}
    claim = {**common, "volumeName": name, "resources": {"requests": {"storage": "1Gi"}}}
    operator.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": claim})
    volume = {
        **common,
        "capacity": {"storage": "1Gi"},
        "local": {"path": "/data"},
        "claimRef": {"namespace": NAMESPACE, "name": name},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [match]}]}},
    }
    operator.create({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": volume})


def lose(operator: Cluster, heart: Heart, node: str = "n1") -> None:
    """Its kubelet says no more, the control plane has noticed, the lease is older than any pause of a living one."""
    heart.beating.discard(node)
    eventually(lambda: condition(operator, node) == "Unknown")
    age_lease(operator, node)


def lost_before(operator: Cluster, heart: Heart, node: str = "n1") -> None:
    """Lost some time ago: what the control plane would note after a while is there already."""
    heart.beating.discard(node)
    time.sleep(1.5)  # A beat that is under way ends.
    status = {"status": {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]}}
    operator.patch("v1", "Node", node, status, subresource="status", type="strategic")
    age_lease(operator, node)


def age_lease(operator: Cluster, node: str) -> None:
    lease: Object = operator.get("coordination.k8s.io/v1", "Lease", node, "kube-node-lease") or {}
    old = datetime.now(UTC) - timedelta(seconds=node_loss.FRESH_SECONDS + 5)
    lease["spec"]["renewTime"] = old.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    operator.replace(lease)


def test_a_stuck_pod_is_seen_with_what_it_means_and_starts_elsewhere_once_the_node_is_given_up(
    operator: Cluster, heart: Heart
) -> None:
    writer(operator)
    uid = (operator.get("v1", "Pod", "writer-0", NAMESPACE) or {})["metadata"]["uid"]
    assert lost_nodes(operator) == []
    lose(operator, heart)
    eventually(lambda: lost_nodes(operator)[0].stuck == (f"{NAMESPACE}/writer-0",), seconds=90)
    (lost,) = lost_nodes(operator)
    assert (lost.name, lost.ready, lost.released) == ("n1", False, False)
    assert "mxinstall node release n1" in "\n".join(lost.text())
    assert "at most once" in "\n".join(lost.text())
    # Nobody may start it elsewhere yet: it could still run there.
    assert (operator.get("v1", "Pod", "writer-0", NAMESPACE) or {})["metadata"]["uid"] == uid
    loss = node_loss.release(operator, "n1", silent)
    assert (loss.moving, loss.staying) == ((f"{NAMESPACE}/writer-0",), ())
    eventually(lambda: operator.get("v1", "Pod", "writer-0", NAMESPACE) is not None)
    assert (operator.get("v1", "Pod", "writer-0", NAMESPACE) or {})["metadata"]["uid"] != uid
    assert lost_nodes(operator)[0].released
    with pytest.raises(NodeAway, match="n1"):
        node_loss.take_back(operator, "n1")
    heart.beating.add("n1")
    eventually(lambda: condition(operator, "n1") == "True")
    assert lost_nodes(operator)[0].text() == ["node n1 is back but still given up: mxinstall node return n1"]
    assert node_loss.take_back(operator, "n1") is True
    eventually(lambda: lost_nodes(operator) == [])
    assert OUT_OF_SERVICE not in taints(operator, "n1")
    assert node_loss.take_back(operator, "n1") is False


def test_a_node_that_is_alive_is_never_given_up(operator: Cluster, heart: Heart) -> None:
    with pytest.raises(NodeAlive, match="Ready"):
        node_loss.release(operator, "n1", silent)
    with pytest.raises(NodeUnknown, match="no node n3; it has: n1, n2"):
        node_loss.release(operator, "n3", silent)
    # Its network is cut towards the control plane's health check alone: the kubelet still speaks.
    lose(operator, heart)
    beat_lease = {"spec": {"renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")}}
    operator.patch("coordination.k8s.io/v1", "Lease", "n1", beat_lease, "kube-node-lease")
    eventually(lambda: condition(operator, "n1") == "Unknown")
    with pytest.raises(NodeAlive, match="kubelet spoke"):
        node_loss.release(operator, "n1", silent)
    assert OUT_OF_SERVICE not in taints(operator, "n1")


def test_a_kubelet_whose_clock_is_wrong_is_found_alive_by_a_second_look(
    operator: Cluster, heart: Heart, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost_before(operator, heart)
    monkeypatch.setattr(node_loss, "HEARTBEAT_SECONDS", 3.0)

    def speak() -> None:
        wrong = datetime.now(UTC) - timedelta(hours=2)
        spoken = {"spec": {"renewTime": wrong.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}}
        operator.patch("coordination.k8s.io/v1", "Lease", "n1", spoken, "kube-node-lease")

    threading.Timer(1.5, speak).start()
    with pytest.raises(NodeAlive, match="just now"):
        node_loss.look(operator, "n1")


def test_a_volume_whose_data_nobody_else_has_is_named_and_never_deleted(operator: Cluster, heart: Heart) -> None:
    pinned_claim(operator, "media")
    writer(operator, claim="media")
    lost_before(operator, heart)
    loss = node_loss.look(operator, "n1")
    assert [(volume.claim, volume.pod) for volume in loss.staying] == [("media", "writer-0")]
    assert "nothing says that the others of writer have its data" in loss.text()
    with pytest.raises(LastCopy, match="writer-0 on node n1"):
        node_loss.release(operator, "n1", silent, replace_storage=["all"])
    assert operator.get("v1", "PersistentVolumeClaim", "media", NAMESPACE) is not None
    assert OUT_OF_SERVICE not in taints(operator, "n1")


def postgres(operator: Cluster, healthy: list[str], primary: str) -> None:
    metadata = {"name": "postgres", "namespace": NAMESPACE}
    status = {
        "instanceNames": ["postgres-1", "postgres-2", "postgres-3"],
        "currentPrimary": primary,
        "targetPrimary": primary,
        "instancesStatus": {"healthy": healthy},
    }
    operator.apply(
        {
            "apiVersion": "postgresql.cnpg.io/v1",
            "kind": "Cluster",
            "metadata": metadata,
            "spec": {"instances": 3},
            "status": status,
        }
    )


def database_on_n1(operator: Cluster) -> None:
    labels = {"cnpg.io/cluster": "postgres", "cnpg.io/instanceName": "postgres-1"}
    for claim in ("postgres-1", "postgres-1-wal"):
        pinned_claim(operator, claim, labels)
    volumes = [{"name": c, "persistentVolumeClaim": {"claimName": c}} for c in ("postgres-1", "postgres-1-wal")]
    spec = {"containers": [{"name": "postgres", "image": "p"}], "volumes": volumes}
    metadata = {"name": "postgres-1", "namespace": NAMESPACE, "labels": labels}
    operator.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    place(operator, "postgres-1", "n1")


@pytest.mark.parametrize(
    ("healthy", "primary", "why"),
    [
        (["postgres-2", "postgres-3"], "postgres-1", "postgres-1 is the primary"),
        (["postgres-2"], "postgres-2", "only 1 of 3 instances are healthy"),
        (["postgres-3"], "postgres-2", "the primary postgres-2 is not healthy"),
    ],
)
def test_a_databases_last_copies_are_kept(
    operator: Cluster, heart: Heart, healthy: list[str], primary: str, why: str
) -> None:
    postgres(operator, healthy, primary)
    database_on_n1(operator)
    lost_before(operator, heart)
    with pytest.raises(LastCopy, match=why):
        node_loss.release(operator, "n1", silent, replace_storage=["all"])
    assert operator.get("v1", "PersistentVolumeClaim", "postgres-1", NAMESPACE) is not None


def test_an_instance_that_others_can_replace_gives_up_all_of_its_claims_and_no_other_does(
    operator: Cluster, heart: Heart
) -> None:
    postgres(operator, ["postgres-2", "postgres-3"], "postgres-2")
    database_on_n1(operator)
    lost_before(operator, heart)
    pinned_claim(operator, "media")
    with pytest.raises(LastCopy, match="whoever uses media"):
        node_loss.release(operator, "n1", silent, replace_storage=["all"])
    with pytest.raises(StorageUnknown, match=f"No volume of postgres-7 is on node n1.*{NAMESPACE}/postgres-1"):
        node_loss.release(operator, "n1", silent, replace_storage=["postgres-1", "postgres-7"])
    with work_dir() as work, hold(operator, work, silent), pytest.raises(AnotherInstaller):
        node_loss.release_held(operator, "n1", silent, replace_storage=["postgres-1"])
    assert OUT_OF_SERVICE not in taints(operator, "n1")
    loss = node_loss.release_held(operator, "n1", silent, replace_storage=["postgres-1"])
    chosen = loss.chosen([f"{NAMESPACE}/postgres-1"])
    assert f"DELETED for good: claim {NAMESPACE}/postgres-1-wal" in loss.text(chosen)
    assert "stays, its data is on that node's disk: whoever uses media" in loss.text(chosen)
    assert operator.get("v1", "PersistentVolumeClaim", "media", NAMESPACE) is not None
    assert [volume.name for volume in chosen] == [f"{NAMESPACE}/postgres-1", f"{NAMESPACE}/postgres-1-wal"]

    def given_up() -> bool:
        claims = [operator.get("v1", "PersistentVolumeClaim", c, NAMESPACE) for c in ("postgres-1", "postgres-1-wal")]
        return all(claim is None or claim["metadata"].get("deletionTimestamp") for claim in claims)

    assert given_up()
    assert operator.get("v1", "Pod", "postgres-1", NAMESPACE) is None

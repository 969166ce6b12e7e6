"""In which order a change reaches processes: a real API server with the real controllers, the real helm, a small chart.

There are no nodes; that a pod is ready is claimed. What Synapse does on a running site: test_rollout_live.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from apiserver import ApiServer, breakable_api_server
from claimed_pods import Claims, claimed_pods
from mxinstall import helm_release
from mxinstall.cluster import Cluster, Object
from mxinstall.deploy import rollout
from mxinstall.deploy.inventory import read_inventory
from mxinstall.deploy.journal import read_account
from mxinstall.deploy.rollout import HELD, STOPPED
from mxinstall.deploy.superseded import mounted
from waves_chart import NAMESPACE, RELEASE, deploy_parts, plan_of_parts, remove_parts

from sitebundle.errors import NodeLost, ProcessesDoNotStop, ReleaseFailed, ReleaseNotReady, ReleaseTooLarge

CONTROLLERS = (
    "statefulset-controller",
    "deployment-controller",
    "replicaset-controller",
    "garbage-collector-controller",
)
TIER = "parts-tier"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with breakable_api_server(tmp_path_factory.mktemp("apiserver"), CONTROLLERS) as running:
        yield running


@pytest.fixture(scope="module")
def operator(server: ApiServer) -> Cluster:
    cluster = Cluster.connect(server.kubeconfig)
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    return cluster


@pytest.fixture
def claims(operator: Cluster) -> Iterator[Claims]:
    with claimed_pods(operator, NAMESPACE) as running:
        yield running


@pytest.fixture
def installed(operator: Cluster, claims: Claims, tmp_path: Path) -> Iterator[None]:
    """The small chart, as it is by default; nothing of it is left at the end."""
    deploy_parts(operator, tmp_path)
    claims.seen.clear()
    yield
    claims.starts = lambda pod: True
    operator.delete("v1", "Node", "n1")
    remove_parts(operator)


def pods(operator: Cluster) -> dict[str, str]:
    """Name → the text that the pod was made with; a Deployment's pods go by its name, the newest text counts."""
    found = operator.list("v1", "Pod", NAMESPACE)
    return dict(sorted((_short(pod), pod["metadata"]["annotations"]["text"]) for pod in found))


def _short(pod: Object) -> str:
    name = str(pod["metadata"]["name"])
    return TIER if name.startswith(TIER) else name


def workload(operator: Cluster, kind: str, name: str) -> Object:
    found = operator.get("apps/v1", kind, name, NAMESPACE)
    assert found is not None
    return found


def marks(operator: Cluster) -> list[str]:
    """The workloads that are held back or stopped."""
    found = [*operator.list("apps/v1", "StatefulSet", NAMESPACE), *operator.list("apps/v1", "Deployment", NAMESPACE)]
    return [one["metadata"]["name"] for one in found if {HELD, STOPPED} & set(one["metadata"].get("annotations") or {})]


def configurations(operator: Cluster) -> set[str]:
    return {entry["metadata"]["name"] for entry in operator.list("v1", "ConfigMap", NAMESPACE)}


def eventually(true: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def in_background(act: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as fault:
            failures.append(fault)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, failures


@pytest.mark.usefixtures("installed")
def test_a_wave_waits_for_the_one_before_it(operator: Cluster, claims: Claims, tmp_path: Path) -> None:
    """One wave after the other is kept from becoming ready: what comes after it stays as it was."""
    text = str(plan_of_parts(operator, tmp_path, text="b").releases[0].rollout)
    assert text == "rolls in waves: 0: parts-main; 1: parts-writer; 2: parts-reader; 3: parts-tier"
    allowed = {"main-none"}
    claims.starts = lambda pod: (
        pod["metadata"]["annotations"]["text"] == "a" or pod["metadata"]["labels"]["part"] in allowed
    )
    running, failures = in_background(lambda: deploy_parts(operator, tmp_path, text="b"))
    for part, names, later in (
        ("main", ["parts-main-0"], ["parts-writer-0", "parts-writer-1", "parts-reader-0", "parts-reader-1", TIER]),
        ("writer", ["parts-writer-0", "parts-writer-1"], ["parts-reader-0", "parts-reader-1", TIER]),
        ("reader", ["parts-reader-0", "parts-reader-1"], [TIER]),
        ("tier", [TIER], []),
    ):
        eventually(lambda names=names: "b" in {pods(operator).get(name) for name in names})  # type: ignore[misc]
        time.sleep(2.5)
        now = pods(operator)
        assert {now.get(name) for name in later} <= {"a"}, (part, now)
        allowed.add(part)
    running.join(timeout=60)
    assert failures == []
    assert set(pods(operator).values()) == {"b"}
    assert marks(operator) == []
    assert plan_of_parts(operator, tmp_path, text="b").nothing_to_do


@pytest.mark.usefixtures("installed")
def test_a_wave_that_does_not_come_up_leaves_the_later_ones_as_they_were_and_the_next_run_goes_on(
    operator: Cluster, claims: Claims, tmp_path: Path
) -> None:
    claims.starts = lambda pod: pod["metadata"]["annotations"]["text"] == "a"
    with pytest.raises(ReleaseNotReady, match=r"wave 0: statefulset parts-main.*held back until then: wave 1, 2, 3"):
        deploy_parts(operator, tmp_path, timeout_seconds=4, text="b")
    assert pods(operator)["parts-writer-0"] == "a"
    assert sorted(marks(operator)) == ["parts-reader", TIER, "parts-writer"]
    claims.starts = lambda pod: True
    assert [planned.change for planned in plan_of_parts(operator, tmp_path, text="b").releases] == ["drifted"]
    deploy_parts(operator, tmp_path, text="b")
    assert set(pods(operator).values()) == {"b"}
    assert marks(operator) == []


@pytest.mark.usefixtures("installed")
def test_a_pod_that_starts_anew_while_it_is_held_back_finds_a_configuration_that_the_new_chart_dropped(
    operator: Cluster, claims: Claims, tmp_path: Path
) -> None:
    """No chart has to ask for it: the one of before did not."""
    deploy_parts(operator, tmp_path, configuration="one")
    claims.starts = lambda pod: (
        pod["metadata"]["annotations"]["text"] == "a" or pod["metadata"]["labels"]["part"] == "main"
    )
    running, failures = in_background(lambda: deploy_parts(operator, tmp_path, text="b", configuration="two"))
    eventually(lambda: "b" in (pods(operator).get("parts-writer-0"), pods(operator).get("parts-writer-1")))
    before = operator.get("v1", "Pod", "parts-reader-0", NAMESPACE)
    assert before is not None
    operator.delete("v1", "Pod", "parts-reader-0", NAMESPACE)

    def anew() -> Object | None:
        found = operator.get("v1", "Pod", "parts-reader-0", NAMESPACE)
        return found if found and found["metadata"]["uid"] != before["metadata"]["uid"] else None

    eventually(lambda: anew() is not None)
    assert mounted([anew() or {}]) == {"one"}
    assert {"one", "two"} <= configurations(operator)
    claims.starts = lambda pod: True
    running.join(timeout=60)
    assert failures == []
    eventually(lambda: set(pods(operator).values()) == {"b"})
    assert configurations(operator) & {"one", "two"} == {"two"}
    assert plan_of_parts(operator, tmp_path, text="b", configuration="two").nothing_to_do


@pytest.mark.usefixtures("installed")
def test_a_run_killed_between_two_waves_is_finished_by_the_next(
    operator: Cluster, server: ApiServer, claims: Claims, tmp_path: Path
) -> None:
    claims.starts = lambda pod: (
        pod["metadata"]["annotations"]["text"] == "a" or pod["metadata"]["labels"]["part"] == "main"
    )
    script = (
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[3:]\n"
        "from waves_chart import deploy_parts; from mxinstall.cluster import Cluster\n"
        "deploy_parts(Cluster.connect(Path(sys.argv[1])), Path(sys.argv[2]), text='b')\n"
    )
    command = [sys.executable, "-c", script, str(server.kubeconfig), str(tmp_path)]
    command += [str(Path(__file__).parents[1] / "support")]
    with subprocess.Popen(command) as run:
        eventually(lambda: "b" in (pods(operator).get("parts-writer-0"), pods(operator).get("parts-writer-1")))
        run.kill()
    assert sorted(marks(operator)) == ["parts-reader", TIER]
    drift = plan_of_parts(operator, tmp_path, text="b").releases[0].drift
    assert "StatefulSet/matrix/parts-reader (held back)" in drift
    claims.starts = lambda pod: True
    deploy_parts(operator, tmp_path, text="b")
    assert set(pods(operator).values()) == {"b"}
    assert marks(operator) == []
    assert plan_of_parts(operator, tmp_path, text="b").nothing_to_do


@pytest.mark.usefixtures("installed")
def test_a_new_set_of_named_processes_never_runs_beside_the_old_one(
    operator: Cluster, claims: Claims, tmp_path: Path
) -> None:
    """A writer more, a reader's type gone: everything stops before anything starts."""
    change: dict[str, Any] = {"together": "two", "text": "b", "sets": {"writer": {"replicas": 3}, "reader": None}}
    planned = plan_of_parts(operator, tmp_path, **change)
    assert str(planned.releases[0].rollout) == "stops all processes (3 StatefulSets), then starts"
    deploy_parts(operator, tmp_path, **change)
    sets = [{pod["metadata"]["annotations"]["together"] for pod in pods if _short(pod) != TIER} for pods in claims.seen]
    assert {"one"} in sets
    assert {"two"} in sets
    assert {"one", "two"} not in sets
    assert sorted(pods(operator)) == ["parts-main-0", TIER, "parts-writer-0", "parts-writer-1", "parts-writer-2"]
    assert marks(operator) == []
    assert plan_of_parts(operator, tmp_path, **change).nothing_to_do
    steps = [entry.name for entry in (read_account(operator, 1) or pytest.fail("no journal")).entries]
    assert "stop/parts" in steps


@pytest.mark.usefixtures("installed")
def test_a_run_killed_while_all_is_stopped_is_finished_or_taken_back_by_the_next(
    operator: Cluster, server: ApiServer, tmp_path: Path
) -> None:
    for together in ("two", "one"):  # go on with the change; take the change of site.yaml back
        script = (
            "import sys, os; from pathlib import Path; sys.path[:0] = sys.argv[3:]\n"
            "from waves_chart import deploy_parts; from mxinstall.cluster import Cluster\n"
            "from mxinstall.helm_release import HelmReleases\n"
            "HelmReleases.upgrade = lambda *a: os.kill(os.getpid(), 9)\n"
            "deploy_parts(Cluster.connect(Path(sys.argv[1])), Path(sys.argv[2]), together='three')\n"
        )
        command = [sys.executable, "-c", script, str(server.kubeconfig), str(tmp_path)]
        command += [str(Path(__file__).parents[1] / "support")]
        assert subprocess.run(command, check=False, timeout=120).returncode == -9
        assert list(pods(operator)) == [TIER]
        assert not plan_of_parts(operator, tmp_path, together=together).nothing_to_do
        deploy_parts(operator, tmp_path, together=together)
        assert len(pods(operator)) == 6
        assert marks(operator) == []
        assert plan_of_parts(operator, tmp_path, together=together).nothing_to_do


@pytest.mark.usefixtures("installed")
def test_processes_start_as_before_when_one_of_them_does_not_stop(
    operator: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "_STOP_MARGIN_SECONDS", 1.0)
    stays = {"metadata": {"finalizers": ["mxbundle.io/stays"]}}
    operator.patch("v1", "Pod", "parts-writer-1", stays, NAMESPACE)
    with pytest.raises(ProcessesDoNotStop, match="parts-writer-1"):
        deploy_parts(operator, tmp_path, together="two")
    operator.patch("v1", "Pod", "parts-writer-1", {"metadata": {"finalizers": None}}, NAMESPACE)
    eventually(lambda: len(pods(operator)) == 6)
    assert marks(operator) == []
    assert workload(operator, "StatefulSet", "parts-writer")["spec"]["replicas"] == 2
    deploy_parts(operator, tmp_path, together="two")
    assert plan_of_parts(operator, tmp_path, together="two").nothing_to_do


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("change", [{"together": "two"}, {"text": "b"}], ids=["stops", "rolls"])
def test_what_a_release_refuses_itself_is_refused_before_any_release_is_touched(
    operator: Cluster, tmp_path: Path, change: dict[str, str]
) -> None:
    before = {pod["metadata"]["uid"] for pod in operator.list("v1", "Pod", NAMESPACE)}
    records, known = helm_release.revisions(operator, RELEASE, NAMESPACE), read_inventory(operator)
    with pytest.raises(ReleaseFailed, match=r"no release was changed.*Refused"):
        deploy_parts(operator, tmp_path, check="Refused", **change)
    assert helm_release.revisions(operator, RELEASE, NAMESPACE) == records
    assert read_inventory(operator) == known
    assert {pod["metadata"]["uid"] for pod in operator.list("v1", "Pod", NAMESPACE)} == before
    assert marks(operator) == []


@pytest.mark.usefixtures("installed")
def test_nothing_is_stopped_while_a_process_is_on_a_node_that_is_away(operator: Cluster, tmp_path: Path) -> None:
    operator.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})
    bound = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "parts-writer-1", "namespace": NAMESPACE},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "n1"},
    }
    operator.request("POST", f"/api/v1/namespaces/{NAMESPACE}/pods/parts-writer-1/binding", body=bound)
    # What the check has to say comes after: its Job may have to wait for that node.
    with pytest.raises(NodeLost, match=r"node n1 does not answer; it has: parts-writer-1"):
        deploy_parts(operator, tmp_path, together="two", check="Refused")
    assert len(pods(operator)) == 6
    assert marks(operator) == []
    operator.delete("v1", "Pod", "parts-writer-1", NAMESPACE, grace_seconds=0)


@pytest.mark.usefixtures("installed")
def test_the_number_that_an_autoscaler_set_is_neither_drift_nor_lost(operator: Cluster, tmp_path: Path) -> None:
    deploy_parts(operator, tmp_path, autoscaled=["reader"])
    assert workload(operator, "StatefulSet", "parts-reader")["spec"]["replicas"] == 2
    operator.patch("apps/v1", "StatefulSet", "parts-reader", {"spec": {"replicas": 4}}, NAMESPACE, subresource="scale")
    eventually(lambda: "parts-reader-3" in pods(operator))
    assert plan_of_parts(operator, tmp_path, autoscaled=["reader"]).nothing_to_do
    deploy_parts(operator, tmp_path, autoscaled=["reader"], text="b")
    assert workload(operator, "StatefulSet", "parts-reader")["spec"]["replicas"] == 4
    deploy_parts(operator, tmp_path, autoscaled=["reader"], text="b", together="two")
    assert workload(operator, "StatefulSet", "parts-reader")["spec"]["replicas"] == 4
    assert marks(operator) == []
    deploy_parts(operator, tmp_path, text="b", together="two")
    assert workload(operator, "StatefulSet", "parts-reader")["spec"]["replicas"] == 2


@pytest.mark.usefixtures("installed")
def test_a_release_that_no_secret_can_hold_is_refused_before_any_change(operator: Cluster, tmp_path: Path) -> None:
    noise = "".join(f"{number:x}" for number in range(2**18, 2**18 + 250_000))
    with pytest.raises(ReleaseTooLarge, match=RELEASE):
        plan_of_parts(operator, tmp_path, text=noise)

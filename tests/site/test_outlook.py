"""What the plan foretells is what happens: a real API server with its controllers, the real helm, a small chart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from apiserver import ApiServer, breakable_api_server
from claimed_pods import claimed_pods
from mxinstall.cluster import Cluster, Object
from mxinstall.deploy.inventory import read_inventory
from mxinstall.outlook.changes import Seen, of_release, of_removed
from waves_chart import NAMESPACE, RELEASE, deploy_parts, plan_of_parts, remove_parts

CONTROLLERS = (
    "statefulset-controller",
    "deployment-controller",
    "replicaset-controller",
    "garbage-collector-controller",
)
KINDS = (("apps/v1", "StatefulSet"), ("apps/v1", "Deployment"), ("v1", "Service"), ("v1", "ConfigMap"))


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    running: ApiServer
    with breakable_api_server(tmp_path_factory.mktemp("apiserver"), CONTROLLERS) as running:
        cluster = Cluster.connect(running.kubeconfig)
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        with claimed_pods(cluster, NAMESPACE):
            yield cluster


@pytest.fixture
def installed(operator: Cluster, tmp_path: Path) -> Iterator[None]:
    deploy_parts(operator, tmp_path)
    yield
    remove_parts(operator)


def foretold(operator: Cluster, folder: Path, **values: object) -> list[Seen]:
    (planned,) = plan_of_parts(operator, folder, **values).releases
    return of_release(operator, planned, read_inventory(operator).get(RELEASE))


def state(operator: Cluster) -> dict[str, str]:
    """Every object of the release with all that a person could change about it."""
    found = [obj for kind in KINDS for obj in operator.list(*kind, NAMESPACE)]
    return {f"{obj['kind']}/{obj['metadata']['name']}": _content(obj) for obj in found if _is_ours(obj)}


def _is_ours(obj: Object) -> bool:
    return str(obj["metadata"]["name"]).startswith("parts")


def _content(obj: Object) -> str:
    metadata = {key: obj["metadata"].get(key) for key in ("labels", "annotations")}
    for own in ("deployment.kubernetes.io/revision",):
        (metadata["annotations"] or {}).pop(own, None)
    return json.dumps({**obj, "metadata": metadata, "status": None}, sort_keys=True)


def named(seen: list[Seen], *actions: str) -> set[str]:
    return {
        f"{entry.change.object.kind}/{entry.change.object.name}" for entry in seen if entry.change.action in actions
    }


def test_before_the_first_install_everything_is_made_and_nothing_ends(operator: Cluster, tmp_path: Path) -> None:
    seen = foretold(operator, tmp_path)
    before = state(operator)
    deploy_parts(operator, tmp_path)
    try:
        assert before == {}
        assert named(seen, "create") == set(state(operator))
        assert named(seen, "run") == {"ConfigMap/check"}
        assert [entry.restart for entry in seen if entry.restart] == []
    finally:
        remove_parts(operator)


@pytest.mark.usefixtures("installed")
def test_an_unchanged_release_changes_nothing(operator: Cluster, tmp_path: Path) -> None:
    assert foretold(operator, tmp_path) == []


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "values",
    [
        {"text": "b"},
        {"sets": {"main": {"wave": 0, "replicas": 1}, "writer": {"wave": 1, "replicas": 1}, "reader": None}},
        {"sets": {"late": {"wave": 2, "replicas": 1}}},
    ],
    ids=["other text", "one fewer and one gone", "one more"],
)
def test_what_is_foretold_is_what_happens(operator: Cluster, tmp_path: Path, values: dict[str, object]) -> None:
    seen = foretold(operator, tmp_path, **values)
    before, pods = state(operator), _pods(operator)
    deploy_parts(operator, tmp_path, **values)
    after, later = state(operator), _pods(operator)
    assert named(seen, "create") == set(after) - set(before)
    assert named(seen, "delete") == set(before) - set(after)
    assert named(seen, "change") == {name for name in set(before) & set(after) if before[name] != after[name]}
    assert sum(entry.restart.pods for entry in seen if entry.restart) == len(pods - later)


@pytest.mark.usefixtures("installed")
def test_a_field_that_cannot_be_changed_is_told_with_the_servers_words(operator: Cluster, tmp_path: Path) -> None:
    (planned,) = plan_of_parts(operator, tmp_path, text="b").releases
    service = next(obj for obj in planned.objects if obj["kind"] == "StatefulSet")
    service["spec"]["serviceName"] = "another"
    seen = of_release(operator, planned, read_inventory(operator).get(RELEASE))
    (refused,) = [entry.change for entry in seen if entry.change.action == "replace"]
    assert refused.object.name == service["metadata"]["name"]
    assert "spec: Forbidden" in refused.note
    assert "spec.serviceName" in {field.path for field in refused.fields}


@pytest.mark.usefixtures("installed")
def test_a_removed_release_takes_all_its_pods(operator: Cluster) -> None:
    seen = of_removed(operator, read_inventory(operator)[RELEASE])
    assert named(seen, "delete") == set(state(operator))
    assert sum(entry.restart.pods for entry in seen if entry.restart) == len(_pods(operator))


def _pods(operator: Cluster) -> set[str]:
    return {pod["metadata"]["uid"] for pod in operator.list("v1", "Pod", NAMESPACE)}

"""What a release says of the pods of a published Deployment, and that all else of it stays."""

from pathlib import Path
from typing import Any

import pytest
from shipped_stack import KUBE_VERSION, stack

from sitebundle.errors import RenderFailed
from sitebundle.helm import Helm
from sitebundle.operands import Operands
from sitebundle.rendering import Sources, render
from sitebundle.stack import Override

MANIFEST = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: operator, namespace: there, labels: {app: operator}}
spec:
  replicas: 1
  selector: {matchLabels: {app: operator}}
  template:
    metadata: {labels: {app: operator}}
    spec:
      affinity: {nodeAffinity: {kept: true}}
      tolerations:
        - {key: special, operator: Exists}
        - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 300}
      containers: [{name: manager, image: "docker.io/library/operator:1"}]
"""
LOST = {
    f"node.kubernetes.io/{state}": {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 15}
    for state in ("not-ready", "unreachable")
}


def rendered(folder: Path, **said: Any) -> dict[str, dict[str, Any]]:
    place = folder / "manifest.yaml"
    place.write_text(MANIFEST)
    override = Override.model_validate({"object": "Deployment/operator", **said})
    release = stack().release("barman-cloud").model_copy(update={"omit": (), "overrides": (override,)})
    sources, nobody = Sources(files={release.name: place}), Helm(Path("/no/helm/is/asked"))
    objects = render(stack(), release, sources, {}, nobody, KUBE_VERSION, str, Operands(fields=(), operators=()))
    return {entry["kind"]: entry for entry in objects}


def test_pods_leave_a_lost_node_as_soon_as_the_release_says_and_other_tolerations_stay(tmp_path: Path) -> None:
    pod = rendered(tmp_path, nodeLossSeconds=15)["Deployment"]["spec"]["template"]["spec"]
    assert pod["tolerations"][0] == {"key": "special", "operator": "Exists"}
    assert {entry.pop("key"): entry for entry in pod["tolerations"][1:]} == LOST


@pytest.mark.parametrize("how", ["required", "preferred"])
def test_pods_go_to_different_nodes_and_other_affinity_stays(tmp_path: Path, how: str) -> None:
    affinity = rendered(tmp_path, antiAffinity=how)["Deployment"]["spec"]["template"]["spec"]["affinity"]
    (term,) = affinity["podAntiAffinity"][f"{how}DuringSchedulingIgnoredDuringExecution"]
    term = term.get("podAffinityTerm", term)
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"] == {"matchLabels": {"app": "operator"}}
    assert affinity["nodeAffinity"] == {"kept": True}


def test_an_update_of_pods_that_share_no_node_asks_for_no_node_more(tmp_path: Path) -> None:
    spec = rendered(tmp_path, replicas=2, antiAffinity="required")["Deployment"]["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    assert "strategy" not in rendered(tmp_path, replicas=2, antiAffinity="preferred")["Deployment"]["spec"]


def test_several_pods_bring_their_budget_and_one_pod_none(tmp_path: Path) -> None:
    objects = rendered(tmp_path, replicas=2, priorityClassName="first")
    assert objects["Deployment"]["spec"]["replicas"] == 2
    assert objects["Deployment"]["spec"]["template"]["spec"]["priorityClassName"] == "first"
    budget = objects["PodDisruptionBudget"]
    assert budget["metadata"] == {"name": "operator", "namespace": "there", "labels": {"app": "operator"}}
    assert budget["spec"] == {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "operator"}}}
    assert "PodDisruptionBudget" not in rendered(tmp_path, replicas=1)


def test_an_override_of_what_the_manifest_has_not_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RenderFailed, match="override of Deployment/renamed: the manifest has no such object"):
        rendered(tmp_path, object="Deployment/renamed", replicas=2)

"""A stack.yaml that does not hold together is refused with the place of the fault, before anything is made of it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from shipped_stack import MANIFESTS

from sitebundle.errors import StackInvalid
from sitebundle.stack import read_stack


def shipped() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((MANIFESTS / "stack.yaml").read_text())
    return document


def written(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "stack.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_the_shipped_stack_holds_together(tmp_path: Path) -> None:
    assert read_stack(written(tmp_path, shipped())).name == "matrix"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"namespace": "elsewhere"}, "release valkey is in namespace elsewhere, which is not listed"),
        ({"needs": ["nobody"]}, "release valkey needs nobody, which does not exist"),
        ({"needs": ["synapse"]}, "releases need each other in a circle"),
        ({"images": {"redis": "global.image"}}, "image redis, which is not in the image table"),
        ({"manifest": "https://example.org/x.yaml"}, "a chart or a manifest"),
        ({"rollback": "perhaps"}, "releases.POSITION.rollback"),
        ({"rollback": "until"}, "releases.POSITION.rollback"),
        ({"name": "cnpg"}, "two releases have the same name"),
        ({"overrides": [{"object": "Deployment/a", "replicas": 2}]}, "overrides objects of a manifest, but takes none"),
        ({"omit": ["Service/valkey"]}, "omits objects of a manifest, but takes none"),
    ],
)
def test_a_release_that_does_not_fit_is_named_with_the_reason(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    document = shipped()
    (position,) = (number for number, entry in enumerate(document["releases"]) if entry["name"] == "valkey")
    document["releases"][position] |= change
    with pytest.raises(StackInvalid) as refusal:
        read_stack(written(tmp_path, document))
    assert reason.replace("POSITION", str(position)) in refusal.value.message


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ({"object": "Deployment/a"}, "changes nothing"),
        ({"object": "StatefulSet/a", "replicas": 2}, "only a Deployment's pods can be overridden"),
        ({"object": "Deployment/a", "replicas": 0}, "overrides.0.replicas"),
        ({"object": "Deployment/a", "nodeLossSeconds": 301}, "overrides.0.nodeLossSeconds"),
        ({"object": "Deployment/a", "antiAffinity": "hard"}, "overrides.0.antiAffinity"),
        ({"object": "Deployment/a", "priorityClassName": ""}, "overrides.0.priorityClassName"),
        ({"object": "Deployment/a", "tolerations": []}, "overrides.0.tolerations"),
        ({"object": "a", "replicas": 2}, "overrides.0.object"),
        ({"object": "Deployment/a", "container": "b", "env": "C"}, "container, env and image, or none of these"),
        (
            {"object": "Deployment/a", "container": "b", "env": "C", "image": "valkey", "replicas": 2},
            "container, env and image, or none of these",
        ),
        ({"object": "Deployment/a", "container": "b", "env": "C", "image": "x"}, "names image x"),
    ],
)
def test_an_override_that_says_nothing_or_too_much_is_refused(
    tmp_path: Path, override: dict[str, Any], reason: str
) -> None:
    document = shipped()
    (operator,) = (entry for entry in document["releases"] if entry["name"] == "cnpg")
    operator["overrides"] = [override]
    with pytest.raises(StackInvalid) as refusal:
        read_stack(written(tmp_path, document))
    assert reason in refusal.value.message


def test_pods_that_are_overridden_twice_are_refused(tmp_path: Path) -> None:
    document = shipped()
    (operator,) = (entry for entry in document["releases"] if entry["name"] == "cnpg")
    operator["overrides"].append({"object": "Deployment/cnpg-controller-manager", "replicas": 3})
    with pytest.raises(StackInvalid, match="overrides the pods of Deployment/cnpg-controller-manager twice"):
        read_stack(written(tmp_path, document))


def test_an_image_without_a_tag_of_its_own_is_refused(tmp_path: Path) -> None:
    document = shipped()
    document["images"]["valkey"] = "docker.io/valkey/valkey:latest"
    with pytest.raises(StackInvalid, match="has no tag, or `latest`"):
        read_stack(written(tmp_path, document))


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ({"serverName": "a.site:8448", "hosts": {"matrix": "m.a.site"}}, ("m.a.site", "a.site")),
        ({"serverName": "a.site", "hosts": {"matrix": "a.site"}}, ("a.site",)),
        ({"serverName": "a.site"}, ("a.site",)),
    ],
)
def test_the_edges_certificate_has_the_names_that_the_site_has(spec: dict[str, Any], names: tuple[str, ...]) -> None:
    plans = {plan.name: plan.certificate for plan in read_stack(MANIFESTS / "stack.yaml").secrets_at(spec)}
    assert plans["edge-tls"] is not None
    assert plans["edge-tls"].dns == names
    # Still told: what bears names of site.yaml is what people's devices see.
    assert plans["edge-tls"].site == ("hosts.matrix", "serverName")
    assert plans["postgres-replication-tls"] is not None

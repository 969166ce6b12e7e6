"""One YAML file per case under `cases/`: objects in, images out; every image is then rewritten, and nothing else is."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from sitebundle.mentions import mentions
from sitebundle.operands import Ignored, ImageField, Operands, read_operands
from sitebundle.podspecs import image_uses, rewrite_images, unnamed_defaults

CASES = sorted((Path(__file__).parent / "cases").glob("*.yaml"))
SHIPPED = read_operands(Path(__file__).parents[3] / "manifests/operands")


def load(path: Path) -> tuple[list[Any], list[tuple[str, str, str]], Operands]:
    case = yaml.safe_load(path.read_text())
    fields = tuple(ImageField.model_validate(field) for field in case.get("fields", ()))
    operands = SHIPPED.model_copy(update={"fields": (*SHIPPED.fields, *fields)})
    return list(yaml.safe_load_all(case["objects"])), [tuple(row) for row in case["expect"]], operands


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_image_of_the_case_is_found_and_nothing_else(path: Path) -> None:
    objects, expected, operands = load(path)
    assert [(use.reference, use.object, use.field) for use in image_uses(objects, "r", operands)] == expected


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_image_of_the_case_is_rewritten_and_the_original_is_left_alone(path: Path) -> None:
    objects, expected, operands = load(path)
    before = copy.deepcopy(objects)
    rewritten = rewrite_images(objects, lambda reference: f"site:5000/mx/{reference}", operands)
    assert objects == before
    found = [(use.reference, use.object, use.field) for use in image_uses(rewritten, "r", operands)]
    assert found == [(f"site:5000/mx/{reference}", *rest) for reference, *rest in expected]
    text = yaml.safe_dump_all(rewritten, width=10_000)
    assert text.count("site:5000/mx/") == len(expected)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_what_else_looks_like_an_image_is_mentioned(path: Path) -> None:
    objects, _, operands = load(path)
    expected = [tuple(row) for row in yaml.safe_load(path.read_text()).get("mentions", ())]
    assert [(m.reference, m.object, m.field) for m in mentions(objects, "r", operands)] == expected
    ignored = tuple(Ignored(text=row[0], reason="a test") for row in expected)
    assert mentions(objects, "r", operands.model_copy(update={"ignored": ignored})) == []


def test_there_are_cases() -> None:
    assert len(CASES) >= 13


def operator(*variables: str, image: str = "ghcr.io/cloudnative-pg/cloudnative-pg:1.30.0") -> dict[str, Any]:
    env = [{"name": name, "value": "ghcr.io/x/y:1"} for name in variables]
    pod = {"containers": [{"name": "manager", "image": image, "env": env}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "op"},
        "spec": {"template": {"spec": pod}},
    }


def custom(kind: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "postgresql.cnpg.io/v1", "kind": kind, "metadata": {"name": "x"}, "spec": spec}


ALL = ("OPERATOR_IMAGE_NAME", "POSTGRES_IMAGE_NAME", "PGBOUNCER_IMAGE_NAME")


@pytest.mark.parametrize(
    ("objects", "unnamed"),
    [
        ([operator(*ALL), custom("Cluster"), custom("Pooler")], []),
        ([operator()], ["OPERATOR_IMAGE_NAME"]),
        ([operator("OPERATOR_IMAGE_NAME"), custom("Cluster")], ["POSTGRES_IMAGE_NAME"]),
        ([operator("OPERATOR_IMAGE_NAME"), custom("Cluster", imageName="a/b:1")], []),
        ([operator("OPERATOR_IMAGE_NAME"), custom("Cluster", imageCatalogRef={"name": "c", "major": 17})], []),
        (
            [operator("OPERATOR_IMAGE_NAME"), custom("Cluster", imageName="a/b:1"), custom("Cluster")],
            ["POSTGRES_IMAGE_NAME"],
        ),
        ([operator("OPERATOR_IMAGE_NAME"), custom("Pooler", pgbouncer={})], ["PGBOUNCER_IMAGE_NAME"]),
        ([operator(image="site:5000/mx/ghcr.io/cloudnative-pg/cloudnative-pg:1.30.0")], ["OPERATOR_IMAGE_NAME"]),
        ([operator(image="ghcr.io/other/cloudnative-pg:1.30.0"), custom("Cluster")], []),
    ],
)
def test_a_default_that_is_compiled_in_and_needed_is_reported_unless_something_names_it(
    objects: list[Any], unnamed: list[str]
) -> None:
    assert [found.default.env for found in unnamed_defaults(objects, SHIPPED)] == unnamed

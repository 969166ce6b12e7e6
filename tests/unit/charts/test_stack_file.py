"""manifests/ agrees with itself: stack, profiles, charts and image contracts."""

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from imagery import fetched_images
from shipped_stack import MANIFESTS, stack, values_of

from sitebundle.reference import Reference

CHARTS = sorted(path.parent for path in (MANIFESTS / "charts").glob("*/Chart.yaml"))
NAMED_BY_A_PUBLISHED_MANIFEST = {"plugin-barman-cloud"}
"""Images that nothing but the manifest names; test_charts_keep_contracts.py sees them in it."""
OPEN_ON_PURPOSE = {"config", "edge.wellKnownClient", "tolerations[]"}


def contracts() -> dict[str, Any]:
    return {path.stem: tomllib.loads(path.read_text()) for path in (MANIFESTS / "images").glob("*.toml")}


def worker_types() -> list[dict[str, Any]]:
    types: list[dict[str, Any]] = yaml.safe_load((MANIFESTS / "charts/synapse/files/worker-types.yaml").read_text())
    return types


def test_the_foundation_comes_first_the_operator_before_the_database_and_synapse_last() -> None:
    levels = [[release.name for release in level] for level in stack().levels("demo")]
    level_of = {name: number for number, names in enumerate(levels) for name in names}
    assert levels[0] == ["foundation"]
    assert level_of["cnpg"] < level_of["postgres"] < level_of["synapse"]
    assert levels[-1] == ["synapse"]


@pytest.mark.parametrize(
    ("image", "oldest"), [("synapse", (1, 159)), ("cloudnative-pg", (1, 30)), ("valkey", (9,)), ("haproxy", (3, 2))]
)
def test_no_image_is_of_a_line_that_has_ended(image: str, oldest: tuple[int, ...]) -> None:
    """Older ones have known security advisories, or get no more mends."""
    tag = Reference.parse(stack().images[image]).tag
    assert tag is not None
    numbers = tuple(int(part) for part in re.findall(r"\d+", tag.partition("-")[0]))
    assert numbers[: len(oldest)] >= oldest


def test_each_image_of_the_table_is_used_and_has_a_contract_for_exactly_that_reference() -> None:
    used = {key for release in stack().releases for key in release.images}
    used |= {override.image for release in stack().releases for override in release.overrides if override.image}
    assert used | NAMED_BY_A_PUBLISHED_MANIFEST == set(stack().images)
    assert {key: contract["reference"] for key, contract in contracts().items()} == fetched_images()


def test_each_image_is_named_in_full() -> None:
    for text in stack().images.values():
        assert str(Reference.parse(text)) == text


def test_each_profile_has_values_for_releases_that_exist_only() -> None:
    names = {release.name for release in stack().releases}
    for profile in stack().profiles:
        content = yaml.safe_load((MANIFESTS / "profiles" / f"{profile}.yaml").read_text())
        assert set(content) - {"nodes"} <= names


def test_each_file_that_the_stack_names_is_there() -> None:
    for release in stack().releases:
        assert release.chart is None or (MANIFESTS / release.chart / "Chart.yaml").is_file()
        assert all((MANIFESTS / "values" / name).is_file() for name in release.values)


@pytest.mark.parametrize("profile", stack().profiles)
def test_synapse_counts_on_exactly_the_connections_that_the_database_has_for_it(profile: str) -> None:
    counted, given = values_of("synapse", profile)["database"], values_of("postgres", profile)
    assert counted["maxConnections"] == given["maxConnections"]
    assert counted["maxConnections"] - counted["reserve"] == given["clients"]


@pytest.mark.parametrize("chart", CHARTS, ids=lambda path: path.name)
def test_a_misspelt_value_is_refused_at_every_depth(chart: Any) -> None:
    schema = json.loads((chart / "values.schema.json").read_text())
    assert list(_open_objects(schema, "")) == []


def _open_objects(node: Any, path: str) -> Iterator[str]:
    if not isinstance(node, dict) or path.lstrip(".") in OPEN_ON_PURPOSE:
        return
    if node.get("type") == "object" and "additionalProperties" not in node:
        yield path
    for key, child in node.get("properties", {}).items():
        yield from _open_objects(child, f"{path}.{key}")
    for child in node.get("patternProperties", {}).values():
        yield from _open_objects(child, f"{path}.rc_*")
    for key, child in node.get("definitions", {}).items():
        yield from _open_objects(child, f"{path}#{key}")
    if "items" in node:
        yield from _open_objects(node["items"], f"{path}[]")


@pytest.mark.parametrize("chart", CHARTS, ids=lambda path: path.name)
def test_each_chart_value_is_known_to_the_schema_and_used_by_a_template(chart: Any) -> None:
    values = yaml.safe_load((chart / "values.yaml").read_text())
    schema = json.loads((chart / "values.schema.json").read_text())
    templates = "".join(path.read_text() for path in sorted((chart / "templates").rglob("*")) if path.is_file())
    assert set(values) == set(schema["properties"])
    assert [key for key in values if f".Values.{key}" not in templates] == []


def test_the_types_of_the_workers_table_are_those_of_the_type_file() -> None:
    schema = json.loads((MANIFESTS / "charts/synapse/values.schema.json").read_text())
    assert set(schema["properties"]["workers"]["properties"]) == {entry["name"] for entry in worker_types()}


def test_each_routing_pattern_is_anchored_and_stands_once() -> None:
    routes = [route for entry in worker_types() for route in entry["routes"]]
    # A condition picks some of the requests of another type's pattern.
    patterns = [path for route in routes if not set(route) & {"without", "with"} for path in route["paths"]]
    assert len(patterns) == len(set(patterns)) > 30
    for pattern in patterns:
        assert pattern.startswith("^/_")
        assert " " not in pattern
        re.compile(pattern)


def test_only_types_that_clients_reach_have_routes() -> None:
    for entry in worker_types():
        assert entry["listeners"] or not entry["routes"]
        assert entry["fallback"] in {"main", "none", "reads", *(other["name"] for other in worker_types())}

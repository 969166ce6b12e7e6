"""The JSON Schema of `site.yaml` and the page of its fields say what the model says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from mxinstall.site.fields import leaves
from mxinstall.site.model import HOW_WRITTEN, Site
from mxinstall.site.page import page
from mxinstall.site.schema import schema, text

ROOT = Path(__file__).parents[3]
REFERENCE = ROOT / "docs" / "reference"
GOOD = sorted((Path(__file__).parent / "good").glob("*.yaml"))


def nodes(part: Any) -> Any:
    if isinstance(part, dict):
        yield part
        for inner in part.values():
            yield from nodes(inner)
    if isinstance(part, list):
        for inner in part:
            yield from nodes(inner)


def test_the_schema_in_the_reference_is_the_one_of_the_model() -> None:
    assert (REFERENCE / "site.schema.json").read_text() == text(), (
        "run: python -m mxinstall.site.schema > docs/reference/site.schema.json"
    )


def test_the_page_in_the_reference_is_the_one_of_the_model() -> None:
    assert (REFERENCE / "site-yaml.md").read_text() == page(), (
        "run: python -m mxinstall.site.page > docs/reference/site-yaml.md"
    )


def test_the_schema_is_one_and_refers_nowhere() -> None:
    Draft7Validator.check_schema(schema())
    assert not [node for node in nodes(schema()) if "$ref" in node]


def test_every_field_says_what_it_is_for() -> None:
    found = list(leaves())
    assert len(found) > 40
    assert [leaf.path for leaf in found if not leaf.meaning] == []
    whole = schema()
    for leaf in found:
        part = whole
        for name in leaf.path.split("."):
            # A part that may be missing altogether stands in the first of two choices.
            part = part.get("anyOf", [part])[0]["properties"][name]
        assert part["description"], leaf.path


def test_a_name_that_is_no_field_is_refused_at_every_depth() -> None:
    free = [node for node in nodes(schema()) if "properties" in node and node["additionalProperties"] is not False]
    assert not free


def test_every_pattern_is_also_said_in_words() -> None:
    patterns = {node["pattern"] for node in nodes(schema()) if isinstance(node.get("pattern"), str)}
    assert patterns <= set(HOW_WRITTEN)
    assert all(" like " in words for words in HOW_WRITTEN.values())


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_a_file_that_the_model_takes_passes_the_schema(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    Site.model_validate(content)
    assert [fault.message for fault in Draft7Validator(schema()).iter_errors(content)] == []


def test_the_example_of_the_page_passes_the_schema() -> None:
    example = page().partition("```yaml\n")[2].partition("```")[0]
    content = yaml.safe_load(example)
    Site.model_validate(content)
    assert not list(Draft7Validator(schema()).iter_errors(content))

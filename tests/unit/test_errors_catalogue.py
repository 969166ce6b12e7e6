"""The catalogue of errors keeps its promises: ids, exit codes, templates, and a page that says the same."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from sitebundle import errors
from sitebundle.error_reference import fields_of, page
from sitebundle.errors import CATALOGUE, MxError

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "sitebundle").rglob("*.py"), *(ROOT / "bundler").rglob("*.py"), *(ROOT / "installer").rglob("*.py")]
RANGES = {
    "BundleError": range(10, 20),
    "TrustError": range(20, 30),
    "LockError": range(30, 40),
    "TransportError": range(40, 50),
    "SiteError": range(50, 70),
    "DeployError": range(70, 90),
    "RuleError": range(90, 100),
}
LEAVES = sorted(CATALOGUE.values(), key=lambda leaf: leaf.exit_code)


def named(leaf: type[MxError]) -> str:
    return leaf.id


@pytest.mark.parametrize("leaf", LEAVES, ids=named)
def test_id_exit_code_template_and_hint_are_well_formed(leaf: type[MxError]) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", leaf.id)
    (family,) = [base.__name__ for base in leaf.__mro__ if base.__name__ in RANGES]
    assert leaf.exit_code in RANGES[family]
    assert leaf.template().endswith((".", ":", "}"))
    assert leaf.hint, "an error without a word on what to do"


@pytest.mark.parametrize("leaf", LEAVES, ids=named)
def test_an_error_can_be_rendered_for_people_and_for_machines(leaf: type[MxError]) -> None:
    wanted = fields_of(leaf.template()) | fields_of(leaf.hint)
    fault = leaf(**{name: f"<{name}>" for name in wanted})
    assert all(f"<{name}>" in fault.message + fault.what_to_do for name in wanted)
    line = json.loads(json.dumps(fault.as_json()))
    assert (line["error"], line["exit_code"]) == (leaf.id, leaf.exit_code)


def test_an_error_inside_an_error_has_no_full_stop_of_its_own() -> None:
    inner = errors.RegistryUnreachable(registry="r", detail="no route")
    outer = errors.BlobUnfetchable(digest="d", reference="a:1", detail=inner, needed_by="x")
    assert outer.message == "Blob d of a:1 cannot be fetched: r does not answer: no route. Needed by x."


def test_a_second_error_cannot_take_an_id_or_an_exit_code() -> None:
    taken = LEAVES[0]
    with pytest.raises(TypeError, match=taken.id):
        type("Twin", (MxError,), {"__doc__": "Twin.", "id": taken.id, "exit_code": 9})
    with pytest.raises(TypeError, match=f"exit code {taken.exit_code}"):
        type("Double", (MxError,), {"__doc__": "Double.", "id": "double-of-one", "exit_code": taken.exit_code})
    assert "double-of-one" not in CATALOGUE


def raised_with_fields() -> list[tuple[str, type[MxError], ast.Call]]:
    """Every place that makes a catalogued error, with the class and the call."""
    leaves = {leaf.__name__: leaf for leaf in LEAVES}
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if name in leaves:
                    found.append((f"{path.relative_to(ROOT)}:{node.lineno}", leaves[name], node))
    return found


def test_every_place_that_raises_an_error_fills_its_whole_template() -> None:
    places = raised_with_fields()
    assert places, "no error is raised anywhere: the search is broken"
    missing = []
    for place, leaf, call in places:
        assert not call.args, f"{place}: fields are given by name"
        given = {keyword.arg for keyword in call.keywords}
        lacking = (fields_of(leaf.template()) | fields_of(leaf.hint)) - given
        if lacking and None not in given:
            missing.append(f"{place}: {leaf.__name__} without {sorted(lacking)}")
    assert not missing, "\n".join(missing)


def test_every_error_of_the_catalogue_is_raised_somewhere() -> None:
    used = {leaf.id for _, leaf, _ in raised_with_fields()}
    assert not {leaf.id for leaf in LEAVES} - used, "an error that nobody can meet has no place in the catalogue"


def test_errors_that_people_meet_are_declared_in_one_module_only() -> None:
    families = {"MxError", *RANGES, *(leaf.__name__ for leaf in LEAVES)}
    strays = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"
        for path in SOURCES
        if path != Path(errors.__file__)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and {getattr(b, "id", getattr(b, "attr", "")) for b in node.bases} & families
    ]
    assert not strays, "\n".join(strays)


def test_the_page_of_errors_is_what_the_catalogue_says() -> None:
    assert (ROOT / "docs/reference/errors.md").read_text() == page(), (
        "run: python -m sitebundle.error_reference > docs/reference/errors.md"
    )

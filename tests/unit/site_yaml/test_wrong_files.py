"""Wrong files as data: `wrong/NN-name.yaml`, and in `wrong/expected.yaml` where and how each is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from mxinstall.site import read_site
from mxinstall.site.faults import MOST_TOLD
from mxinstall.site.schema import schema
from mxinstall.site.source import MOST_BYTES, MOST_NODES, read_source
from mxinstall.site.values import site_from

from sitebundle.errors import SiteInvalid

WRONG = Path(__file__).parent / "wrong"
EXPECTED: dict[str, dict[str, Any]] = yaml.safe_load((WRONG / "expected.yaml").read_text())
GOOD = (Path(__file__).parent / "good" / "small.yaml").read_text()


def faults_of(path: Path) -> list[dict[str, Any]]:
    with pytest.raises(SiteInvalid) as caught:
        read_site(path)
    found: list[dict[str, Any]] = caught.value.fields["faults"]
    for fault in found:
        assert f"line {fault['line']}, column {fault['column']}: " in caught.value.message
    return found


def test_every_wrong_file_has_its_expectation_and_there_are_enough() -> None:
    assert {path.name for path in WRONG.glob("*.yaml")} - {"expected.yaml"} == set(EXPECTED)
    assert len(EXPECTED) >= 30


@pytest.mark.parametrize("name", EXPECTED)
def test_a_wrong_file_is_told_with_its_place_and_what_to_do(name: str) -> None:
    expected = dict(EXPECTED[name])
    del expected["schema"]
    found = faults_of(WRONG / name)
    assert {**found[0], "faults": len(found)} == expected
    assert all(fault["todo"] for fault in found)


@pytest.mark.parametrize("name", [name for name, told in EXPECTED.items() if told["schema"] != "not asked"])
def test_the_schema_refuses_what_is_wrong_by_form(name: str) -> None:
    content = yaml.safe_load((WRONG / name).read_text())
    accepted = Draft7Validator(schema()).is_valid(content)
    assert accepted == (EXPECTED[name]["schema"] == "accepts")


def test_what_the_schema_lets_through_is_wrong_by_meaning_only() -> None:
    let_through = {name for name, told in EXPECTED.items() if told["schema"] == "accepts"}
    by_form = {name for name in let_through if EXPECTED[name]["id"].startswith("field.")}
    assert not by_form


def test_all_faults_are_told_at_once_by_line() -> None:
    found = faults_of(WRONG / "38-several-at-once.yaml")
    assert [fault["line"] for fault in found] == [3, 9, 11, 12]


def test_more_faults_than_a_screen_holds_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(GOOD + "".join(f"  x{number}: 1\n" for number in range(MOST_TOLD + 5)))
    with pytest.raises(SiteInvalid) as caught:
        read_site(path)
    assert f"{MOST_TOLD + 5} faults:" in caught.value.message
    assert "and 5 more" in caught.value.message
    assert len(caught.value.message.splitlines()) == MOST_TOLD + 2


def test_the_error_can_be_read_by_a_program() -> None:
    with pytest.raises(SiteInvalid) as caught:
        read_site(WRONG / "38-several-at-once.yaml")
    told = json.loads(json.dumps(caught.value.as_json()))
    assert told["fields"]["faults"][1]["field"] == "spec.storage.databse"
    assert told["exit_code"] == 50


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(GOOD + "#" * MOST_BYTES)
    assert faults_of(path)[0]["id"] == "file.too-large"


def test_a_byte_order_mark_of_utf8_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert read_site(path).name == "north-1"


def test_lines_may_end_as_on_another_system(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_bytes(GOOD.replace("\n", "\r\n").replace("database: fast", "databse: fast").encode())
    assert faults_of(path)[0]["line"] == 9


def test_aliases_and_merges_in_reason_are_read(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(
        GOOD.replace("default: bulk, database: fast", "default: &class bulk, database: *class")
        + "  workers:\n    synchrotron: &two {replicas: 2, connections: {max: 5}}\n"
        + "    client-reader: {<<: *two, replicas: 3}\n"
    )
    site = read_site(path)
    assert site.spec.storage.database == "bulk"
    assert site.spec.workers["client-reader"] == {"replicas": 3, "connections": {"max": 5}}


def test_what_a_merge_brings_is_told_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(GOOD + "  tls: &t {issuer: generated}\n  federation: {<<: *t, enabled: perhaps}\n")
    found = faults_of(path)
    assert [(fault["field"], fault["line"]) for fault in found] == [
        ("spec.federation.issuer", 11),
        ("spec.federation.enabled", 12),
    ]


def test_the_mode_of_a_file_in_a_charts_values_may_be_octal(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(GOOD + "  values: {synapse: {config: {mode: 0644}}}\n")
    assert read_site(path).spec.values["synapse"]["config"]["mode"] == 0o644


def test_a_number_that_yaml_counts_otherwise_does_not_keep_a_system_from_being_looked_at() -> None:
    assert read_site(WRONG / "27-octal-port.yaml", kept=True).spec.ports.turn.listen == 0o5350


def test_thousands_of_values_are_read() -> None:
    lines = "".join(f"    k{number}: {{a: 1}}\n" for number in range(MOST_NODES // 10))
    source, faults = read_source((GOOD + "  values:\n" + lines).encode())
    assert source is not None
    assert not faults


MARKS = ["spec:", "- ", "{", "}", "[", "]", "&a ", "*a", "<<: ", "!t ", "!!int ", "!!set ", '"', "'", "? ", "|", ">"]
TRAPS = ["0x", "#", "---", "...", "2026-13-01", "1:2:3", "on", "~", ".nan", "=", "%YAML", "\n", "  ", "\t", ": ", "\0"]
PIECES = st.sampled_from([*MARKS, *TRAPS, "\u2028", "\ufeff", "é"])


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES | st.text(max_size=3), max_size=30), st.integers(0, len(GOOD)), st.integers(0, 20))
def test_no_text_makes_the_reader_fail_in_another_way(pieces: list[str], start: int, without: int) -> None:
    text = GOOD[:start] + "".join(pieces) + GOOD[start + without :]
    source, faults = read_source(text.encode("utf-8", "surrogatepass"))
    if source is None:
        assert faults
    else:
        site, more = site_from(source, kept=False)
        assert site is not None or more or faults
        assert all(str(fault) for fault in [*more, *faults])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_make_the_reader_fail_in_another_way(data: bytes) -> None:
    source, faults = read_source(data)
    assert source is not None or faults

"""The rules as they are declared, their page, and what decides in them without any chart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mxbundle.lint.model import NEEDS
from mxbundle.lint.page import page
from mxbundle.lint.rules import RULES
from mxbundle.lint.rules.database import wrong_schedule
from mxbundle.lint.rules.edge import size_bytes
from mxbundle.lint.rules.outside import is_inside
from mxbundle.lint.run import read_accepted
from mxbundle.lint.subject import read_nodes
from mxbundle.lint.workloads import matches, share

from sitebundle.errors import StackInvalid

ROOT = Path(__file__).parents[3]


def test_the_page_of_rules_is_what_is_declared() -> None:
    assert (ROOT / "docs/reference/lint.md").read_text() == page(), (
        "run: python -m mxbundle.lint.page > docs/reference/lint.md"
    )


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_a_rule_says_what_it_protects_and_what_to_do(rule) -> None:  # type: ignore[no-untyped-def]
    assert re.fullmatch(r"[a-z]+\.[a-z]+(-[a-z]+)*", rule.id)
    assert not rule.title.endswith(".")
    assert rule.protects.endswith(".")
    assert rule.todo.endswith(".")
    assert set(rule.needs) <= set(NEEDS)


def test_a_rule_stands_in_the_file_of_its_category() -> None:
    for rule in RULES.values():
        assert rule.probe.__module__ == f"mxbundle.lint.rules.{rule.category}"


@pytest.mark.parametrize(
    "schedule", ["0 0 2 * * *", "*/10 0,30 1-5 1 jan sun", "@daily", "@every 1h30m", "0 0 0 ? * MON-FRI"]
)
def test_a_schedule_of_six_fields_is_taken(schedule: str) -> None:
    assert wrong_schedule(schedule) is None


@pytest.mark.parametrize(
    "schedule", ["0 2 * * *", "", "0 0 24 * * *", "60 0 0 * * *", "0 0 0 0 * *", "0 0 0 * 13 *", "a b c d e f"]
)
def test_another_schedule_is_refused(schedule: str) -> None:
    assert wrong_schedule(schedule) is not None


@pytest.mark.parametrize(
    ("value", "total", "up", "counted"),
    [(1, 5, True, 1), ("50%", 5, True, 3), ("50%", 5, False, 2), ("100%", 3, True, 3), ("0%", 3, True, 0)],
)
def test_a_percentage_is_rounded_as_kubernetes_does(value: object, total: int, up: bool, counted: int) -> None:
    assert share(value, total, up=up) == counted


def test_a_selector_matches_as_kubernetes_says() -> None:
    labels = {"a": "1", "b": "2"}
    assert matches({}, labels)
    assert not matches(None, labels)
    assert matches({"matchLabels": {"a": "1"}}, labels)
    assert not matches({"matchLabels": {"a": "2"}}, labels)
    assert matches({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "3"]}]}, labels)
    assert matches({"matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["1"]}]}, labels)
    assert matches({"matchExpressions": [{"key": "c", "operator": "DoesNotExist"}]}, labels)
    assert not matches({"matchExpressions": [{"key": "c", "operator": "Exists"}]}, labels)


@pytest.mark.parametrize(
    ("text", "size"), [("50M", 50 << 20), ("50m", 50 << 20), (7, 7), ("1G", 1 << 30), ("100k", 100 << 10), ("x", None)]
)
def test_a_size_is_read_in_every_form(text: object, size: int | None) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize(
    "host",
    [
        "valkey",
        "a.b.svc",
        "a.b.svc.cluster.local:8008",
        "10.0.0.1",
        "127.0.0.1:9",
        "[::1]:80",
        "x.example.site",
        "%[var]",
    ],
)
def test_a_host_of_the_site_is_inside(host: str) -> None:
    assert is_inside(host, {"example.site"})


@pytest.mark.parametrize("host", ["matrix.org", "8.8.8.8", "stun.l.google.com:19302", "notexample.site", "u:p@a.org"])
def test_another_host_is_outside(host: str) -> None:
    assert not is_inside(host, {"example.site"})


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        ("accepted: [{rule: images.pinned, object: x}]", "accepted.reason"),
        ("accepted: [{rule: images.pinned, object: x, reason: short}]", "at least 20"),
        ("accepted: [{rule: nothing.like-it, object: x, reason: 'a reason that is long enough'}]", "there is no rule"),
    ],
)
def test_an_exception_without_a_rule_or_a_reason_is_refused(content: str, detail: str, tmp_path: Path) -> None:
    (tmp_path / "lint.yaml").write_text(content)
    with pytest.raises(StackInvalid, match=detail):
        read_accepted(tmp_path)


def test_a_profile_that_miscounts_its_nodes_is_refused(tmp_path: Path) -> None:
    profile = tmp_path / "demo.yaml"
    profile.write_text("nodes: {count: 0}")
    with pytest.raises(StackInvalid, match=r"nodes\.count"):
        read_nodes(profile)
    profile.write_text("nodes: {count: 9, roles: {control-plane: 3, database: 2}}")
    nodes = read_nodes(profile)
    assert nodes is not None
    assert nodes.ordinary == 4

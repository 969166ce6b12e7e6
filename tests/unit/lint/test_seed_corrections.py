"""The page of corrections is whole: every numbered error, and each thing that is said to hold one exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from mxbundle.lint.rules import RULES
from mxinstall.preflight import CHECKS

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/reference/seed-corrections.md"
TECHNOLOGIES = 18
LATER = (
    "calls",
    "monitoring",
    "the clients",
    "the edge at MetalLB",
    "the object store",
)
"""Parts that are not built yet, as the page calls them."""


def rows(columns: int) -> list[list[str]]:
    """The rows of the tables with that many columns."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if len(row) == columns and row[-1] != "held by" and not set(row[0]) <= set("- ")]


def holders() -> list[str]:
    return [row[-1] for row in (*rows(3), *rows(4))]


def test_all_fifty_five_errors_have_their_row_once_and_in_order() -> None:
    assert [row[0] for row in rows(4)] == [str(number) for number in range(1, 56)]
    assert len(rows(3)) == TECHNOLOGIES


def test_each_row_says_what_was_said_and_what_is_shipped() -> None:
    for row in (*rows(3), *rows(4)):
        assert all(row), row


@pytest.mark.parametrize("held_by", holders())
def test_what_holds_a_row_exists(held_by: str) -> None:
    parts = held_by.split(", ")
    for part in parts:
        if part.startswith("arrives with "):
            assert part.removeprefix("arrives with ") in LATER
        elif part.startswith("`tests/"):
            path, _, name = part.strip("`").partition("::")
            functions = {node.name for node in ast.parse((ROOT / path).read_text()).body if hasattr(node, "name")}
            assert name in functions, part
        else:
            assert re.fullmatch(r"`[a-z]+\.[a-z-]+`", part), part
            assert part.strip("`") in {*RULES, *CHECKS}, part


def test_no_other_page_repeats_a_claim_without_a_source() -> None:
    pages = [ROOT / "README.md", *(page for page in (ROOT / "docs").rglob("*.md") if page != PAGE)]
    for page in pages:
        assert not re.search(r"EdenDB|market share|27\.6 ?%", page.read_text()), page.name

"""Rows of verdicts in docs/reference/FAMILY.jsonl, one a line, and whether each still speaks for the code."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.matrix.registry import Case

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/reference"


def code_of(covers: Sequence[str]) -> str:
    """A digest over the names and contents of the project's own files below `covers`, in 16 hex digits.

    Raises ValueError when one of them names nothing: a row that covers nothing would never grow old.
    """
    total = hashlib.sha256()
    for cover in sorted(covers):
        listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", cover)
        names = sorted(name for name in listed.split("\0") if name and (ROOT / name).is_file())
        if not names:
            raise ValueError(f"{cover} names no file of the project")
        for name in names:
            total.update(f"{name}\0{hashlib.sha256((ROOT / name).read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]


def commit() -> str:
    """The commit that is checked out, with `+` when files differ from it."""
    head = _git("rev-parse", "--short=12", "HEAD").strip()
    made = (".jsonl", "failures.md", "edges.md", "live.md")
    others = [line for line in _git("status", "--porcelain").splitlines() if not line.endswith(made)]
    return head + ("+" if others else "")


def append(family: str, row: dict[str, Any]) -> None:
    """Add one row, whole or not at all as far as a reader of lines can tell."""
    with (FOLDER / f"{family}.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def newest(family: str) -> dict[str, dict[str, Any]]:
    """The last row of each case. A line that was cut off is left out."""
    path = FOLDER / f"{family}.jsonl"
    found: dict[str, dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found[str(row["case"])] = row
    return found


def is_fresh(case: Case, row: dict[str, Any] | None) -> bool:
    """Whether `row` was seen with the code that the case covers now."""
    return row is not None and row["code"] == code_of(case.covers)


def _git(*arguments: str) -> str:
    command = ["git", "-c", "safe.directory=*", *arguments]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout

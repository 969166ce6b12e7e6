"""Rows of verdicts in docs/reference/FAMILY.jsonl, one a line, and whether each still speaks for the code."""

from __future__ import annotations

import datetime
import hashlib
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.matrix.registry import Case, Row

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


def stamped(case: Case, verdict: str, took_seconds: float, row: Row) -> Row:
    """A row as it is kept: what was seen, with who, how, when, and with which code."""
    stamp = {"case": case.id, "verdict": verdict, "took": round(took_seconds, 1), "commit": commit()}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {**stamp, **row, "code": code_of(case.covers), "date": now}


def append(family: str, row: Row) -> None:
    """Add one row, whole or not at all as far as a reader of lines can tell."""
    path = FOLDER / f"{family}.jsonl"
    whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
    with path.open("a") as file:
        # A line that was cut off must not take this one along.
        file.write(("" if whole else "\n") + json.dumps(row) + "\n")


def newest(family: str, folder: Path | None = None) -> dict[str, Row]:
    """The newest row of each case by its date, whatever the order of lines: files of two runs may be joined.

    A line that was cut off is left out.
    """
    found: dict[str, Row] = {}
    for row in _rows((folder or FOLDER) / f"{family}.jsonl"):
        known = found.get(str(row["case"]))
        if known is None or str(row.get("date", "")) >= str(known.get("date", "")):
            found[str(row["case"])] = row
    return found


def take_over(family: str, folder: Path) -> int:
    """Append the rows of another work tree's `folder` that are not here yet; how many there were."""
    here = [json.dumps(row) for row in _rows(FOLDER / f"{family}.jsonl")]
    new = [row for row in _rows(folder / f"{family}.jsonl") if json.dumps(row) not in here]
    for row in new:
        append(family, row)
    return len(new)


def _rows(path: Path) -> list[Row]:
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(dict(json.loads(line)))
        except ValueError:
            continue
    return found


def is_fresh(case: Case, row: Row | None) -> bool:
    """Whether `row` was seen with the code that the case covers now."""
    return row is not None and row["code"] == code_of(case.covers)


def _git(*arguments: str) -> str:
    command = ["git", "-c", "safe.directory=*", *arguments]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout

"""The examples of docs/reference/routing.md: which request is answered by which type. The page is the data."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/routing.md"
TYPES: list[dict[str, Any]] = yaml.safe_load((ROOT / "manifests/charts/synapse/files/worker-types.yaml").read_text())
_ROW = re.compile(r"^\| (GET|PUT|POST|DELETE) (/\S*) \| (\S+) \|$", re.M)
_ROWS = re.compile(r"^\| (?!request |---).*\|$", re.M)


@dataclass(frozen=True)
class Example:
    """One row. `path` has placeholders: ROOM, USER, EVENT, ALIAS, DEVICE, SINCE."""

    method: str
    path: str
    backend: str

    @property
    def type(self) -> str:
        """The type of worker that answers, without how it is chosen."""
        return re.sub(r"-by-(token|room|source|uri)$", "", self.backend)

    def with_values(self, values: dict[str, str]) -> str:
        """The path with its placeholders filled."""
        return re.sub("|".join(values), lambda match: values[match[0]], self.path)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def examples() -> list[Example]:
    """Every row of the page, in its order. Raises AssertionError for a row that is none."""
    text = PAGE.read_text()
    found = [Example(*match) for match in _ROW.findall(text)]
    assert len(found) == len(_ROWS.findall(text)), "a row of the page is not `| METHOD /path | type |`"
    return found


def answers(example: Example, running: set[str]) -> str:
    """The type that answers where only the types `running` (and main) run."""
    if example.type in {*running, "main"}:
        return example.type
    (fallback,) = (entry["fallback"] for entry in TYPES if entry["name"] == example.type)
    return fallback if fallback in running else "main"

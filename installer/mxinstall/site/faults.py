"""One thing that is wrong with a `site.yaml`: where, what was seen, what to do; and how several are told at once.

Pure values. Who finds them: `source` (the text), `files` (fields and values), `agreement` (values against each other).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MOST_TOLD = 20
"""More faults than these are counted, not told: the first ones repaired, the rest is another file."""


@dataclass(frozen=True)
class Fault:
    """`id` is stable (`yaml.repeated`, `ports.disjoint`); `field` is a dotted path, empty for the file as a whole.

    line, column: from 1; None where the values were not read from a file.
    """

    id: str
    field: str
    seen: str
    todo: str
    line: int | None = None
    column: int | None = None

    def __lt__(self, other: Fault) -> bool:
        return self._order < other._order

    @property
    def _order(self) -> tuple[int, int, str]:
        return self.line or 0, self.column or 0, self.field

    def __str__(self) -> str:
        place = f"line {self.line}, column {self.column}: " if self.line else ""
        field = f"{self.field}{' ' if self.seen.startswith('is ') else ': '}" if self.field else ""
        return f"{place}{field}{self.seen}{f'; {self.todo}' if self.todo else ''}"

    def as_json(self) -> dict[str, str | int | None]:
        """For `--json`."""
        return {
            "id": self.id,
            "field": self.field,
            "line": self.line,
            "column": self.column,
            "seen": self.seen,
            "todo": self.todo,
        }


def told(faults: Iterable[Fault]) -> str:
    """All of them, by line: one in a sentence, several as a list of at most MOST_TOLD."""
    ordered = sorted(faults)
    if len(ordered) == 1:
        return str(ordered[0])
    lines = [f"{len(ordered)} faults:", *(f"  {fault}" for fault in ordered[:MOST_TOLD])]
    if len(ordered) > MOST_TOLD:
        lines.append(f"  and {len(ordered) - MOST_TOLD} more")
    return "\n".join(lines)

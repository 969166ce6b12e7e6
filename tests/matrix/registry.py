"""The cases by name, with what each covers: a row is fresh as long as nothing of that has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.matrix.trial import Trial

Row = dict[str, Any]
"""What a case saw; `seconds` is what its table shows. The runner adds case, verdict, took, commit, code and date."""

Act = Callable[["Trial"], Row]


class Wrong(Exception):
    """The system did not do what it promises; the text says what was seen. `row` is kept all the same."""

    def __init__(self, text: str, row: Row | None = None) -> None:
        super().__init__(text)
        self.row = row or {}


@dataclass(frozen=True)
class Case:
    """One case of a family (the table it belongs to). `covers`: files and folders that it speaks for."""

    family: str
    id: str
    title: str
    covers: tuple[str, ...]
    act: Act


CASES: dict[str, Case] = {}
"""Every case by `family/id`, in the order of declaration."""


def case(family: str, identity: str, title: str, covers: tuple[str, ...]) -> Callable[[Act], Act]:
    """Declare a function as a case. Raises ValueError when the name is taken."""

    def declare(act: Act) -> Act:
        name = f"{family}/{identity}"
        if name in CASES:
            raise ValueError(f"case {name} is declared twice")
        CASES[name] = Case(family, identity, title, covers, act)
        return act

    return declare


def shard(names: list[str], number: int, count: int) -> list[str]:
    """Every `count`-th name from the `number`-th on (from 1). Raises ValueError for a shard that does not exist."""
    if not 1 <= number <= count:
        raise ValueError(f"there is no shard {number} of {count}")
    return names[number - 1 :: count]

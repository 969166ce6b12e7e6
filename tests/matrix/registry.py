"""The cases by name, with what each covers: a row is fresh as long as nothing of that has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.matrix.trial import Trial

Row = dict[str, Any]
"""What a case saw; `seconds` is what its table shows. The runner adds case, verdict, took, commit, code and date."""

Act = Callable[["Trial"], Row]


AVOIDED = "mxtrial.mxbundle.io/avoided"
"""The taint of a node that is to take no more pods while a case prepares."""
EXPECTED_SECONDS = {"failures": 100.0, "edges": 180.0}
"""What a case of a family takes when it does not say."""


class Wrong(Exception):
    """The system did not do what it promises; the text says what was seen. `row` is kept all the same."""

    def __init__(self, text: str, row: Row | None = None) -> None:
        super().__init__(text)
        self.row = row or {}


@dataclass(frozen=True)
class Case:
    """One case of a family (the table it belongs to). `covers`: files and folders that it speaks for.

    `seconds`: how long it is expected to take; a case is ended when it takes much longer. `alone`: it needs no site.
    """

    family: str
    id: str
    title: str
    covers: tuple[str, ...]
    act: Act
    seconds: float = EXPECTED_SECONDS["failures"]
    alone: bool = False

    @property
    def name(self) -> str:
        """Its name among all cases."""
        return f"{self.family}/{self.id}"

    @property
    def limit_seconds(self) -> float:
        """After this it counts as hanging: a machine with other work may need twice its time, and a fault its waits."""
        return 2 * self.seconds + 600.0


CASES: dict[str, Case] = {}
"""Every case by `family/id`, in the order of declaration."""


def case(
    family: str,
    identity: str,
    title: str,
    covers: tuple[str, ...],
    seconds: float | None = None,
    *,
    alone: bool = False,
) -> Callable[[Act], Act]:
    """Declare a function as a case that is expected to take `seconds` (as its family does, if none are given).

    One that is `alone` brings up what it needs by itself, and is given None for a trial.

    Raises ValueError when the name is taken.
    """
    expected = EXPECTED_SECONDS[family] if seconds is None else seconds

    def declare(act: Act) -> Act:
        name = f"{family}/{identity}"
        if name in CASES:
            raise ValueError(f"case {name} is declared twice")
        CASES[name] = Case(family, identity, title, covers, act, expected, alone)
        return act

    return declare


def shard(seconds: Mapping[str, float], number: int, count: int) -> list[str]:
    """The names of part `number` (from 1) of `count` parts that take about the same time, in the order of `seconds`.

    It follows from the expected times alone, so that two runs of the same code divide the work alike. Raises
    ValueError for a part that does not exist.
    """
    if not 1 <= number <= count:
        raise ValueError(f"there is no shard {number} of {count}")
    parts: list[set[str]] = [set() for _ in range(count)]
    for name in sorted(seconds, key=lambda one: -seconds[one]):
        min(parts, key=lambda part: sum(seconds[one] for one in part)).add(name)
    return [name for name in seconds if name in parts[number - 1]]

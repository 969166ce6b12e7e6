"""How long each stage should take, from what this site itself has measured. Where it has not, that is said.

Measurements: the journals in the cluster (seconds of each step), and the rate of pushing that this host has seen.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxinstall.deploy.journal import Account
from mxinstall.outlook.model import Expectation
from sitebundle.atomic import write_durably

_FILE = "rates.json"
_LEAST_BYTES = 1_000_000
"""Below it the time is that of requests, not of bytes."""
_STAGES_THAT_PUSH = ("seed", "probe-image")


@dataclass(frozen=True)
class Rates:
    """What this host has measured: bytes a second into the site's registry; None: not yet."""

    push: float | None = None


def read_rates(state: Path) -> Rates:
    """The kept measurement; a file that cannot be read counts as none."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        rate = float(json.loads((state / _FILE).read_text())["push_bytes_per_second"])
        if rate > 0:
            return Rates(rate)
    return Rates()


def keep_rates(state: Path, stages: Iterable[Mapping[str, Any]]) -> None:
    """Keep the rate of the largest push among a run's stages (`name`, `seconds`, `bytes`), if one says anything."""
    pushes = [
        stage
        for stage in stages
        if stage["name"] in _STAGES_THAT_PUSH and stage["bytes"] >= _LEAST_BYTES and stage["seconds"] > 0
    ]
    if pushes and state.is_dir():
        largest = max(pushes, key=lambda stage: stage["bytes"])
        rate = largest["bytes"] / largest["seconds"]
        kept = json.dumps({"push_bytes_per_second": round(rate, 1)}) + "\n"
        write_durably(state / _FILE, kept.encode())


def expected(
    bytes_to_move: int, changed: Sequence[str], accounts: Sequence[Account], rates: Rates
) -> tuple[Expectation, ...]:
    """The stages in their order. `changed`: the releases that are applied; an unchanged one takes no time."""
    found = [_seed(bytes_to_move, rates)]
    for release in changed:
        found.append(_from_journals(f"release/{release}", f"deploy {release}", accounts))
    for stage in ("audit", "proof"):
        found.append(_from_journals(stage, stage, accounts))
    return tuple(found)


def _seed(bytes_to_move: int, rates: Rates) -> Expectation:
    if not bytes_to_move:
        return Expectation("seed", 0.0, "the registry has everything")
    if rates.push is None:
        return Expectation("seed", None, "nothing was pushed from this host yet")
    seconds = bytes_to_move / rates.push
    return Expectation("seed", round(seconds, 1), f"{rates.push / 1e6:.1f} MB/s when last pushed from this host")


def _from_journals(step: str, stage: str, accounts: Sequence[Account]) -> Expectation:
    """The newest run of a step that came to an end."""
    for account in reversed(accounts):
        for entry in reversed(account.entries):
            if entry.name == step and entry.ended is not None and entry.outcome != "unchanged":
                basis = f"as in generation {account.generation}"
                return Expectation(stage, round(entry.ended - entry.began, 1), basis)
    return Expectation(stage, None, "this site has not done it yet")

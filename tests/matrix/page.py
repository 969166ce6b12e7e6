"""The pages that are made from the rows: docs/reference/failures.md and its like."""

from __future__ import annotations

from typing import Any

from tests.matrix import rows
from tests.matrix.registry import CASES, Case

HEADINGS = {
    "live": """# What is tried on a running site and takes minutes

Each row is one run of one module of `tests/site` against a whole installed system.
""",
    "failures": """# What was broken, and what it cost

Each row is one run of one case against a whole installed system: three nodes on one machine with two cores, real
parts, network policies enforced. While a client sends messages at a steady rate, each with its own transaction id,
one thing is broken. *Writes again* is the longest time in seconds without an acknowledged write from the fault on;
*whole again* is when every part was back. A fresh login then reads everything: an acknowledged message that is not
there is lost. Unacknowledged ones are counted, not hidden. Where the whole site loses its power, *whole again* counts
from that moment until the whole proof has passed and every part is back; the rows in `failures.jsonl` have the order of
the start, its seed, and the seconds from the first machine's start to the proof. What a machine's init does at boot is
done for it there: containerd and kubelets are started, and the registry by `mxinstall registry start`. Figures are
single runs, not statistics.
""",
    "edges": """# Network policies, each edge taken away alone

Each row is one run against a whole installed system: the named step passes; the policy of one end of the edge is made
to select no pod, and the step must fail three times in a row over five seconds or longer, after what the same
disturbance takes with the rule in place; it is put back, and the step must pass. Tries are bounded, and their numbers
are in the row. *Seconds* is how long the failing took. Most steps are
steps of `mxinstall verify --live`; `status` and `reconciled` are what `mxinstall status` says, and `accepts`,
`archived`, `names`, `ask` and `scrape` are of this matrix. A row ages with the policies, not with the matrix's code.

Edges that this system does not have by itself (`ask` and `scrape` steps) are brought for the case: the policies of the
chart, rendered with the value that turns them on, and pods with the labels that the edge names. Their requests are real
packets from inside the asking pod's network, and are not made by Synapse itself: federation, pushes and media in an
object store are not part of this. Another server and an allowed address are a listening pod; the media store is the S3
store outside the cluster that takes the backups.
""",
}
COLUMNS = {
    "failures": (
        ("what is broken", "title"),
        ("verdict", "verdict"),
        ("writes again (s)", "seconds"),
        ("whole again (s)", "whole_seconds"),
        ("sent", "sent"),
        ("acknowledged", "acknowledged"),
        ("lost", "lost"),
        ("not acknowledged", "unacknowledged"),
        ("commit", "commit"),
    ),
    "live": (
        ("what is tried", "title"),
        ("verdict", "verdict"),
        ("tests and time", "what"),
        ("commit", "commit"),
    ),
    "edges": (
        ("edge", "title"),
        ("verdict", "verdict"),
        ("step that fails without it", "step"),
        ("seconds", "seconds"),
        ("commit", "commit"),
    ),
}


def families() -> list[str]:
    """Every family that has a case."""
    return sorted({case.family for case in CASES.values()})


def render(family: str) -> str:
    """The page of one family. A case without a row is shown as not run, one whose code has changed since as stale."""
    known = rows.newest(family)
    columns = COLUMNS[family]
    lines = [
        f"<!-- made by `python -m tests.matrix page` from {family}.jsonl -->",
        HEADINGS[family],
        "| " + " | ".join(name for name, _ in columns) + " |",
        "| " + " | ".join("---" for _ in columns) + " |",
    ]
    mine = [case for case in CASES.values() if case.family == family]
    lines += [_line(case, known.get(case.id), columns) for case in mine]
    return "\n".join(lines) + "\n"


def write_all() -> None:
    """Write every page."""
    for family in families():
        (rows.FOLDER / f"{family}.md").write_text(render(family))


def _line(case: Case, row: dict[str, Any] | None, columns: tuple[tuple[str, str], ...]) -> str:
    if row is None:
        shown: dict[str, Any] = {"title": case.title, "verdict": "not run"}
    else:
        verdict = row["verdict"] if rows.is_fresh(case, row) else f"stale ({row['verdict']})"
        shown = {**row, "title": case.title, "verdict": verdict}
    return "| " + " | ".join(str(shown.get(key, "")).replace("|", "\\|") for _, key in columns) + " |"

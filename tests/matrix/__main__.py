"""`python -m tests.matrix`: list the cases, run those without a fresh row, make the pages.

`run` installs the demo on the site that `$MXDARK_SITE` names, unless it is there, and reuses it for every case. It
stops starting cases when its time is up: what is left is done by the next run. It commits nothing.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from darksite.site import Site
from tests.matrix import edges, failures, live, operators, page, rows, series
from tests.matrix.registry import CASES, Case, Row, Wrong, shard

DECLARED_IN = (failures, operators, edges, live)


@click.group()
def cli() -> None:
    """The long matrices."""


@cli.command("list")
@click.option("--shard", "which", default="1/1", help="Part i of n: i/n.")
@click.option("--family", help="Only cases of this family.")
def list_command(which: str, family: str | None) -> None:
    """Every case, how long it is expected to take, and what is known of it."""
    for case in _part(which, family):
        row = rows.newest(case.family).get(case.id)
        state = "not run" if row is None else str(row["verdict"]) if rows.is_fresh(case, row) else "stale"
        print(f"{state:8} {case.seconds:5.0f} s  {case.name:44} {case.title}")


@cli.command("page")
def page_command() -> None:
    """Make the pages from the rows."""
    page.write_all()


@cli.command("policies")
def policies_command() -> None:
    """Make the page of network policies from the charts; needs helm."""
    from tests.matrix import policies

    print(policies.write())


@cli.command("take")
@click.argument("tree", type=click.Path(path_type=Path, exists=True, file_okay=False))
def take_command(tree: Path) -> None:
    """Take over the rows that a run in another work TREE has written, and make the pages."""
    for family in page.families():
        taken = rows.take_over(family, tree / rows.FOLDER.relative_to(rows.ROOT))
        print(f"{family}: {taken} rows")
    page.write_all()


@cli.command()
@click.option("--shard", "which", default="1/1", help="Part i of n: i/n, divided by the expected times.")
@click.option("--case", "only", multiple=True, help="Run this case, fresh or not.")
@click.option("--family", help="Only cases of this family.")
@click.option("--minutes", default=25.0, help="Start no case that is expected to end after this.")
def run(which: str, only: tuple[str, ...], family: str | None, minutes: float) -> None:
    """Run the cases of a shard that have no fresh row that passed; exit code 1 when one fails or is left."""
    if unknown := [name for name in only if name not in CASES]:
        raise click.BadParameter(f"there is no case {', '.join(unknown)}", param_hint="--case")
    wanted = [CASES[name] for name in only] or _part(which, family)
    waiting = [case for case in wanted if only or not _passed(case)]
    if not waiting:
        print(f"all {len(wanted)} cases have fresh rows that passed")
        return
    series.end_in_order()
    print(series.foreseen(waiting), flush=True)
    try:
        failed = series.run(Site.from_environment(), waiting, minutes * 60)
    finally:
        page.write_all()
    if failed:
        print(f"not passed or not run: {', '.join(case.name for case in failed)}")
        sys.exit(1)


@cli.command("one", hidden=True)
@click.argument("name", type=click.Choice(sorted(CASES)))
def one_command(name: str) -> None:
    """Run a case here, on the operator's host, and write its row. Exit code 0 when it passed, 10 when it did not."""
    from tests.matrix.trial import Trial

    series.end_in_order()
    case, started = CASES[name], time.monotonic()
    row: Row
    try:
        row, verdict = case.act(None if case.alone else Trial(Site.from_environment())), "pass"
    except Wrong as seen:
        row, verdict = {**seen.row, "seen": str(seen)}, "fail"
    except Exception as fault:
        # Whatever it was: the case was not passed, and the next ones have their turn.
        row, verdict = {"seen": f"{type(fault).__name__}: {fault}"[:600]}, "fail"
    took = time.monotonic() - started
    rows.append(case.family, rows.stamped(case, verdict, took, row))
    print(f"{verdict:7} {case.name} ({took:.0f} s): {row.get('seen') or row.get('what', '')}", flush=True)
    sys.exit(series.PASSED if verdict == "pass" else series.FAILED)


def _part(which: str, family: str | None) -> list[Case]:
    """The cases of a shard, in the order of declaration. Raises BadParameter."""
    number, _, count = which.partition("/")
    times = {name: case.seconds for name, case in CASES.items() if family in (None, case.family)}
    try:
        return [CASES[name] for name in shard(times, int(number), int(count or "1"))]
    except ValueError as wrong:
        raise click.BadParameter(str(wrong), param_hint="--shard") from wrong


def _passed(case: Case) -> bool:
    row = rows.newest(case.family).get(case.id)
    return rows.is_fresh(case, row) and row is not None and row["verdict"] == "pass"


if __name__ == "__main__":
    cli(prog_name="python -m tests.matrix")

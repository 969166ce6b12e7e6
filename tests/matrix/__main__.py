"""`python -m tests.matrix`: list the cases, run those without a fresh row, make the pages.

It runs on the operator's host of a dark site (`darksite shell`), installs the demo there first, and stops starting
cases when its time is up: what is left is done by the next run.
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import time
from pathlib import Path

import click

from darksite.demo import operator_environment
from darksite.site import Site
from tests.matrix import edges, failures, live, operators, page, rows
from tests.matrix.registry import CASES, Case, Wrong, shard

DECLARED_IN = (failures, operators, edges, live)
INSIDE = "MXMATRIX_INSIDE"


@click.group()
def cli() -> None:
    """The long matrices."""


@cli.command("list")
def list_command() -> None:
    """Every case and what is known of it."""
    for name, case in CASES.items():
        row = rows.newest(case.family).get(case.id)
        state = "not run" if row is None else str(row["verdict"]) if rows.is_fresh(case, row) else "stale"
        print(f"{state:8} {name:44} {case.title}")


@cli.command("page")
def page_command() -> None:
    """Make the pages from the rows."""
    page.write_all()


@cli.command("policies")
def policies_command() -> None:
    """Make the page of network policies from the charts; needs helm."""
    from tests.matrix import policies

    print(policies.write())


@cli.command()
@click.option("--shard", "which", default="1/1", help="Part i of n: i/n.")
@click.option("--case", "only", multiple=True, help="Run this case, fresh or not.")
@click.option("--family", help="Only cases of this family.")
@click.option("--minutes", default=25.0, help="Start no case that is expected to end after this.")
def run(which: str, only: tuple[str, ...], family: str | None, minutes: float) -> None:
    """Run the cases of a shard that have no fresh row that passed; exit code 1 when one fails or is left."""
    number, _, count = which.partition("/")
    names = list(only) or shard(list(CASES), int(number), int(count or "1"))
    wanted = [CASES[name] for name in names if family is None or CASES[name].family == family]
    waiting = [case for case in wanted if only or not _passed(case)]
    if not waiting:
        print(f"all {len(wanted)} cases have fresh rows that passed")
        return
    site = Site.from_environment()
    if os.environ.get(INSIDE) != "1":
        _installed(site)
        sys.exit(_inside(site))
    failed = [case.id for case in _run_all(site, waiting, minutes * 60)]
    page.write_all()
    if failed:
        print(f"not passed or not run: {', '.join(failed)}")
        sys.exit(1)


def _run_all(site: Site, cases: list[Case], seconds: float) -> list[Case]:
    """The cases that did not pass, those that were not started among them."""
    from tests.matrix.trial import Trial

    began, longest, failed = time.monotonic(), 0.0, []
    trial = Trial(site)
    for case in cases:
        # The first one always runs: a shard that can do nothing would never end.
        if longest and time.monotonic() - began + longest > seconds:
            print(f"-       {case.id}: left for the next run", flush=True)
            failed.append(case)
            continue
        started = time.monotonic()
        try:
            row, verdict = case.act(trial), "pass"
        except Wrong as seen:
            row, verdict = {**seen.row, "seen": str(seen)}, "fail"
            failed.append(case)
        except Exception as fault:
            # Whatever it was: the case was not passed, and the next ones have their turn.
            row, verdict = {"seen": f"{type(fault).__name__}: {fault}"[:600]}, "fail"
            failed.append(case)
        took = time.monotonic() - started
        longest = max(longest, took)
        stamp = {"case": case.id, "verdict": verdict, "took": round(took, 1), "commit": rows.commit()}
        dated = {"code": rows.code_of(case.covers), "date": datetime.datetime.now(datetime.UTC).date().isoformat()}
        rows.append(case.family, {**stamp, **row, **dated})
        print(f"{verdict:7} {case.id} ({took:.0f} s): {row.get('seen') or row.get('what', '')}", flush=True)
    return failed


def _passed(case: Case) -> bool:
    row = rows.newest(case.family).get(case.id)
    return rows.is_fresh(case, row) and row is not None and row["verdict"] == "pass"


def _installed(site: Site) -> None:
    """The demo without its own faults, unless it is there: its second run does nothing."""
    subprocess.run([sys.executable, "-m", "darksite", "demo", "--no-faults"], cwd=rows.ROOT, check=True)


def _inside(site: Site) -> int:
    """This very command on the operator's host."""
    command = [sys.executable, "-m", "darksite", "shell", "--", sys.executable, "-m", "tests.matrix", *sys.argv[1:]]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **operator_environment(site), INSIDE: "1", "PATH": path}
    return subprocess.run(command, cwd=rows.ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    cli(prog_name="python -m tests.matrix")

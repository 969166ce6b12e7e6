"""`mxinstall registry`: the carried registry as a service of this host."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sitebundle.cli import Session

if TYPE_CHECKING:
    from mxinstall.registry import ServiceStatus

_FILE = click.Path(path_type=Path, dir_okay=False)
_site = click.option("--site", "site_file", type=_FILE, help="The site's answers; else this host's only registry.")
_NOT_RUNNING = 1


@click.group("registry")
def command() -> None:
    """Start, stop and look at the carried registry."""


@command.command("start")
@click.option("--bundle", type=_FILE, help="Take the program from this bundle; else the one that is here is used.")
@click.option("--allowed-signers", type=_FILE, help="The trust store; else /etc/mxinstall/allowed_signers.")
@_site
@click.pass_obj
def start(session: Session, bundle: Path | None, allowed_signers: Path | None, site_file: Path | None) -> None:
    """Make it run; nothing changes when it does already."""
    from mxinstall.registry.alone import start_alone

    _show(session, start_alone(bundle, site_file, allowed_signers))


@command.command("stop")
@_site
@click.pass_obj
def stop(session: Session, site_file: Path | None) -> None:
    """Stop it; what it holds stays. Pods that are rescheduled cannot pull until it runs again."""
    from mxinstall.registry import stop as stop_service
    from mxinstall.registry.alone import plan_here

    stopped = stop_service(plan_here(site_file))
    session.out({"stopped": stopped}, "stopped" if stopped else "it did not run")


@command.command("status")
@_site
@click.pass_obj
def status(session: Session, site_file: Path | None) -> None:
    """Look at it and ask it. Exit code 0 when it answers, 1 when not."""
    from mxinstall.registry import status as status_of
    from mxinstall.registry.alone import plan_here

    seen = status_of(plan_here(site_file))
    _show(session, seen)
    if not seen.answers:
        click.get_current_context().exit(_NOT_RUNNING)


def _show(session: Session, seen: ServiceStatus) -> None:
    words = "runs and answers" if seen.answers else "runs but does not answer" if seen.running else "does not run"
    text = f"the registry at {seen.address} {words} ({seen.kind}, pid {seen.pid}, {seen.restarts} restarts)"
    session.out(asdict(seen), f"{text}\nlog: {seen.log}")

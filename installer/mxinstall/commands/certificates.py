"""`mxinstall certificates`: when each ends, and renewing them."""

from __future__ import annotations

from pathlib import Path

import click

from mxinstall.commands.options import kubeconfig_option
from sitebundle.cli import Session


@click.group("certificates")
def command() -> None:
    """List the certificates of the system that runs, and renew them."""


@command.command("list")
@kubeconfig_option
@click.pass_obj
def list_(session: Session, kubeconfig: Path | None) -> None:
    """Show when each ends and who renews it, soonest first; CAs and keys too. Changes nothing."""
    from mxinstall.certificates import listed
    from mxinstall.cluster import Cluster
    from mxinstall.expiries import expiry_lines

    found = listed(Cluster.connect(kubeconfig))
    told = {"certificates": [entry.as_json() for entry in found.found], "notes": list(found.notes)}
    session.out(told, "\n".join([*expiry_lines(found.found), *(f"note: {note}" for note in found.notes)]))


@command.command("renew")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="Every certificate, whenever it ends.")
@click.option("--within-days", type=click.IntRange(0), default=30, show_default=True, help="What counts as soon.")
@click.option("--prove", is_flag=True, help="Run the proof at the end.")
@click.option("--take-over", is_flag=True, help="Fence off another installer that holds the site.")
@kubeconfig_option
@click.pass_obj
def renew(
    session: Session,
    names: tuple[str, ...],
    everything: bool,
    within_days: int,
    prove: bool,
    take_over: bool,
    kubeconfig: Path | None,
) -> None:
    """Renew the Secrets called NAME, all, or those that end soon; the CA stays. Who must be restarted for it, is."""
    from mxinstall.certificates import renew_certificates
    from mxinstall.cluster import Cluster

    operator = Cluster.connect(kubeconfig)
    with session.sink() as sink:
        renewal = renew_certificates(
            operator,
            sink,
            chosen=names,
            everything=everything,
            within_days=within_days,
            prove=prove,
            take_over=take_over,
        )
    lines = [f"renewed: {', '.join(renewal.renewed) or 'nothing was due'}"]
    if renewal.restarted:
        lines.append(f"restarted: {', '.join(renewal.restarted)}")
    session.out(renewal.as_json(), "\n".join(lines))

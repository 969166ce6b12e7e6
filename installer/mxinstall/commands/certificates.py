"""`mxinstall certificates`: when each ends, and renewing them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mxinstall.commands.options import kubeconfig_option
from sitebundle.cli import Session

if TYPE_CHECKING:
    from mxinstall.certificates import Ahead, Renewal
    from mxinstall.cluster import Cluster

_KEPT = "the CA was replaced; the old one is trusted still: mxinstall certificates forget-old-ca"
_HAND_OUT = (
    "hand out the new one: mxinstall certificates ca > site-ca.crt; people's devices are shown the old one's until",
    "  you say that they have it, which must be before the old one ends: mxinstall certificates forget-old-ca",
)


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


@command.command("ca")
@kubeconfig_option
@click.pass_obj
def ca(session: Session, kubeconfig: Path | None) -> None:
    """Print the site's CAs as a PEM file for people's devices, the newest first. Changes nothing."""
    from mxinstall.authority_change import site_authorities
    from mxinstall.cluster import Cluster

    found = site_authorities(Cluster.connect(kubeconfig))
    text = "\n".join(f"# {authority}\n{authority.certificate.strip()}" for authority in found)
    session.out({"authorities": [authority.as_json() for authority in found]}, text)


@command.command("renew")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="Every certificate, whenever it ends.")
@click.option("--ca", "authority", is_flag=True, help="The site's CA; the old one stays trusted until it is forgotten.")
@click.option("--within-days", type=click.IntRange(0), default=30, show_default=True, help="What counts as soon.")
@click.option("--dry-run", is_flag=True, help="Only say what would be renewed, and who would be restarted.")
@click.option("--prove", is_flag=True, help="Run the proof at the end.")
@click.option("--take-over", is_flag=True, help="Fence off another installer that holds the site.")
@kubeconfig_option
@click.pass_obj
def renew(
    session: Session,
    names: tuple[str, ...],
    everything: bool,
    authority: bool,
    within_days: int,
    dry_run: bool,
    prove: bool,
    take_over: bool,
    kubeconfig: Path | None,
) -> None:
    """Renew the Secrets called NAME, all, those that end soon, or the site's CA. Who must be restarted for it, is."""
    from mxinstall.authority_change import renew_authority, renewal_ahead
    from mxinstall.certificates import certificates_ahead, renew_certificates
    from mxinstall.cluster import Cluster

    if authority and (names or everything):
        raise click.UsageError("--ca goes alone: with a new CA every certificate is made anew")
    operator = Cluster.connect(kubeconfig)
    if dry_run:
        if authority:
            _tell_ahead(session, renewal_ahead(operator), _KEPT)
        else:
            _tell_ahead(session, certificates_ahead(operator, names, everything, within_days), "nothing is due")
        return
    with session.sink() as sink:
        if authority:
            renewal = renew_authority(operator, sink, prove=prove, take_over=take_over)
        else:
            renewal = renew_certificates(
                operator,
                sink,
                chosen=names,
                everything=everything,
                within_days=within_days,
                prove=prove,
                take_over=take_over,
            )
    _tell(session, operator, renewal, authority=authority)


@command.command("forget-old-ca")
@click.option("--dry-run", is_flag=True, help="Only say what would be renewed, and who would be restarted.")
@click.option("--prove", is_flag=True, help="Run the proof at the end.")
@click.option("--take-over", is_flag=True, help="Fence off another installer that holds the site.")
@click.option("--yes", is_flag=True, help="Do not ask: people's devices have the new CA.")
@kubeconfig_option
@click.pass_obj
def forget_old_ca(
    session: Session, dry_run: bool, prove: bool, take_over: bool, yes: bool, kubeconfig: Path | None
) -> None:
    """Show people's devices certificates of the new CA, trust the old one no more, and destroy its key."""
    from mxinstall.authority_change import forget_old_authority, forgetting_ahead
    from mxinstall.cluster import Cluster

    operator = Cluster.connect(kubeconfig)
    ahead = forgetting_ahead(operator)
    if dry_run:
        _tell_ahead(session, ahead, "there is no old CA")
        return
    if ahead and not yes:
        click.echo("\n".join(map(str, ahead)), err=True)
        click.confirm("Do all devices that must reach the system have the new CA?", abort=True, err=True)
    with session.sink() as sink:
        renewal = forget_old_authority(operator, sink, prove=prove, take_over=take_over)
    _tell(session, operator, renewal, authority=True)


def _tell_ahead(session: Session, ahead: Sequence[Ahead], nothing: str) -> None:
    told = {"ahead": [step.as_json() for step in ahead]}
    session.out(told, "\n".join([*map(str, ahead), "nothing was changed"]) if ahead else nothing)


def _tell(session: Session, operator: Cluster, renewal: Renewal, *, authority: bool) -> None:
    lines = [f"renewed: {', '.join(renewal.renewed) or 'nothing was due'}"]
    if renewal.restarted:
        lines.append(f"restarted: {', '.join(renewal.restarted)}")
    told = renewal.as_json()
    if authority:
        from mxinstall.authority_change import site_authorities

        known = site_authorities(operator)
        told["authorities"] = [one.as_json() for one in known]
        lines += [f"CA {one}" for one in known]
        if any(one.role == "old" for one in known):
            lines += _HAND_OUT
    session.out(told, "\n".join(lines))

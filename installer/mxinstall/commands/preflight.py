"""`mxinstall preflight`: will it work here? Passive unless --active. Exit code 0 only when everything passed."""

from __future__ import annotations

from pathlib import Path

import click

from mxinstall.commands.options import kubeconfig_option, skip_option
from sitebundle.cli import Session

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("preflight")
@click.option("--bundle", type=_FILE, help="The file that crossed the gap.")
@click.option("--site", "site_file", type=_FILE, help="The site's answers; without it they are derived.")
@click.option("--allowed-signers", type=_FILE, help="The trust store; else /etc/mxinstall/allowed_signers.")
@click.option("--active", is_flag=True, help="Also try on the nodes, in a namespace that is removed again.")
@click.option("--only", multiple=True, metavar="ID", help="Make this check alone (may be repeated).")
@skip_option
@click.option("--list", "list_", is_flag=True, help="List the checks and leave.")
@click.option("--explain", metavar="ID", help="Say what a check protects and needs, and leave.")
@kubeconfig_option
@click.pass_obj
def command(
    session: Session,
    bundle: Path | None,
    site_file: Path | None,
    allowed_signers: Path | None,
    active: bool,
    only: tuple[str, ...],
    skip: dict[str, str],
    list_: bool,
    explain: str | None,
    kubeconfig: Path | None,
) -> None:
    """Find out whether the site is fit, before anything changes."""
    from mxinstall.preflight import report as faces
    from mxinstall.preflight.alone import Question, describe, preflight_alone

    if list_ or explain:
        checks = describe(explain)
        session.out(
            [check.as_json() for check in checks],
            "\n".join(map(faces.explain, checks)) if explain else faces.catalogue(),
        )
        return
    if bundle is None:
        raise click.UsageError("--bundle FILE is needed: what is checked follows from the bundle")
    question = Question(bundle, site_file, allowed_signers, kubeconfig, active, only, skip)
    with session.sink() as sink:
        report = preflight_alone(question, sink)
    session.out(report.as_json(), faces.render(report))
    report.require(complete=True)

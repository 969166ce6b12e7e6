"""`mxinstall plan`: what an install would do, object by object. Changes nothing."""

from __future__ import annotations

from pathlib import Path

import click

from mxinstall.commands.options import bundle_options, kubeconfig_option
from sitebundle.cli import Session


@click.command("plan")
@bundle_options
@kubeconfig_option
@click.option("--summary", "short", is_flag=True, help="One screen: without the fields of each object.")
@click.pass_obj
def command(
    session: Session,
    bundle: Path,
    site_file: Path | None,
    allowed_signers: Path | None,
    kubeconfig: Path | None,
    short: bool,
) -> None:
    """Render everything with this site's values and compare it with what there is: objects, pods, bytes, time."""
    from mxinstall.install import look_ahead
    from mxinstall.outlook import details, summary
    from sitebundle.events import silent

    plan, outlook = look_ahead(bundle, site_file, allowed_signers, kubeconfig, silent)
    text = summary(outlook) if short else details(outlook)
    session.out({**plan.as_json(), "outlook": outlook.as_json()}, text)

"""`mxinstall seed`: fill the site's registry from the bundle. The second run with nothing to do takes seconds."""

from __future__ import annotations

from pathlib import Path

import click

from mxinstall.commands.options import bundle_options
from sitebundle.cli import Session


@click.command("seed")
@bundle_options
@click.option("--deep", is_flag=True, help="Read every blob back and hash it, whatever an earlier run knew.")
@click.pass_obj
def command(session: Session, bundle: Path, site_file: Path | None, allowed_signers: Path | None, deep: bool) -> None:
    """Start the carried registry if the site has none, and push what it lacks."""
    from mxinstall.seed.alone import seed_alone

    with session.sink() as sink:
        report = seed_alone(bundle, site_file, allowed_signers, deep, sink)
    session.out(report.as_json(), report.text())

"""`mxbundle inspect`: show what a bundle holds."""

from __future__ import annotations

from pathlib import Path

import click

from sitebundle.cli import Session


@click.command("inspect", short_help="Show what a bundle holds and what takes the space.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.pass_obj
def command(session: Session, bundle: Path) -> None:
    """Show BUNDLE's generation, signers, images with their sizes, and what takes the space. Trusts nothing."""
    from mxbundle.inspection import as_text, describe
    from sitebundle.archive import BundleReader

    with BundleReader.open(bundle) as reader:
        about = describe(reader)
    session.out(about, as_text(about))

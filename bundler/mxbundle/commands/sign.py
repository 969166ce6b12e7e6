"""`mxbundle sign`: sign a finished bundle in place."""

from __future__ import annotations

from pathlib import Path

import click

from sitebundle.cli import Session


@click.command("sign", short_help="Sign a finished bundle in place.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="A private key; or the .pub file of one that an ssh-agent or a token holds.",
)
@click.pass_obj
def command(session: Session, bundle: Path, key: Path) -> None:
    """Add a signature by KEY to BUNDLE's manifest and attestations. No byte moves; twice changes nothing."""
    from sitebundle.archive.signing import sign_bundle

    signed = sign_bundle(bundle, key)
    did = "signed by" if signed.changed else "was already signed by"
    session.out(
        {"bundle": str(bundle), "fingerprint": signed.fingerprint, "changed": signed.changed},
        f"{bundle} {did} {signed.fingerprint} ({signed.signatures} signature{'s' if signed.signatures > 1 else ''})",
    )

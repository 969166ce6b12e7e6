"""`mxbundle verify`: check every byte of a bundle, and its signatures."""

from __future__ import annotations

from pathlib import Path

import click

from sitebundle.cli import Session


@click.command("verify", short_help="Check every byte of a bundle, and its signatures.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--allowed-signers",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Judge the signatures by this OpenSSH allowed_signers file.",
)
@click.pass_obj
def command(session: Session, bundle: Path, allowed_signers: Path | None) -> None:
    """Check BUNDLE: every member's digest, every frame, the seek table; and who vouches for it."""
    from mxbundle.verification import verify_bundle

    with session.sink() as sink:
        verified = verify_bundle(bundle, allowed_signers, sink)
    session.out(verified.as_json(), str(verified))

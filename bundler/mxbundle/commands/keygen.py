"""`mxbundle keygen`: make a signing key."""

from __future__ import annotations

from pathlib import Path

import click

from sitebundle.cli import Session


@click.command("keygen", short_help="Make a signing key (Ed25519, OpenSSH form).")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--comment", default="mxbundle-builder", show_default=True, help="Who the key stands for, one word.")
@click.pass_obj
def command(session: Session, path: Path, comment: str) -> None:
    """Write an Ed25519 key to PATH (mode 0600) and its public half to PATH.pub. Never overwrites.

    The fingerprint goes to the site on a separate way: by telephone, on paper; not on the stick.
    """
    from sitebundle.signature import allowed_line, generate_key

    key = generate_key(path, comment)
    line = allowed_line(key, comment)
    session.out(
        {"private": str(path), "public": f"{path}.pub", "fingerprint": key.fingerprint, "allowed_signers": line},
        f"private key  {path}\npublic key   {path}.pub\nfingerprint  {key.fingerprint}\ntrusted by   {line}",
    )

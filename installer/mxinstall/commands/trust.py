"""`mxinstall trust`: whose bundles this site believes. The only way in is a fingerprint that came on a separate way."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from sitebundle.cli import Session

_FILE = click.Path(path_type=Path, dir_okay=False)
_store = click.option("--allowed-signers", type=_FILE, help="The trust store; else /etc/mxinstall/allowed_signers.")


@click.group("trust")
def command() -> None:
    """Say whose bundles this site believes."""


@command.command("add")
@click.option("--fingerprint", required=True, help="SHA256:… as you were told it, not as the medium says it.")
@click.argument("public_key", type=_FILE, metavar="KEY.pub")
@_store
@click.pass_obj
def add(session: Session, fingerprint: str, public_key: Path, allowed_signers: Path | None) -> None:
    """Trust the key in KEY.pub, if it has this very fingerprint."""
    from mxinstall.trust import add_key, store_path

    store = store_path(allowed_signers)
    key = add_key(store, public_key, fingerprint)
    session.out(asdict(key), f"trusted in {store}: {key.fingerprint} {', '.join(key.principals)}")


@command.command("list")
@_store
@click.pass_obj
def list_(session: Session, allowed_signers: Path | None) -> None:
    """Show the trusted keys."""
    from mxinstall.trust import list_keys, store_path

    store = store_path(allowed_signers)
    keys = list_keys(store)
    lines = [f"{key.fingerprint}  {', '.join(key.principals)}  {key.key_type}  {key.window}" for key in keys]
    text = "\n".join(lines) or f"no key is trusted in {store}"
    session.out({"store": str(store), "keys": [asdict(key) for key in keys]}, text)


@command.command("remove")
@click.argument("fingerprint")
@_store
@click.pass_obj
def remove(session: Session, fingerprint: str, allowed_signers: Path | None) -> None:
    """Stop trusting the key with FINGERPRINT."""
    from mxinstall.trust import remove_key, store_path

    store = store_path(allowed_signers)
    gone = remove_key(store, fingerprint)
    text = f"no longer trusted: {gone.fingerprint}" if gone else f"{fingerprint} was not trusted in {store}"
    session.out({"removed": asdict(gone) if gone else None}, text)

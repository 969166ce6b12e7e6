"""`mxbundle why`: who needs an image."""

from __future__ import annotations

from pathlib import Path

import click

from mxbundle import options
from sitebundle.cli import Session


@click.command("why", short_help="Say which release, object and field needs an image.")
@click.argument("image")
@options.lock
@click.pass_obj
def command(session: Session, image: str, lock_path: Path) -> None:
    """Say which release, object and field needs IMAGE: a reference, a name without tag, or any digest of it."""
    from mxbundle.lock.model import read_lock
    from mxbundle.lock.why import why

    for answer in why(read_lock(lock_path), image):
        found = answer.image
        lines = [f"{found.reference}@{found.digest}"]
        lines += [f"  ({answer.matched})"] if answer.matched != "the image" else []
        made = answer.derived
        if made is not None:
            wheels = ", ".join(f"{wheel.name} {wheel.version}" for wheel in made.wheels)
            lines += [f"  derived from {made.base}@{made.base_digest}", f"  with {wheels}"]
        lines += [f"  {use}" for use in found.needed_by]
        value = {
            "reference": found.reference,
            "digest": found.digest,
            "matched": answer.matched,
            "needed_by": list(found.needed_by),
            "confirmed_at": found.confirmed_at,
            "base": f"{made.base}@{made.base_digest}" if made is not None else None,
        }
        session.out(value, "\n".join(lines))

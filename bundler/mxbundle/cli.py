"""The table of `mxbundle`'s commands. Each is one module under `commands/`; nothing else is decided here."""

from __future__ import annotations

from typing import NoReturn

import click

from sitebundle.cli import LazyGroup, run

COMMANDS = {
    "keygen": ("mxbundle.commands.keygen:command", "Make a signing key (Ed25519, OpenSSH form)."),
    "lock": ("mxbundle.commands.lock:command", "Pin every image, chart, CRD and tool of the stack in images.lock."),
    "lint": ("mxbundle.commands.lint:command", "Say what in the rendered stack would not work, or not last."),
    "why": ("mxbundle.commands.why:command", "Say which release, object and field needs an image."),
    "build": ("mxbundle.commands.build:command", "Fetch what images.lock names straight into site.tar.zst."),
    "sign": ("mxbundle.commands.sign:command", "Sign a finished bundle in place."),
    "verify": ("mxbundle.commands.verify:command", "Check every byte of a bundle, and its signatures."),
    "inspect": ("mxbundle.commands.inspect:command", "Show what a bundle holds and what takes the space."),
}


@click.group(name="mxbundle", cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
def group() -> None:
    """Lock, fetch, pack and sign an offline bundle of the Matrix stack, on the connected side."""


def main() -> NoReturn:
    """The console script."""
    run(group)

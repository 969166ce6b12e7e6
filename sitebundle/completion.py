"""`PROGRAM completion SHELL`: the script by which a shell completes commands, options and file names."""

from __future__ import annotations

import click

from sitebundle.cli import Session

SHELLS = ("bash", "zsh", "fish")


def script(program: click.Command, name: str, shell: str) -> str:
    """What `shell` has to read so that it completes `name`; it asks the program itself at each key."""
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None, f"click completes for no {shell}"
    return made(program, {}, name, f"_{name.upper()}_COMPLETE").source()


@click.command("completion", short_help="Print what bash, zsh or fish needs to complete this program.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL. For bash: source <(PROGRAM completion bash)"""
    session: Session = ctx.obj
    root = ctx.find_root()
    session.out(script(root.command, str(root.info_name), shell))

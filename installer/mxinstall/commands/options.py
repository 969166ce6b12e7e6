"""Options that several commands share. Not here: commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def bundle_options(function: F) -> F:
    """--bundle, --site and --allowed-signers."""
    path = click.Path(path_type=Path, dir_okay=False)
    for option in (
        click.option("--allowed-signers", type=path, help="The trust store; else /etc/mxinstall/allowed_signers."),
        click.option("--site", "site_file", type=path, help="The site's answers; without it they are derived."),
        click.option("--bundle", type=path, required=True, help="The file that crossed the gap."),
    ):
        function = option(function)
    return function


def kubeconfig_option(function: F) -> F:
    """--kubeconfig."""
    path = click.Path(path_type=Path, dir_okay=False)
    return click.option("--kubeconfig", type=path, help="The operator's own; else $KUBECONFIG, ~/.kube/config.")(
        function
    )


def skip_option(function: F) -> F:
    """--skip ID=REASON, as a mapping."""

    def read(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
        reasons = dict(part.partition("=")[::2] for part in given)
        if not all(reason.strip() for reason in reasons.values()):
            raise click.UsageError("--skip wants ID=REASON: the reason is kept with the result", ctx)
        return reasons

    text = "Leave a preflight check out, and say why (may be repeated)."
    return click.option("--skip", multiple=True, metavar="ID=REASON", callback=read, help=text)(function)

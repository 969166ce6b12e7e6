"""`mxinstall`: the table of its commands. `mxinstall --bundle FILE` without a command installs everything.

Not here: what a command does (`commands/`), catching errors (`sitebundle.cli.run`).
"""

from __future__ import annotations

from typing import NoReturn

import click

from sitebundle.cli import LazyGroup, run

COMMANDS = {
    "install": ("mxinstall.commands.install:command", "Everything, in order: what --bundle alone does."),
    "trust": ("mxinstall.commands.trust:command", "Say whose bundles this site believes."),
    "verify": ("mxinstall.commands.verify:command", "Check a bundle, or with --live the running system."),
    "init": ("mxinstall.commands.init:command", "Write a site.yaml that fits the cluster."),
    "site": ("mxinstall.commands.site:command", "Check a site.yaml, or print its JSON Schema."),
    "preflight": ("mxinstall.commands.preflight:command", "Find out whether the site is fit, before anything changes."),
    "plan": ("mxinstall.commands.plan:command", "Show what would change and how many bytes would move."),
    "seed": ("mxinstall.commands.seed:command", "Fill the site's registry from the bundle."),
    "registry": ("mxinstall.commands.registry:command", "Start, stop and look at the carried registry."),
    "status": ("mxinstall.commands.status:command", "Show what runs, since when, and what expires."),
    "certificates": ("mxinstall.commands.certificates:command", "List the certificates, and renew them."),
    "node": ("mxinstall.commands.node:command", "Give up a node that is lost for good, and take one back."),
    "uninstall": ("mxinstall.commands.uninstall:command", "Remove the system; data stays unless told."),
}

_ROOT_FLAGS = ("--json", "--plain")
_ROOT_ONLY = ("--help", "--version", "-h")


class InstallByDefault(LazyGroup):
    """The group, where options without a command belong to `install`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `install` before the first option that is not the group's own."""
        first = next((place for place, word in enumerate(args) if word not in _ROOT_FLAGS), None)
        if first is not None and args[first].startswith("-") and args[first] not in _ROOT_ONLY:
            args = [*args[:first], "install", *args[first:]]
        return super().parse_args(ctx, args)


group = InstallByDefault(
    "mxinstall",
    lazy=COMMANDS,
    help="Install and keep a Matrix system on a site without a way out. `mxinstall --bundle FILE` does it all.",
    no_args_is_help=True,
)


def main() -> NoReturn:
    """The console script."""
    run(group)

"""Options that several commands take: where the stack is, what it is locked to, who answers for an upstream."""

from __future__ import annotations

from pathlib import Path

import click

manifests = click.option(
    "--manifests",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path("manifests"),
    show_default=True,
    help="The stack's definition.",
)
lock = click.option(
    "--lock",
    "lock_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("images.lock"),
    show_default=True,
    help="The lock: every image, chart, CRD and tool, pinned.",
)
mirrors = click.option(
    "--mirrors",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML: which endpoint answers for an upstream host or URL.",
)
platforms = click.option(
    "--platform",
    "platforms",
    multiple=True,
    default=("linux/amd64",),
    show_default=True,
    metavar="OS/ARCH",
    callback=lambda ctx, parameter, given: tuple(dict.fromkeys(given)),
    help="Of images and tools; may be given several times.",
)
helm = click.option("--helm", type=click.Path(path_type=Path), help="The helm binary. [default: $MXBUNDLE_HELM, PATH]")

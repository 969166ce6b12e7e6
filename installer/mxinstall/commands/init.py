"""`mxinstall init`: look at the cluster and write a site.yaml that fits it. A file that exists is never touched."""

from __future__ import annotations

from pathlib import Path

import click

from mxinstall.commands.options import kubeconfig_option
from sitebundle.cli import Session

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("init")
@click.option("--bundle", type=_FILE, required=True, help="The file that crossed the gap.")
@click.option("--site", "site_file", type=_FILE, default=Path("site.yaml"), show_default=True, help="What to write.")
@click.option("--name", default="site-1", show_default=True, help="The site's name.")
@click.option("--allowed-signers", type=_FILE, help="The trust store; else /etc/mxinstall/allowed_signers.")
@kubeconfig_option
@click.pass_obj
def command(
    session: Session,
    bundle: Path,
    site_file: Path,
    name: str,
    allowed_signers: Path | None,
    kubeconfig: Path | None,
) -> None:
    """Write a site.yaml that fits this cluster, with every choice explained."""
    from mxinstall.site.first import write_first_site

    choices = write_first_site(bundle, site_file, name, allowed_signers, kubeconfig)
    lines = [f"{site_file} was written. Chosen:", *(f"  {choice}" for choice in choices)]
    session.out({"site": str(site_file), "choices": [vars(choice) for choice in choices]}, "\n".join(lines))

"""`mxinstall site`: check a site.yaml while it is written, and print the JSON Schema that editors use."""

from __future__ import annotations

from pathlib import Path

import click

from sitebundle.cli import Session

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group("site")
def command() -> None:
    """Check a site.yaml, or print what editors need to help with one."""


@command.command("check")
@click.argument("site_file", metavar="FILE", type=_FILE, default=Path("site.yaml"))
@click.option("--bundle", type=_FILE, help="Also against this bundle: profile, workers, connections.")
@click.option("--allowed-signers", type=_FILE, help="The trust store; else /etc/mxinstall/allowed_signers.")
@click.pass_obj
def check(session: Session, site_file: Path, bundle: Path | None, allowed_signers: Path | None) -> None:
    """Tell everything that is wrong with FILE (site.yaml), with line and column. Asks no cluster."""
    from mxinstall.site.check import check_site_file

    looked = check_site_file(site_file, bundle, allowed_signers)
    lines = [f"{site_file}: no fault", *(f"warning: {warning}" for warning in looked.warnings)]
    if not looked.beside_bundle:
        lines.append("Profile, workers and connections were not looked at: --bundle FILE does.")
    session.out(
        {
            "site": str(site_file),
            "beside_bundle": looked.beside_bundle,
            "warnings": [warning.as_json() for warning in looked.warnings],
        },
        "\n".join(lines),
    )


@command.command("schema")
def schema() -> None:
    """Print the JSON Schema of site.yaml: mxinstall site schema > site.schema.json."""
    from mxinstall.site.schema import text

    click.echo(text(), nl=False)

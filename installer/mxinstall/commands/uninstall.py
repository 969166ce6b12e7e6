"""`mxinstall uninstall`: take the system off the cluster; data stays unless --delete-data."""

from __future__ import annotations

from pathlib import Path

import click

from mxinstall.commands.options import kubeconfig_option
from sitebundle.cli import Session


@click.command("uninstall")
@kubeconfig_option
@click.option("--delete-data", is_flag=True, help="Delete volumes, databases and the site's secrets too: final.")
@click.option("--keep-registry", is_flag=True, help="Leave the carried registry running on this host.")
@click.option("--take-over", is_flag=True, help="Fence off another installer that holds the site.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def command(
    session: Session, kubeconfig: Path | None, delete_data: bool, keep_registry: bool, take_over: bool, yes: bool
) -> None:
    """Remove the releases, then the namespaces that hold no data. CRDs stay."""
    from mxinstall.cluster import Cluster
    from mxinstall.uninstall import uninstall

    operator = Cluster.connect(kubeconfig)
    what = "the system and ALL ITS DATA" if delete_data else "the system (its data stays)"
    if not yes:
        click.confirm(f"Remove {what} from {operator.server}?", abort=True, err=True)
    with session.sink() as sink:
        removal = uninstall(operator, sink, delete_data=delete_data, keep_registry=keep_registry, take_over=take_over)
    lines = [f"removed: {', '.join((*removal.releases, *removal.namespaces)) or 'nothing, there was nothing'}"]
    lines += [f"kept: {name}" for name in removal.kept]
    session.out(removal.as_json(), "\n".join(lines))

"""`mxinstall node`: give up a node that is lost for good, and take one back."""

from __future__ import annotations

from pathlib import Path

import click

from mxinstall.commands.options import kubeconfig_option
from sitebundle.cli import Session


@click.group("node")
def command() -> None:
    """Give up a node whose machine is off for good, and take one back."""


@command.command("release")
@click.argument("node")
@click.option(
    "--replace-storage",
    metavar="[POD]",
    multiple=True,
    is_flag=False,
    flag_value="all",
    help="Give up POD's volumes on its disk too, where others have the data; may be repeated. Without POD: of all.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--take-over", is_flag=True, help="Fence off an installer that holds the site.")
@click.option("--yes", is_flag=True, help="Do not ask: its machine is really off.")
@kubeconfig_option
@click.pass_obj
def release(
    session: Session,
    node: str,
    replace_storage: tuple[str, ...],
    dry_run: bool,
    take_over: bool,
    yes: bool,
    kubeconfig: Path | None,
) -> None:
    """Say that NODE's machine is off, so that its pods start elsewhere. Refused while its kubelet speaks."""
    from mxinstall.cluster import Cluster
    from mxinstall.node_loss import look, release_held

    cluster = Cluster.connect(kubeconfig)
    if dry_run or not yes:
        ahead = look(cluster, node)
        chosen = ahead.chosen(replace_storage)
        if dry_run:
            replaced = {"replaced": [volume.name for volume in chosen]}
            session.out({**ahead.as_json(), **replaced}, f"{ahead.text(chosen)}\nnothing was changed")
            return
        click.echo(ahead.text(chosen), err=True)
        click.confirm("Is the machine off?", abort=True, err=True)
    with session.sink() as sink:
        loss = release_held(cluster, node, sink, replace_storage=replace_storage, take_over=take_over)
    lines = [f"{node} is given up; its pods start elsewhere", "look at it with: mxinstall status"]
    session.out(loss.as_json(), "\n".join(lines))


@command.command("return")
@click.argument("node")
@kubeconfig_option
@click.pass_obj
def return_(session: Session, node: str, kubeconfig: Path | None) -> None:
    """Let NODE, which is Ready again, be used again."""
    from mxinstall.cluster import Cluster
    from mxinstall.node_loss import take_back

    changed = take_back(Cluster.connect(kubeconfig), node)
    session.out({"node": node, "returned": changed}, f"{node} is used again" if changed else f"{node} was not given up")

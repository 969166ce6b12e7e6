"""`mxinstall status`: what runs, since when, what is in trouble, what expires. Exit code 0 when healthy, 1 when not."""

from __future__ import annotations

from pathlib import Path

import click

from mxinstall.commands.options import kubeconfig_option
from sitebundle.cli import Session


@click.command("status")
@kubeconfig_option
@click.pass_obj
def command(session: Session, kubeconfig: Path | None) -> None:
    """Look at the cluster and this host; needs no bundle and changes nothing."""
    from mxinstall.cluster import Cluster
    from mxinstall.kubeconfig import kubeconfig_path, read_access
    from mxinstall.status import ANSWER_SECONDS, PATIENCE_SECONDS, read_status, status_text

    access = read_access(kubeconfig or kubeconfig_path())
    status = read_status(Cluster(access, patience_seconds=PATIENCE_SECONDS, answer_seconds=ANSWER_SECONDS))
    session.out(status.as_json(), status_text(status))
    click.get_current_context().exit(0 if status.healthy else 1)

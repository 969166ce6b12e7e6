"""`mxbundle lock`: pin everything that the stack needs."""

from __future__ import annotations

from pathlib import Path

import click

from mxbundle import options
from sitebundle.cli import Session


@click.command("lock", short_help="Pin every image, chart, CRD and tool of the stack in images.lock.")
@options.manifests
@options.lock
@options.mirrors
@click.option(
    "--tools",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Programs for the dark site. [default: MANIFESTS/tools.yaml]",
)
@options.platforms
@click.option("--profile", "profiles", multiple=True, help="Only what this profile needs. [default: all of the stack]")
@options.helm
@click.option("--kube-version", default=None, help="The Kubernetes version that charts are rendered for.")
@click.option("--keep", is_flag=True, help="Keep every image and tool that the lock has; resolve only what is new.")
@click.option("--check", is_flag=True, help="Write nothing; fail when the lock would change.")
@click.pass_obj
def command(
    session: Session,
    manifests: Path,
    lock_path: Path,
    mirrors: Path | None,
    tools: Path | None,
    platforms: tuple[str, ...],
    profiles: tuple[str, ...],
    helm: Path | None,
    kube_version: str | None,
    keep: bool,
    check: bool,
) -> None:
    """Render every release for every profile, resolve every tag, and write images.lock.

    Nothing is written when anything cannot be resolved.
    """
    from mxbundle.lock.compute import Request, changes, compute_lock, require_fresh
    from mxbundle.lock.discover import KUBE_VERSION
    from mxbundle.lock.model import read_lock, write_lock
    from mxbundle.lock.summary import Summary
    from sitebundle.helm import Helm
    from sitebundle.oci.endpoint import Mirrors
    from sitebundle.oci.upstream import Upstream

    request = Request(
        manifests=manifests,
        tools=tools or manifests / "tools.yaml",
        platforms=platforms,
        profiles=profiles,
        kube_version=kube_version or KUBE_VERSION,
        keep=keep,
    )
    previous = read_lock(lock_path) if lock_path.exists() else None
    with session.sink() as sink:
        upstream = Upstream(Mirrors.read(mirrors), sink)
        lock = compute_lock(request, upstream, Helm.find(helm), sink, previous)
    if check:
        require_fresh(previous, lock, lock_path)
    else:
        write_lock(lock, lock_path)
    summary = Summary.of(lock, changes(previous, lock), lock_path)
    session.out(summary.as_json(), str(summary))

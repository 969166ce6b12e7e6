"""`mxbundle build`: fetch what images.lock names straight into the archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mxbundle import options
from sitebundle.cli import Session

if TYPE_CHECKING:
    from mxbundle.build import BuildPreview, BuildReport


@click.command("build", short_help="Fetch what images.lock names straight into site.tar.zst.")
@options.manifests
@options.lock
@options.mirrors
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("site.tar.zst"),
    show_default=True,
    help="The bundle; NAME.part and NAME.journal lie beside it while it grows.",
)
@click.option("--generation", type=click.IntRange(min=1), default=1, show_default=True, help="A site never goes back.")
@click.option("--profile", default="demo", show_default=True, help="The profile whose releases are carried.")
@options.platforms
@click.option("--name", default="site", show_default=True, help="What the bundle is called inside.")
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Sign with this key at the end (a .pub file: by agent or token).",
)
@options.helm
@click.option("--fetches", type=click.IntRange(1, 32), default=6, show_default=True, help="Blobs under way at a time.")
@click.option(
    "--source-date-epoch",
    "epoch",
    type=click.IntRange(0, 8**11 - 1),
    envvar="SOURCE_DATE_EPOCH",
    metavar="SECONDS",
    show_envvar=True,
    help="The time that the archive bears; the clock then stays out of the attestations.",
)
@click.option("--source-commit", metavar="COMMIT", help="Recorded in the attestations.")
@click.option("--dry-run", is_flag=True, help="Check the lock, say what would be fetched, and write nothing.")
@click.pass_obj
def command(
    session: Session,
    manifests: Path,
    lock_path: Path,
    mirrors: Path | None,
    output: Path,
    generation: int,
    profile: str,
    platforms: tuple[str, ...],
    name: str,
    key: Path | None,
    helm: Path | None,
    fetches: int,
    epoch: int | None,
    source_commit: str | None,
    dry_run: bool,
) -> None:
    """Build a bundle. A run that was broken off is gone on with: only what is missing is fetched. A finished one stays.

    With SOURCE_DATE_EPOCH the same lock and options give the same bytes.
    """
    import time

    from mxbundle.build import BuildRequest, build, preview
    from mxbundle.lock.model import read_lock
    from sitebundle.helm import Helm
    from sitebundle.oci.endpoint import Mirrors
    from sitebundle.oci.upstream import Upstream

    request = BuildRequest(
        manifests=manifests,
        output=output,
        generation=generation,
        profile=profile,
        platforms=platforms,
        name=name,
        created=epoch,
        fetches=fetches,
    )
    built_at = time.time() if epoch is None else None
    report: BuildReport | BuildPreview
    with session.sink() as sink:
        given = (request, read_lock(lock_path), lock_path, Upstream(Mirrors.read(mirrors), sink), Helm.find(helm), sink)
        if dry_run:
            report = preview(*given, source_commit=source_commit, built_at=built_at)
        else:
            report = build(*given, key=key, source_commit=source_commit, built_at=built_at)
    session.out(report.as_json(), str(report))

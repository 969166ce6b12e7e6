"""`mxinstall verify`: who vouches for a bundle, and is it whole; with --live, does the system do its work."""

from __future__ import annotations

from pathlib import Path

import click

from mxinstall.commands.options import kubeconfig_option
from sitebundle.cli import Session

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("verify")
@click.option("--bundle", type=_FILE, help="The file that crossed the gap.")
@click.option("--deep", is_flag=True, help="Read every byte of the bundle.")
@click.option("--allowed-signers", type=_FILE, help="The trust store; else /etc/mxinstall/allowed_signers.")
@click.option("--live", is_flag=True, help="Act as real clients of the running system.")
@click.option("--site", "site_file", type=_FILE, help="The site's answers; else those of the last install.")
@click.option("--faults", is_flag=True, help="With --live: break pods on purpose and count what is lost.")
@click.option("--report", "report_file", type=_FILE, help="With --live: write the proof as JSON.")
@kubeconfig_option
@click.pass_obj
def command(
    session: Session,
    bundle: Path | None,
    deep: bool,
    allowed_signers: Path | None,
    live: bool,
    site_file: Path | None,
    faults: bool,
    report_file: Path | None,
    kubeconfig: Path | None,
) -> None:
    """Check a bundle, or with --live the running system."""
    if bundle is None and not live:
        raise click.UsageError("say what to verify: --bundle FILE, --live, or both")
    if bundle is not None:
        from mxinstall.verification import verify_bundle

        with session.sink() as sink:
            verdict = verify_bundle(bundle, allowed_signers, deep, sink)
        session.out(verdict.as_json(), verdict.text())
    if live:
        from mxinstall.cluster import Cluster
        from mxinstall.proof.live import told, verify_live
        from mxinstall.site import known_site

        site = known_site(site_file)
        with session.sink() as sink:
            report = verify_live(Cluster.connect(kubeconfig), site, sink, faults=faults, report_path=report_file)
        session.out({"proof": report.as_json()}, told(report))
        report.require()

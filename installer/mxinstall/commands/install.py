"""`mxinstall install`, and what `mxinstall --bundle FILE` means: everything, in order."""

from __future__ import annotations

from pathlib import Path

import click

from mxinstall.commands.options import bundle_options, kubeconfig_option, skip_option
from sitebundle.cli import Session


@click.command("install")
@bundle_options
@kubeconfig_option
@click.option("--yes", is_flag=True, help="Do not ask before the first change.")
@click.option("--take-over", is_flag=True, help="Fence off another installer that holds the site.")
@click.option("--no-proof", is_flag=True, help="Leave the proof out; the generation is committed without it.")
@skip_option
@click.option("--report", "report_file", type=click.Path(path_type=Path, dir_okay=False), help="Write a run report.")
@click.pass_obj
def command(
    session: Session,
    bundle: Path,
    site_file: Path | None,
    allowed_signers: Path | None,
    kubeconfig: Path | None,
    yes: bool,
    take_over: bool,
    no_proof: bool,
    skip: dict[str, str],
    report_file: Path | None,
) -> None:
    """Verify, look, ask, seed, deploy, audit and prove. Stop it anywhere and run it again."""
    from mxinstall.install import Request, install
    from mxinstall.outlook import Outlook, summary
    from mxinstall.run_report import RunReport

    def confirm(outlook: Outlook) -> bool:
        if yes:
            return True
        click.echo(summary(outlook), err=True)
        return click.confirm("Go on?", err=True)

    request = Request(
        bundle=bundle,
        confirm=confirm,
        site_file=site_file,
        allowed_signers=allowed_signers,
        kubeconfig=kubeconfig,
        take_over=take_over,
        prove=not no_proof,
        skip=skip,
    )
    report = RunReport(str(bundle))
    try:
        with session.sink() as sink:
            install(request, sink, report)
    finally:
        if report_file is not None:
            report.write(report_file)
    session.out(report.as_json(), report.text())

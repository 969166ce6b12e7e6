"""`mxinstall plan`: what would change and how many bytes would move. Changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mxinstall.commands.options import bundle_options, kubeconfig_option
from sitebundle.cli import Session

if TYPE_CHECKING:
    from mxinstall.plan import Plan


@click.command("plan")
@bundle_options
@kubeconfig_option
@click.pass_obj
def command(
    session: Session, bundle: Path, site_file: Path | None, allowed_signers: Path | None, kubeconfig: Path | None
) -> None:
    """Render everything with this site's values and compare it with what there is."""
    from mxinstall.install import look_ahead
    from sitebundle.events import silent

    plan = look_ahead(bundle, site_file, allowed_signers, kubeconfig, silent)
    session.out(plan.as_json(), plan_text(plan))


def plan_text(plan: Plan) -> str:
    """The plan for people."""
    lines = [f"generation {plan.generation} on Kubernetes {plan.kubernetes}"]
    for planned in plan.releases:
        drift = f": {', '.join(planned.drift)}" if planned.drift else ""
        lines.append(f"  {planned.change:<10} {planned.name} ({len(planned.objects)} objects){drift}")
        if moves := str(planned.rollout):
            lines.append(f"  {'':<10} {moves}")
    lines += [f"  {'removed':<10} {name}" for name in plan.removed]
    for title, names in (("namespaces", plan.namespaces), ("secrets", plan.secrets), ("CRDs", plan.crds)):
        if names:
            lines.append(f"  to make or change: {len(names)} {title} ({', '.join(names)})")
    lines += [f"  certificate: {entry}" for entry in plan.certificates]
    lines.append(f"  to move: {plan.bytes_to_move / 1e6:.1f} MB")
    if plan.nothing_to_do and not plan.bytes_to_move:
        lines.append("nothing to do")
    return "\n".join(lines)

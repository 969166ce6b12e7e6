"""`mxbundle lint`: what must hold for rendered objects, before anything is built."""

from __future__ import annotations

from pathlib import Path

import click

from mxbundle import options
from sitebundle.cli import Session


@click.command("lint", short_help="Say what in the rendered stack would not work, not last, or not stay inside.")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), metavar="[FILE]…")
@click.option(
    "--manifests",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("manifests"),
    show_default=True,
    help="The stack's definition.",
)
@options.mirrors
@click.option(
    "--profile", "profiles", multiple=True, help="Only this profile. With FILE: the one that the objects are of."
)
@click.option("--rule", "only", multiple=True, metavar="ID", help="Only this rule (may be repeated).")
@click.option(
    "--lock", "lock_path", type=click.Path(path_type=Path, dir_okay=False), help="Every image must be in this lock."
)
@click.option("--registry", metavar="NAME", help="With FILE: what every image reference has to begin with.")
@click.option("--pull-secret", metavar="NAME", help="With FILE: the pull secret that every pod has to have.")
@click.option("--namespace", metavar="NAME", help="With FILE: where objects go that name none; else `default`.")
@click.option(
    "--own-host",
    "own_hosts",
    multiple=True,
    metavar="NAME",
    help="With FILE: a name of the site's own (may be repeated).",
)
@click.option("--list", "list_", is_flag=True, help="List the rules and leave.")
@click.option("--explain", metavar="ID", help="Say what a rule protects and needs, and leave.")
@options.helm
@click.option("--kube-version", default=None, help="The Kubernetes version that charts are rendered for.")
@click.pass_obj
def command(
    session: Session,
    files: tuple[Path, ...],
    manifests: Path,
    mirrors: Path | None,
    profiles: tuple[str, ...],
    only: tuple[str, ...],
    lock_path: Path | None,
    registry: str | None,
    pull_secret: str | None,
    namespace: str | None,
    own_hosts: tuple[str, ...],
    list_: bool,
    explain: str | None,
    helm: Path | None,
    kube_version: str | None,
) -> None:
    """Lint the stack: every release, rendered for every profile; or the YAML in FILE (- is standard input)."""
    from mxbundle.lint import report as faces
    from mxbundle.lint.files import subject_of
    from mxbundle.lint.rules import RULES
    from mxbundle.lint.run import lint, read_accepted
    from mxbundle.lint.shipped import Request, shipped
    from mxbundle.lock.discover import KUBE_VERSION
    from mxbundle.lock.model import read_lock
    from sitebundle.helm import Helm
    from sitebundle.oci.endpoint import Mirrors
    from sitebundle.oci.upstream import Upstream

    for name in (*only, *([explain] if explain else [])):
        if name not in RULES:
            raise click.UsageError(f"there is no rule {name}; --list names them all")
    if list_ or explain:
        told = [RULES[explain]] if explain else list(RULES.values())
        session.out([rule.as_json() for rule in told], faces.explain(RULES[explain]) if explain else faces.catalogue())
        return
    lock = read_lock(lock_path) if lock_path is not None else None
    if files:
        if len(profiles) > 1:
            raise click.UsageError("with FILE one --profile at most: the objects are of one")
        profile = next(iter(profiles), None)
        subjects = [
            subject_of(files, manifests, profile, lock, registry, pull_secret, namespace=namespace, own_hosts=own_hosts)
        ]
    elif own_hosts or any(given is not None for given in (registry, pull_secret, namespace)):
        of_files = "--registry, --pull-secret, --namespace and --own-host are for FILE"
        raise click.UsageError(f"{of_files}: the stack is rendered for a site of its own")
    else:
        request = Request(manifests, profiles, lock, kube_version or KUBE_VERSION)
        with session.sink() as sink:
            subjects = shipped(request, Upstream(Mirrors.read(mirrors), sink), Helm.find(helm), sink)
    accepted = read_accepted(manifests) if not files or profiles else ()
    report = lint(subjects, [RULES[name] for name in only] or None, accepted)
    session.out(report.as_json(), faces.render(report))
    report.require()

"""`python -m darksite`: the commands. Each parses, calls one function, and prints what it returns."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import click

from darksite import binaries, demo, lifecycle, prerequisites
from darksite.errors import DarkSiteError
from darksite.site import Site

_STARTED = time.monotonic()


def _site(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Site:
    try:
        return Site(value) if value else Site.from_environment()
    except ValueError as wrong:
        raise click.BadParameter(str(wrong)) from wrong


def _report(line: str) -> None:
    print(f"{time.monotonic() - _STARTED:6.1f} s  {line}", file=sys.stderr, flush=True)


of_site = click.option("--site", callback=_site, help="Name of the site (default: $MXDARK_SITE, else demo).")


@click.group()
def cli() -> None:
    """A dark site on this machine: a real Kubernetes whose nodes have no route out."""


@cli.command("prerequisites")
def prerequisites_command() -> None:
    """Install the Debian packages that are needed, also for the tests (as root)."""
    installed = prerequisites.install((*prerequisites.PACKAGES, *prerequisites.BROWSER_PACKAGES))
    print(f"installed: {' '.join(installed)}" if installed else "nothing was missing")


@cli.command()
def build() -> None:
    """Build every program that is not in the cache."""
    lifecycle.build(_report, binaries.NAMES)
    for name in binaries.NAMES:
        print(binaries.ensure(name))


@cli.command()
@of_site
@click.option(
    "--network-policy/--no-network-policy",
    "enforce",
    default=None,
    help="Whether NetworkPolicies are enforced (default: as before; at first $MXDARK_NETWORK_POLICY, else yes).",
)
def up(site: Site, enforce: bool | None) -> None:
    """Bring the site up, or what of it is missing."""
    lifecycle.up(site, _report, enforce=enforce)
    print(f"site {site.name} is up; KUBECONFIG={site.kubeconfig}")


@cli.command()
@of_site
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(site: Site, as_json: bool) -> None:
    """Say what runs. Exit code: 0 all of it, 1 some of it, 3 nothing."""
    found = lifecycle.status(site)
    if as_json:
        print(json.dumps({**dataclasses.asdict(found), "up": found.up, "exists": found.exists}, indent=1))
    elif not found.exists:
        print(f"site {site.name}: not there")
    else:
        print(f"site {site.name}: {'up' if found.up else 'not all of it runs'}")
        for part, running in found.parts.items():
            print(f"  {part:32} {'running' if running else 'DOWN'}")
        print(f"  nodes ready: {' '.join(found.nodes_ready) or 'none'}")
        print(f"  {found.network_policy}")
    sys.exit(0 if found.up else 1 if found.exists else 3)


@cli.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@of_site
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def shell(site: Site, command: tuple[str, ...]) -> None:
    """Run COMMAND (or a shell) on the operator's host, with KUBECONFIG set."""
    arguments, environment = lifecycle.shell(site, list(command))
    os.execvpe(arguments[0], arguments, environment)


@cli.command()
@of_site
def down(site: Site) -> None:
    """Take the site down and leave nothing behind."""
    lifecycle.down(site, _report)
    print(f"nothing is left of site {site.name}")


@cli.command()
@of_site
def env(site: Site) -> None:
    """Print what `eval` turns into the environment of the operator's host (the network aside: see shell)."""
    for name, value in lifecycle.environment(site).items():
        print(f"export {name}={value}")


@cli.command("demo")
@click.option("--no-faults", is_flag=True, help="Break nothing at the end.")
def demo_command(no_faults: bool) -> None:
    """Lock, build, carry, install and prove: the whole way. Exit code 0 only if everything passed."""
    report = demo.run(Site.from_environment(), demo.Places(demo.ROOT / "build"), faults=not no_faults)
    # Without faults a system that runs already is not proved again.
    sys.exit(0 if report.passed or (no_faults and not report.failure) else 1)


@cli.command("demo-down")
def demo_down() -> None:
    """Take the site down and remove what the demo made."""
    demo.remove(Site.from_environment(), demo.Places(demo.ROOT / "build"))


def main() -> None:
    """Renders what went wrong in one line, and passes interruptions on."""
    try:
        cli(prog_name="python -m darksite")
    except DarkSiteError as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(1)
    except subprocess.CalledProcessError as failure:
        said = (failure.stderr or "").strip()
        command = " ".join(map(str, failure.cmd)).replace("\n", " ")[:160]
        print(f"error: {command} ended with {failure.returncode}: {said}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

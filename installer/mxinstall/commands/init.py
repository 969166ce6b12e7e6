"""`mxinstall init`: look at the cluster, ask what it cannot tell, and write a site.yaml. A file that exists stays."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mxinstall.commands.options import kubeconfig_option
from sitebundle.cli import Session

if TYPE_CHECKING:
    from mxinstall.site.first import Written
    from mxinstall.site.interview import Prompt

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("init")
@click.option("--bundle", type=_FILE, required=True, help="The file that crossed the gap.")
@click.option("--site", "site_file", type=_FILE, default=Path("site.yaml"), show_default=True, help="What to write.")
@click.option("--name", default="site-1", show_default=True, help="The site's name.")
@click.option("--yes", is_flag=True, help="Ask nothing: take the defaults, or say what is missing.")
@click.option("--answers", type=_FILE, help="A part of a site.yaml: what it has is not asked.")
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="One answer (may be repeated).")
@click.option("--allowed-signers", type=_FILE, help="The trust store; else /etc/mxinstall/allowed_signers.")
@kubeconfig_option
@click.pass_obj
def command(
    session: Session,
    bundle: Path,
    site_file: Path,
    name: str,
    yes: bool,
    answers: Path | None,
    settings: tuple[str, ...],
    allowed_signers: Path | None,
    kubeconfig: Path | None,
) -> None:
    """Write a site.yaml that fits this cluster, with every choice explained. At a terminal it asks; it writes last."""
    from mxinstall.site.first import Wanted, write_first_site

    wanted = Wanted(bundle, site_file, name, allowed_signers, kubeconfig, answers, settings)
    asks = not yes and not session.json and sys.stdin.isatty() and sys.stderr.isatty()
    written = write_first_site(wanted, Terminal() if asks else None)
    choices = [{"field": path, "value": value, "why": why} for path, value, why in written.choices()]
    told = {
        "site": str(site_file),
        "schema": str(written.schema) if written.schema else None,
        "choices": choices,
        "warnings": [warning.as_json() for warning in written.warnings],
        "unseen": list(written.unseen),
    }
    session.out(told, _text(written))


def _text(written: Written) -> str:
    lines = [f"{written.site_file} was written. Chosen:"]
    lines += [f"  {path}: {_brief(value)} ({why})" for path, value, why in written.choices()]
    lines += [f"warning: {warning}" for warning in written.warnings]
    lines += [f"could not be looked at: {what}" for what in written.unseen]
    if written.schema is None:
        lines.append("site.schema.json was not written beside it: mxinstall site schema > site.schema.json")
    lines.append("Read it, change what you like, then: mxinstall preflight --bundle FILE --site FILE")
    return "\n".join(lines)


def _brief(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


class Terminal:
    """A person at a terminal. Enter takes what stands in brackets, < goes back, ? explains, Ctrl-C leaves."""

    def __init__(self) -> None:
        click.echo("Enter takes what stands in brackets; < goes back, ? explains, Ctrl-C leaves.", err=True)

    def ask(self, prompt: Prompt) -> str:
        """An answer that fits."""
        from mxinstall.site.interview import BACK, GoBack

        click.echo(f"\n{prompt.text}", err=True)
        for number, (choice, note) in enumerate(prompt.choices, start=1):
            click.echo(f"  {number}) {choice}{f': {note}' if note else ''}", err=True)
        while True:
            shown = f"[{prompt.default}]" if prompt.default else ""
            given = click.prompt(
                shown, default=prompt.default or "", show_default=False, prompt_suffix="> ", err=True
            ).strip()
            if given == BACK:
                raise GoBack
            if given == "?":
                click.echo(prompt.help or "Enter goes on.", err=True)
                continue
            answer = self._meant(prompt, given)
            fault = "an answer is needed" if not answer else self._fault(prompt, answer)
            if fault is None:
                return answer
            click.echo(f"  {fault}", err=True)

    def say(self, text: str) -> None:
        """Tell something."""
        click.echo(text, err=True)

    @staticmethod
    def _meant(prompt: Prompt, given: str) -> str:
        if given.isdigit() and 1 <= int(given) <= len(prompt.choices):
            return prompt.choices[int(given) - 1][0]
        return given

    @staticmethod
    def _fault(prompt: Prompt, answer: str) -> str | None:
        if prompt.only_these and answer not in [choice for choice, _ in prompt.choices]:
            return f"one of {', '.join(choice for choice, _ in prompt.choices)}"
        return prompt.judge(answer)

"""What both programs' command lines share: lazy commands, the session they get, and the one place that catches.

Not here: any command, any domain function. A command parses, calls one function of the domain, and renders.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import click

from sitebundle.errors import MxError
from sitebundle.events import Sink
from sitebundle.version import program_version

INTERRUPTED = 130
"""Exit code after SIGINT, as shells count it."""


@dataclass
class Session:
    """What a command gets by `click.pass_obj`: how the user wants to be spoken to.

    Results go to stdout by `out`. Events go to stderr for people; with `--json`, to stdout, one JSON line each.
    """

    json: bool = False
    plain: bool = False

    @property
    def mode(self) -> Literal["rich", "plain", "json"]:
        """The face that fits the options and the terminal."""
        if self.json:
            return "json"
        return "plain" if self.plain or not sys.stderr.isatty() else "rich"

    def sink(self) -> AbstractContextManager[Sink]:
        """The face that this run's events go to, for the length of a `with` block."""
        from sitebundle.faces import face

        return face(self.mode, sys.stdout if self.json else sys.stderr)

    def out(self, value: Any, text: str | None = None) -> None:
        """Print one result: `text` (or `value` itself) for people, `value` as one JSON line with `--json`."""
        if self.json:
            click.echo(json.dumps({"text": value} if isinstance(value, str) else value, default=str, sort_keys=True))
        else:
            click.echo(text if text is not None else value)


SHARED_COMMANDS = {
    "completion": ("sitebundle.completion:command", "Print what bash, zsh or fish needs to complete this program."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when it is run, not for `--help`.

    `lazy` maps a command's name to ("module:attribute", "summary"); what both programs have comes after it. Every
    command also takes `--json` and `--plain` after its name.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = {**lazy, **SHARED_COMMANDS}
        for option in _face_options():
            self.params.append(option)
        self.params.append(_version_option())

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order of the table, which is the order of use."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command called `cmd_name`; None when the table has none."""
        if cmd_name not in self.lazy:
            return None
        module, _, attribute = self.lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        _let_choose_face(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that `args` begin with. A misspelled name is a usage error with the one that was meant."""
        if args[0] not in self.lazy and not ctx.resilient_parsing:
            for near in difflib.get_close_matches(args[0], self.lazy, n=1):
                ctx.fail(f"No such command {args[0]!r}. Did you mean {near!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands from the summaries."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self.lazy.items()])


def session_of(ctx: click.Context) -> Session:
    """The run's session, made at the first call."""
    root = ctx.find_root()
    if not isinstance(root.obj, Session):
        root.obj = Session()
    return root.obj


def run(group: click.Group, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and exit: the only place that catches.

    An `MxError` becomes one rendered error and its own exit code; a usage error 2; SIGINT 130; anything else
    one line and exit 1, with the traceback only when MX_DEBUG=1.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        with contextlib.suppress(BrokenPipeError):
            result = group.main(given, prog_name=group.name, standalone_mode=False)
            sys.stdout.flush()
            sys.exit(result if isinstance(result, int) else 0)
        _leave_pipe()
    except MxError as error:
        _render(error.as_json(), as_json)
        sys.exit(error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.UsageError as error:
        usage = f"{error.ctx.get_usage()}  (--help says more)" if error.ctx else ""
        _render(_foreign("usage", error.format_message(), error.exit_code, usage), as_json)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _render(_foreign("usage", error.format_message(), error.exit_code), as_json)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if os.environ.get("MX_DEBUG") == "1":
            traceback.print_exc()
        message = f"{type(error).__name__}: {error}".splitlines()[0][:500]
        _render(_foreign("internal", message, 1, "This is our bug. Run again with MX_DEBUG=1 and report it."), as_json)
        sys.exit(1)


def _render(error: Mapping[str, Any], as_json: bool) -> None:
    with contextlib.suppress(BrokenPipeError):
        if as_json:
            click.echo(json.dumps(error, sort_keys=True))
            return
        click.echo(f"error[{error['error']}]: {error['message']}", err=True)
        if error["hint"]:
            click.echo(f"  hint: {error['hint']}", err=True)


def _foreign(identity: str, message: str, exit_code: int, hint: str = "") -> dict[str, Any]:
    return {"error": identity, "message": message, "hint": hint, "exit_code": exit_code, "fields": {}}


def _leave_pipe() -> NoReturn:
    # The interpreter flushes stdout once more at exit; what nobody reads goes nowhere, without a word.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def _let_choose_face(command: click.Command) -> None:
    """`--json` and `--plain` after a command's name, and after those of the commands below it."""
    known = {name for parameter in command.params for name in parameter.opts}
    command.params.extend(option for option in _face_options() if not known & set(option.opts))
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        _let_choose_face(below)


def _face_options() -> tuple[click.Option, ...]:
    def note(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:
            setattr(session_of(ctx), str(parameter.name), True)
        else:
            session_of(ctx)

    return (
        click.Option(
            ["--json"], is_flag=True, expose_value=False, callback=note, help="Speak JSON, one object a line."
        ),
        click.Option(
            ["--plain"], is_flag=True, expose_value=False, callback=note, help="Plain lines, no terminal tricks."
        ),
    )


def _version_option() -> click.Option:
    def show(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        if not value or ctx.resilient_parsing:
            return
        click.echo(f"{ctx.find_root().info_name} {program_version()}")
        ctx.exit()

    return click.Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=show,
        help="Print the version and leave.",
    )

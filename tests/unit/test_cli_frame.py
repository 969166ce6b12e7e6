"""The frame of both programs: one rendered error, its exit code, JSON on request, nothing imported for --help."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from sitebundle.cli import LazyGroup, Session, run
from sitebundle.completion import script
from sitebundle.errors import BundleMissing


@click.command("fail")
@click.argument("how")
@click.pass_obj
def failing(session: Session, how: str) -> None:
    """Ends as it is told to."""
    if how == "error":
        raise BundleMissing(path="/x")
    if how == "bug":
        raise ZeroDivisionError("by zero\nin two lines")
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "seven":
        click.get_current_context().exit(7)
    session.out({"how": how}, f"did {how}")


def group() -> click.Group:
    table = {"fail": (f"{__name__}:failing", "Ends as told."), "absent": ("no.such.module:x", "Cannot be imported.")}

    @click.group(name="program", cls=LazyGroup, lazy=table)
    def made() -> None:
        """A program."""

    return made


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or _this())


def _this() -> Any:
    module = type(sys)(__name__)
    module.failing = failing  # type: ignore[attr-defined]
    return module


def outcome(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as caught:
        run(group(), arguments)
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def test_a_result_is_text_or_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(capsys, "fail", "not") == (0, "did not\n", "")
    assert outcome(capsys, "fail", "not", "--json") == (0, '{"how": "not"}\n', "")
    assert outcome(capsys, "--json", "fail", "not") == (0, '{"how": "not"}\n', "")


def test_an_error_has_its_id_hint_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = outcome(capsys, "fail", "error")
    assert (code, out) == (10, "")
    assert err.splitlines() == [
        "error[bundle-missing]: There is no bundle at /x.",
        "  hint: Check the path; is the medium mounted?",
    ]


def test_an_error_in_json_is_one_line_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = outcome(capsys, "fail", "--json", "error")
    assert (code, err) == (10, "")
    assert json.loads(out)["fields"] == {"path": "/x"}


def test_a_bug_is_one_line_without_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MX_DEBUG", raising=False)
    code, _, err = outcome(capsys, "fail", "bug")
    assert code == 1
    assert err.startswith("error[internal]: ZeroDivisionError: by zero\n  hint:")
    monkeypatch.setenv("MX_DEBUG", "1")
    assert "Traceback" in outcome(capsys, "fail", "bug")[2]


def test_other_ends_keep_their_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(capsys, "fail", "interrupt")[0] == 130
    assert outcome(capsys, "fail", "seven")[0] == 7
    assert outcome(capsys, "nothing")[0] == 2
    assert outcome(capsys, "fail")[0] == 2


def test_a_program_without_arguments_shows_its_help_and_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = outcome(capsys)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: program")
    assert "Ends as told." in err


def test_a_misspelled_command_is_answered_with_the_one_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = outcome(capsys, "fial", "error")
    assert code == 2
    assert "No such command 'fial'. Did you mean 'fail'?" in err
    assert "Did you mean" not in outcome(capsys, "nothing")[2]


@pytest.mark.parametrize(
    ("words", "completed"),
    [("mxbundle bu", "build"), ("mxbundle build --gen", "--generation"), ("mxinstall prefl", "preflight")],
)
def test_bash_completes_commands_and_options(words: str, completed: str) -> None:
    program = words.split(maxsplit=1)[0]
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "-", program, *words.split()],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [completed], done.stderr


COMPLETE = """
program=$1; shift
source <("$program" completion bash)
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
"_${program}_completion" "$program"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_a_script_that_asks_the_program(shell: str) -> None:
    assert "_PROGRAM_COMPLETE" in script(group(), "program", shell)


def test_help_imports_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = outcome(capsys, "--help")
    assert code == 0
    assert "Cannot be imported." in out


@pytest.mark.parametrize("program", ["mxbundle", "mxinstall"])
def test_help_of_the_programs_loads_nothing_heavy(program: str) -> None:
    script = (
        f"import sys; from {program}.cli import group\n"
        "try: group.main(['--help'], standalone_mode=False)\n"
        "finally: print(sorted(set(sys.modules) & {'urllib3', 'cryptography', 'zstandard', 'pydantic', 'rich'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_closed_pipe_is_no_error() -> None:
    script = "from sitebundle.cli import run; from mxbundle.cli import group; run(group, ['--help'])"
    done = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "{script}" | true; echo ${{PIPESTATUS[0]}}'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""

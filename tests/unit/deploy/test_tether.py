"""A program on a tether ends with whoever started it, and with its time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from mxinstall import tether


def test_code_and_words_are_passed_on() -> None:
    outcome = tether.run(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], os.environ, 10)
    assert (outcome.code, outcome.stdout, outcome.stderr) == (3, "out\n", "err\n")


def test_it_is_ended_when_its_time_is_over() -> None:
    began = time.monotonic()
    outcome = tether.run(["/bin/sleep", "60"], os.environ, 0.5)
    assert outcome.code == -1
    assert "ended after" in outcome.stderr
    assert time.monotonic() - began < 10


def test_it_dies_with_a_killed_parent(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    script = (
        "import os, sys\nfrom mxinstall import tether\n"
        "tether.run(['/bin/sh', '-c', f'echo $$ > {sys.argv[1]}; exec sleep 60'], os.environ, 90)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(told)]) as parent:
        deadline = time.monotonic() + 20
        while not (told.exists() and told.read_text().strip()):
            assert time.monotonic() < deadline, "the child never began"
            time.sleep(0.05)
        child = int(told.read_text())
        assert _runs(child)
        parent.kill()
    deadline = time.monotonic() + 5
    while _runs(child):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

"""Runs a program in a process group of its own that cannot outlive us, killed by the kernel when we die.

Not here: what the program is told.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Event

# PR_SET_PDEATHSIG (1) is set between fork and exec by a small interpreter of its own: `preexec_fn` is not safe in a
# process with threads. The signal comes when the *thread* that started it ends, so that thread must wait for it.
# It is checked afterwards that the parent is still the one that asked: it may have died before the call.
_WRAPPER = (
    "import ctypes,os,sys\n"
    "ctypes.CDLL(None).prctl(1,9)\n"
    "os.getppid()==int(sys.argv[1]) or os._exit(1)\n"
    "os.execv(sys.argv[2],sys.argv[2:])\n"
)

_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Outcome:
    """How a program ended, and what it said."""

    code: int
    stdout: str
    stderr: str


def run(
    command: Sequence[str], environment: Mapping[str, str], timeout_seconds: float, stop: Event | None = None
) -> Outcome:
    """Run `command` (an absolute program first) to its end.

    Ends the whole group on a timeout or when `stop` is set (code -1, said in stderr), and on any exception here.
    """
    wrapped = [sys.executable, "-I", "-S", "-c", _WRAPPER, str(os.getpid()), *command]
    deadline = time.monotonic() + timeout_seconds
    with _group(wrapped, environment) as process:
        while True:
            try:
                stdout, stderr = process.communicate(timeout=_LOOK_SECONDS)
                return Outcome(process.returncode, stdout, stderr)
            except subprocess.TimeoutExpired:
                stopped = stop is not None and stop.is_set()
                if stopped or time.monotonic() > deadline:
                    _kill(process)
                    stdout, stderr = process.communicate()
                    why = "interrupted" if stopped else f"ended after {timeout_seconds:.0f} s"
                    return Outcome(-1, stdout, f"{stderr}\n{why}".strip())


@contextlib.contextmanager
def _group(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)

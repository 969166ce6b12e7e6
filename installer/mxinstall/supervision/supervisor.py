"""Keeps the carried registry running where there is no systemd: `python -m mxinstall.supervision.supervisor DIR`.

Leaves its caller's session, restarts the registry when it dies, and writes who it is to DIR/supervisor.json.
Imports nothing heavy: this process stays for years.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from mxinstall.supervision.processes import Process, process

RECORD = "supervisor.json"
COMMAND = "command.json"
LOCK = "supervisor.lock"
LOG = "registry.log"

_PR_SET_PDEATHSIG = 1
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_SETTLED_SECONDS = 60.0
_LOG_LIMIT_BYTES = 16 * 1024 * 1024


class _Asked(Exception):
    """Somebody asked for the end."""


def main(directory: Path) -> None:
    """Leave the caller, take the lock (or give way to who has it), and supervise until asked to end."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    lock = (directory / LOCK).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os._exit(0)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ask)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _redirect(directory / LOG)
    _supervise(directory)


def _ask(number: int, frame: FrameType | None) -> None:
    raise _Asked


def _supervise(directory: Path) -> None:
    asked = json.loads((directory / COMMAND).read_text())
    environment = {**os.environ, **asked["environment"]}
    restarts, pause = 0, _FIRST_PAUSE_SECONDS
    child: subprocess.Popen[bytes] | None = None
    try:
        while True:
            began = time.monotonic()
            child = subprocess.Popen(
                asked["command"],
                stdin=subprocess.DEVNULL,
                env=environment,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has one thread
            )
            _write(directory, process(child.pid), restarts)
            code = child.wait()
            lasted = time.monotonic() - began
            print(f"the registry ended with {code} after {lasted:.0f} s", file=sys.stderr, flush=True)  # noqa: T201
            pause = _FIRST_PAUSE_SECONDS if lasted > _SETTLED_SECONDS else min(pause * 2, _LONGEST_PAUSE_SECONDS)
            restarts += 1
            _write(directory, None, restarts)
            time.sleep(pause)
            _redirect(directory / LOG)
    except _Asked:
        if child is not None and child.poll() is None:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        (directory / RECORD).unlink(missing_ok=True)


def _write(directory: Path, child: Process | None, restarts: int) -> None:
    own = process(os.getpid())
    assert own is not None
    growing = directory / f".{RECORD}.part"
    growing.write_text(
        json.dumps({"supervisor": vars(own), "registry": vars(child) if child else None, "restarts": restarts})
    )
    growing.replace(directory / RECORD)


def _redirect(log: Path) -> None:
    """Send our and the registry's words to `log`; one old log is kept, so that years cannot fill the disk."""
    if log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.1"))
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(null)
    os.close(descriptor)


def _die_with_parent() -> None:
    # A registry without its supervisor would hold the port against the next one.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

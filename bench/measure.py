"""Wall time, peak resident memory and peak extra disk of a row of commands. It knows no contender."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SAMPLE_SECONDS = 0.2


@dataclass(frozen=True)
class Measured:
    """Seconds of wall time; peak bytes resident in one process; peak bytes on disk beside what is to be kept."""

    seconds: float
    resident_bytes: int
    extra_disk_bytes: int


class CommandFailed(Exception):
    """A contender's command did not end well; the text has its command line and last words."""


def measure(
    commands: Sequence[Sequence[str]], workspace: Path, keep: Sequence[Path], environment: Mapping[str, str]
) -> Measured:
    """Run `commands` one after another in `workspace`, which is all they may write to; `keep` is what they are for.

    Temporary files and the home directory are pointed into the workspace, so that nothing is written unseen.
    Raises CommandFailed.
    """
    scratch = workspace / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    surroundings = {**os.environ, "TMPDIR": str(scratch), "HOME": str(scratch), **environment}
    before = disk_bytes(workspace)
    peak_disk, ended = before, threading.Event()

    def watch() -> None:
        nonlocal peak_disk
        while not ended.wait(_SAMPLE_SECONDS):
            peak_disk = max(peak_disk, disk_bytes(workspace))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started, resident = time.monotonic(), 0
    try:
        for command in commands:
            resident = max(resident, _run(command, workspace, surroundings))
    finally:
        seconds = time.monotonic() - started
        ended.set()
        watcher.join()
    peak_disk = max(peak_disk, disk_bytes(workspace))
    kept = sum(disk_bytes(path) for path in keep)
    return Measured(seconds, resident, max(0, peak_disk - before - kept))


def disk_bytes(path: Path) -> int:
    """Bytes that a file, or every file below a folder, takes on disk (blocks, not lengths)."""
    total = 0
    for place in [path, *path.rglob("*")] if path.is_dir() else [path]:
        try:
            status = place.lstat()
        except FileNotFoundError:  # a temporary file that went away while we looked
            continue
        total += status.st_blocks * 512
    return total


def _run(command: Sequence[str], workspace: Path, environment: Mapping[str, str]) -> int:
    """Run one command; the peak resident bytes of it and its children."""
    log = workspace.with_name(f"{workspace.name}.log")
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=workspace, env=dict(environment), stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
        _pid, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        last = log.read_text(errors="replace")[-1500:]
        raise CommandFailed(f"{' '.join(command)} ended with {process.returncode}:\n{last}")
    return usage.ru_maxrss * 1024

"""Wall time, peak resident memory and peak extra disk of a row of commands. It knows no contender."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SAMPLE_SECONDS = 0.05


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
    peak = _Peak(workspace, before)
    started = time.monotonic()
    for command in commands:
        _run(command, workspace, surroundings, peak)
    seconds = time.monotonic() - started
    kept = sum(disk_bytes(path) for path in keep)
    return Measured(seconds, peak.resident_bytes, max(0, peak.disk_bytes - before - kept))


@dataclass
class _Peak:
    """The highest values seen so far."""

    workspace: Path
    disk_bytes: int
    resident_bytes: int = 0

    def look(self, process: int) -> None:
        """Look at the workspace, and at a process and its descendants.

        VmHWM is a process's own highest value, so that a sample late in its life is enough. The kernel's ru_maxrss
        would not do: a child starts with its parent's, which is our own.
        """
        self.disk_bytes = max(self.disk_bytes, disk_bytes(self.workspace))
        for one in (process, *_descendants(process)):
            try:
                status = Path(f"/proc/{one}/status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            for line in status.splitlines():
                if line.startswith("VmHWM:"):
                    self.resident_bytes = max(self.resident_bytes, int(line.split()[1]) * 1024)


def _descendants(process: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = [int(one) for one in task.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            found += [child, *_descendants(child)]
    return found


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


def _run(command: Sequence[str], workspace: Path, environment: Mapping[str, str], peak: _Peak) -> None:
    log = workspace.with_name(f"{workspace.name}.log")
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=workspace, env=dict(environment), stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
        while True:
            try:
                process.wait(_SAMPLE_SECONDS)
            except subprocess.TimeoutExpired:
                peak.look(process.pid)
            else:
                break
    peak.look(process.pid)
    if process.returncode != 0:
        last = log.read_text(errors="replace")[-1500:]
        raise CommandFailed(f"{' '.join(command)} ended with {process.returncode}:\n{last}")

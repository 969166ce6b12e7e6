"""Processes that are known for certain: started once, found again, and ended without touching anybody else's.

A process is its number and its start time, so that a number used again is never taken for it. Which processes
belong to a machine is asked of the kernel: they are the ones in its network namespace.
"""

import contextlib
import os
import re
import select
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

# Field 22 is the start time; the name in field 2 is ours and has no space in it.
_DAEMON = """
ledger=$1; shift
while [ "$1" != -- ]; do echo 0 > "$1" || exit 70; shift; done; shift
read -r _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ started _ < /proc/$$/stat
echo "$$ $started" > "$ledger" || exit 70
exec "$@"
"""


@dataclass(frozen=True)
class Process:
    """A process for as long as it lives. `started_ticks` are clock ticks since boot (proc_pid_stat(5), field 22)."""

    pid: int
    started_ticks: int

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return identify(self.pid) == self


def identify(pid: int) -> Process | None:
    """The process that has number `pid` now; None when there is none or only its remains."""
    try:
        state, started_ticks = _look(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else Process(pid, started_ticks)


def children(pid: int) -> list[Process]:
    """The living children of process `pid`."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    found = (identify(int(child)) for child in listed)
    return [child for child in found if child is not None]


def in_network_namespace(namespace: Path) -> list[Process]:
    """Every process whose network namespace is the one mounted at `namespace`; none when nothing is there."""
    try:
        wanted = f"net:[{namespace.stat().st_ino}]"
    except FileNotFoundError:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if str((entry / "ns/net").readlink()) == wanted:
                    found.append(identify(int(entry.name)))
    return [process for process in found if process is not None]


def end(processes: Iterable[Process], grace_seconds: float = 0.0) -> None:
    """Ends these processes and waits until they are gone: SIGTERM first when there is `grace_seconds`, then SIGKILL.

    Raises `TimeoutError` when one survives that for ten seconds.
    """
    remaining = list(processes)
    if grace_seconds:
        for process in remaining:
            _signal(process, signal.SIGTERM)
        remaining = _wait(remaining, grace_seconds)
    for process in remaining:
        _signal(process, signal.SIGKILL)
    remaining = _wait(remaining, 10.0)
    if remaining:
        raise TimeoutError(f"still running after SIGKILL: {[process.pid for process in remaining]}")


class Ledger:
    """Which process plays which part, kept in a folder, one file per part."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(
        self,
        part: str,
        command: list[str],
        log: Path,
        cgroup_files: Iterable[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Starts a daemon for `part` in a session of its own, so that it outlives the terminal; it appends to `log`.

        It first puts itself into the cgroups whose `cgroup.procs` are given, so that its children are born there,
        and writes itself down here: whoever starts it may be killed at any moment. Raises OSError when nothing
        could be started; a command that is not found ends the process a moment later.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        # Not subprocess: it minds children that are left behind, and these are meant to be.
        pid = os.posix_spawn(
            "/bin/sh",
            ["/bin/sh", "-c", _DAEMON, "sh", str(self._folder / part), *cgroup_files, "--", *command],
            os.environ if environment is None else environment,
            setsid=True,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )
        # Even a child that has ended keeps its entry until we do, so this cannot be somebody else.
        process = Process(pid, _look(pid)[1])
        self.record(part, process)
        return process

    def record(self, part: str, process: Process) -> None:
        """Notes that `process` plays `part`; complete or not at all, also when interrupted."""
        self._folder.mkdir(parents=True, exist_ok=True)
        growing = self._folder / f".{part}"
        growing.write_text(f"{process.pid} {process.started_ticks}\n")
        growing.replace(self._folder / part)

    def find(self, part: str) -> Process | None:
        """The living process that plays `part`."""
        try:
            noted = (self._folder / part).read_text()
        except FileNotFoundError:
            return None
        if not re.fullmatch(r"\d+ \d+\n", noted):
            return None
        pid, started_ticks = noted.split()
        process = Process(int(pid), int(started_ticks))
        return process if process.alive else None

    def forget(self, part: str) -> None:
        """`part` is played by nobody any more, and need not be."""
        (self._folder / part).unlink(missing_ok=True)

    def parts(self) -> dict[str, Process | None]:
        """Every part ever noted, and who plays it now."""
        if not self._folder.is_dir():
            return {}
        names = sorted(path.name for path in self._folder.iterdir() if not path.name.startswith("."))
        return {name: self.find(name) for name in names}


def _look(pid: int) -> tuple[str, int]:
    """State letter and start time of process `pid`. Raises `FileNotFoundError` or `ProcessLookupError`."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    # The command in parentheses may contain anything, spaces and parentheses too.
    state, *fields = stat.rpartition(")")[2].split()
    return state, int(fields[18])


def _signal(process: Process, number: signal.Signals) -> None:
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        # The handle now pins the number: what is alive behind it cannot change under our hands.
        if process.alive:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)


def _wait(processes: list[Process], seconds: float) -> list[Process]:
    """Those that are still there when the time is up."""
    deadline = time.monotonic() + seconds
    remaining = list(processes)
    while remaining := [process for process in remaining if process.alive]:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        try:
            handle = os.pidfd_open(remaining[0].pid)
        except ProcessLookupError:
            continue
        try:
            select.select([handle], [], [], min(left, 0.2))
        finally:
            os.close(handle)
    return remaining

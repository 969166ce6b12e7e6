"""A process that is recognised again: a pid alone may belong to somebody else by now.

A process is its pid, its start in clock ticks (field 22 of /proc/PID/stat, proc(5)) and the boot it started in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process of one boot. `start_ticks` are clock ticks since boot."""

    pid: int
    start_ticks: int
    boot: str

    @property
    def identity(self) -> str:
        """A text that no other process ever has."""
        return f"{self.boot}:{self.pid}:{self.start_ticks}"

    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return self.boot == boot_id() and start_ticks(self.pid) == self.start_ticks


def boot_id() -> str:
    """The identity of this boot of this machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int) -> int | None:
    """When `pid` started, in clock ticks since boot; None when there is no such process, or only its zombie."""
    try:
        # The name, in brackets, may hold spaces and brackets itself: what counts is after the last one.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])


def process(pid: int) -> Process | None:
    """The process that has `pid` now."""
    ticks = start_ticks(pid)
    return None if ticks is None else Process(pid, ticks, boot_id())

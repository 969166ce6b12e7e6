"""The cgroups of a site's machines, in cgroup v1's many hierarchies or in cgroup v2's one.

Limits are the kubelet's business; this makes, names and removes the trees.
"""

import contextlib
import os
import time
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
V2_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids")


def is_v2() -> bool:
    """Whether the kubelet will find cgroup v2: the same question it asks, by another file."""
    return (MOUNT / "cgroup.controllers").exists()


def hierarchies() -> tuple[Path, ...]:
    """The roots below which a machine's cgroup exists."""
    if is_v2():
        return (MOUNT,)
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    # Beside v1 there may be an empty v2 one, in which runc makes its folders all the same.
    return tuple(sorted({Path(fields[1]) for fields in mounts if fields[2] in ("cgroup", "cgroup2")}))


def create(name: str) -> None:
    """Makes cgroup `name` (a relative path) in every hierarchy. Doing it twice changes nothing. Raises OSError."""
    for root in hierarchies():
        here = root
        for part in Path(name).parts:
            if is_v2():
                _delegate(here)
            below = here / part
            below.mkdir(exist_ok=True)
            if (here / "cpuset.cpus").exists() and not is_v2():
                _inherit_cpuset(here, below)
            here = below


def joining(name: str) -> list[str]:
    """The files into which a process writes `0` to put itself into cgroup `name`."""
    return [str(root / name / "cgroup.procs") for root in hierarchies()]


def members(name: str) -> set[int]:
    """The processes in cgroup `name` and below it, in any hierarchy."""
    found: set[int] = set()
    for root in hierarchies():
        for folder, _folders, files in os.walk(root / name):
            if "cgroup.procs" in files:
                with contextlib.suppress(OSError):
                    found.update(int(pid) for pid in (Path(folder) / "cgroup.procs").read_text().split())
    return found


def remove(name: str, patience_seconds: float = 5.0) -> None:
    """Removes cgroup `name` and all below it, everywhere. Raises OSError when processes stay in it."""
    deadline = time.monotonic() + patience_seconds
    for root in hierarchies():
        while (root / name).exists():
            try:
                for folder, _folders, _files in os.walk(root / name, topdown=False):
                    Path(folder).rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                # A process that has just been killed leaves its cgroup a moment later.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        with contextlib.suppress(OSError):
            (root / name).parent.rmdir()


def exists(name: str) -> bool:
    """Whether any hierarchy still has cgroup `name`."""
    return any((root / name).exists() for root in hierarchies())


def _inherit_cpuset(parent: Path, child: Path) -> None:
    # A v1 cpuset starts empty, and an empty one takes no process.
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not (child / name).read_text().strip():
            (child / name).write_text((parent / name).read_text())


def _delegate(folder: Path) -> None:
    have = (folder / "cgroup.controllers").read_text().split()
    wanted = [name for name in V2_CONTROLLERS if name in have]
    (folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in wanted))

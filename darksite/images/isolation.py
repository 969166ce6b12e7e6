"""Processes in root file systems of ours, each with mounts that end with it, however it ends.

It neither makes nor fills a root file system; nothing here outlives the call.
"""

import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def inside(
    root: Path,
    command: Sequence[str],
    *,
    user: tuple[int, int] = (0, 0),
    environment: Mapping[str, str] | None = None,
    writable: Mapping[str, Path] | None = None,
    tmpfs: Iterable[str] = (),
    working_dir: str = "/",
    timeout_seconds: float = 60,
) -> "subprocess.CompletedProcess[str]":
    """Runs `command` in the read-only root file system `root`, as uid and gid `user` without other groups.

    Its network is a loopback of its own. `writable` mounts host directories at paths that exist in `root`, `tmpfs`
    empty ones. Output and errors are captured together; the exit code is the caller's to judge.
    Raises `subprocess.TimeoutExpired`; no process or mount survives the call.
    """
    steps = [
        words("ip", "link", "set", "lo", "up"),
        words("mount", "--bind", root, root),
        words("mount", "-o", "remount,bind,ro", root),
        *kernel_mounts(root),
        *(words("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", f"{root}{path}") for path in tmpfs),
        *(words("mount", "--bind", source, f"{root}{path}") for path, source in (writable or {}).items()),
        enter(root, command, {"PATH": PATH, **(environment or {})}, user, working_dir),
    ]
    return subprocess.run(
        isolated(steps, "--net"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )


def kernel_mounts(root: Path) -> list[str]:
    """The steps that give `root` its /proc and the host's /dev."""
    return [words("mount", "-t", "proc", "proc", root / "proc"), words("mount", "--rbind", "/dev", root / "dev")]


def enter(
    root: Path,
    command: Sequence[str],
    environment: Mapping[str, str],
    user: tuple[int, int] = (0, 0),
    working_dir: str = "/",
) -> str:
    """The step that replaces the shell by `command` in `root` with exactly this environment."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    # unshare enters, changes directory and drops every group without needing a program inside.
    entering = ["unshare", f"--root={root}", f"--wd={working_dir}", f"--setgid={user[1]}", f"--setuid={user[0]}"]
    return "exec " + words("env", "-i", *variables, *entering, "--", *command)


def isolated(steps: Sequence[str], *namespaces: str) -> list[str]:
    """The command for shell `steps` in mount and process namespaces that end with the calling process."""
    script = "set -e\n" + "\n".join(steps)
    private = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", *namespaces]
    return ["setpriv", "--pdeathsig", "KILL", "--", *private, "/bin/sh", "-c", script]


def words(*parts: object) -> str:
    """One shell command, quoted."""
    return shlex.join(str(part) for part in parts)

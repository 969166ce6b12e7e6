"""A series of cases on one site: each in a process of its own, bounded in time, its row written before the next one.

What a case left broken is mended before the next one starts: by healing the site, else by installing it anew.
Runs outside the site; the case itself runs on the operator's host.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from darksite import cluster, lifecycle, network_policy, power
from darksite.demo import operator_environment
from darksite.errors import DarkSiteError
from darksite.site import Site
from tests.matrix import rows
from tests.matrix.live import OUTSIDE
from tests.matrix.registry import AVOIDED, Case

PASSED, FAILED = 0, 10
"""How the process of a case ends when it has written its row."""
INSTALL_SECONDS = 1500.0
HEALTHY_SECONDS = 420.0
NODES_SECONDS = 180.0
ENDING_SECONDS = 60.0
"""What a case that hangs gets to put back what it broke."""


class NoSite(Exception):
    """There is no site to try anything on, and none could be made."""


def foreseen(cases: Sequence[Case]) -> str:
    """What will run and how long that is expected to take, for people."""
    lines = [f"{case.seconds:6.0f} s  {case.name}" for case in cases]
    total = sum(case.seconds for case in cases)
    return "\n".join([*lines, f"{total:6.0f} s  expected for {len(cases)} cases, the site's installation aside"])


def end_in_order() -> None:
    """Let SIGTERM be an interruption here, so that what was broken is put back.

    Not SIGINT, which is ignored by whatever a shell starts in the background.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def run(site: Site, cases: Sequence[Case], seconds: float) -> list[Case]:
    """Run one case after the other, and start none that is expected to end later than in `seconds`.

    Returns those that did not pass, those that were not started among them. Raises NoSite.
    """
    began, failed, whole = time.monotonic(), [], False
    for case in cases:
        # The first one always runs: a shard that can do nothing would never end.
        if case is not cases[0] and time.monotonic() - began + case.seconds > seconds:
            print(f"-       {case.name}: left for the next run", flush=True)
            failed.append(case)
            continue
        if not case.alone and not whole:
            make_whole(site)
        passed = _run_one(site, case)
        # What needs no site breaks none.
        whole = whole if case.alone else passed
        if not passed:
            failed.append(case)
    return failed


def make_whole(site: Site) -> None:
    """The demo installed on the site and healthy, whatever was left there. Raises NoSite."""
    obstacle = _heal(site)
    if obstacle:
        print(f"the site is installed anew: {obstacle}", flush=True)
        _darksite("demo-down")
        obstacle = _heal(site)
    if obstacle:
        raise NoSite(obstacle)


def _heal(site: Site) -> str:
    """Undo what cases do to a site, install what differs, and wait until `mxinstall status` is content.

    Returns what is wrong all the same; empty when nothing is.
    """
    try:
        _undo(site)
    except (DarkSiteError, OSError, subprocess.SubprocessError) as fault:
        return f"it cannot be mended: {fault}"
    if code := _darksite("demo", "--no-faults"):
        return f"the demo ended with {code}"
    deadline = time.monotonic() + HEALTHY_SECONDS
    while (done := operator(site, "mxinstall", "status")).returncode != 0:
        if time.monotonic() > deadline:
            return f"not healthy after {HEALTHY_SECONDS:.0f} s: {(done.stdout + done.stderr)[-1500:]}"
        time.sleep(5.0)
    return ""


def _undo(site: Site) -> None:
    """Power, cables, enforcement, cordons, taints and marks of nodes; nothing where there is no site."""
    if not lifecycle.status(site).exists:
        return
    for done in power.mend(site):
        print(f"mended: {done}", flush=True)
    network_policy.decide(site, True)
    for node in site.nodes:
        network_policy.settle(site, node)
    deadline = time.monotonic() + NODES_SECONDS
    while len(cluster.ready_nodes(site)) < len(site.nodes) and time.monotonic() < deadline:
        time.sleep(1.0)
        for machine in (site.control_plane, *site.nodes):
            power.tend(site, machine)
    for node in site.nodes:
        cluster.kubectl(site, "uncordon", node.name)
        cluster.kubectl(site, "taint", "node", node.name, f"{AVOIDED}-", check=False)
        operator(site, "mxinstall", "node", "return", node.name)


def operator(site: Site, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the operator's host and return what it said, whatever its exit code."""
    return subprocess.run(
        [*_shell(), *command], env=_environment(site), capture_output=True, text=True, check=False, timeout=600
    )


def _run_one(site: Site, case: Case) -> bool:
    """Whether it passed. It writes its row itself; where it cannot, that is its row."""
    began = time.monotonic()
    command = [*([] if case.alone else _shell()), sys.executable, "-m", "tests.matrix", "one", case.name]
    environment = os.environ if case.alone else _environment(site)
    # A group of its own: it is ended with whatever it has started.
    process = subprocess.Popen(command, cwd=rows.ROOT, env=environment, start_new_session=True)
    try:
        code = process.wait(case.limit_seconds)
    except subprocess.TimeoutExpired:
        _end(process)
        _write_failure(case, began, f"not done after {case.limit_seconds:.0f} s")
        return False
    except BaseException:
        _end(process)
        raise
    if code not in (PASSED, FAILED):
        _write_failure(case, began, f"it ended with {code} and wrote no row")
    return code == PASSED


def _write_failure(case: Case, began: float, seen: str) -> None:
    rows.append(case.family, rows.stamped(case, "fail", time.monotonic() - began, {"seen": seen}))
    print(f"fail    {case.name}: {seen}", flush=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """An interruption first, upon which it puts back what it broke; then the whole group is killed."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(ENDING_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _darksite(*arguments: str) -> int:
    """Exit code of a command of `python -m darksite`, which says itself what it does."""
    command = [sys.executable, "-m", "darksite", *arguments]
    return subprocess.run(command, cwd=rows.ROOT, check=False, timeout=INSTALL_SECONDS).returncode


def _shell() -> list[str]:
    return [sys.executable, "-m", "darksite", "shell", "--"]


def _environment(site: Site) -> Mapping[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    outside = f"/proc/{os.getpid()}/ns/net"
    return {**os.environ, **operator_environment(site), "PATH": path, OUTSIDE: outside}

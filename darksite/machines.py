"""A machine of the site: a process that stands for it, in namespaces of its own, and what runs beside that.

When the process ends the kernel ends everything in the machine, and its mounts are gone: nothing is left to find.
The operator's machine is a network namespace alone, so that whoever works there sees this machine's files.
"""

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from darksite import binaries, cache, cgroups, processes
from darksite.errors import MachineStartError
from darksite.site import Machine, Site

PRODUCTS = "/opt/darksite"
"""Where a machine sees the cache of built programs."""
OUTER = "-outer"
"""Ends the part that keeps a machine from outside: the parent of its first process."""
_SHARED_ETC = (
    "alternatives",
    "group",
    "host.conf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "protocols",
    "services",
)
_SETUP = """
set -e
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "$4" "$1/opt/darksite"
mount --bind /usr/lib/cni "$1/opt/cni/bin"
mount --rbind "$1/opt" /opt
mount --bind "$1/var-log" /var/log
mount --bind "$1/etc" /etc
mount --bind "$1/var-lib" /var/lib
hostname "$2"
echo ready
exec "$3" </dev/null >/dev/null 2>&1
"""


def start(site: Site, machine: Machine) -> None:
    """Starts the process that stands for `machine`, unless it runs. Its network must be there.

    Raises `MachineStartError`, OSError.
    """
    ledger = ledger_of(site)
    if ledger.find(machine.name) is not None:
        return
    cgroups.create(f"{machine.cgroup}/daemons")
    _furnish(machine)
    log = site.logs / f"{machine.name}.log"
    outer = ledger.start(
        machine.name + OUTER,
        [
            "nsenter",
            f"--net={machine.namespace_path}",
            "unshare",
            "--pid",
            "--mount",
            "--uts",
            "--ipc",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            _SETUP,
            "setup",
            str(machine.folder),
            machine.name,
            f"{PRODUCTS}/{binaries.ensure('pause').relative_to(cache.root())}",
            str(cache.root()),
        ],
        log,
        cgroups.joining(f"{machine.cgroup}/daemons"),
    )
    ledger.record(machine.name, _first_process(outer, log))


def enter(site: Site, machine: Machine) -> list[str]:
    """The command prefix that runs a command inside `machine`, in all its namespaces.

    Raises `MachineStartError` when the machine is not up.
    """
    first = ledger_of(site).find(machine.name)
    if first is None:
        raise MachineStartError(f"{machine.name} is not running")
    return ["nsenter", f"--target={first.pid}", "--net", "--mount", "--uts", "--ipc", "--pid", "--"]


def start_daemon(site: Site, machine: Machine, name: str, command: Sequence[str]) -> None:
    """Starts `command` as daemon `name` of `machine`, unless it runs; it logs to `<machine>-<name>.log`."""
    part = f"{machine.name}-{name}"
    ledger = ledger_of(site)
    if ledger.find(part) is not None:
        return
    ledger.start(
        part,
        [*enter(site, machine), *command],
        site.logs / f"{part}.log",
        cgroups.joining(f"{machine.cgroup}/daemons"),
        environment={
            # Ours first: containerd looks for its shim here, and a host with Docker has another one.
            "PATH": ":".join([product("runc", parent=True), product("containerd"), "/usr/sbin:/usr/bin:/sbin:/bin"]),
            "HOME": "/root",
        },
    )


def run(
    site: Site, machine: Machine, command: Sequence[str], timeout_seconds: float = 120
) -> subprocess.CompletedProcess[str]:
    """Runs `command` in `machine` and returns what it said, whatever its exit code."""
    return subprocess.run(
        [*enter(site, machine), *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )


def product(name: str, program: str = "", *, parent: bool = False) -> str:
    """The path, inside a machine, of what `binaries.ensure(name)` gives outside; or of the folder it is in."""
    place = binaries.ensure(name) / program
    return f"{PRODUCTS}/{(place.parent if parent else place).relative_to(cache.root())}"


def ledger_of(site: Site) -> processes.Ledger:
    """The site's record of which process is what."""
    return processes.Ledger(site.state / "ledger")


def _furnish(machine: Machine) -> None:
    """Gives the machine folders of its own, and of this machine's /etc only what programs need to run."""
    for name in ("opt/cni/bin", "opt/darksite", "etc", "var-lib", "var-log"):
        (machine.folder / name).mkdir(parents=True, exist_ok=True)
    (machine.folder / "etc/hostname").write_text(f"{machine.name}\n")
    (machine.folder / "etc/hosts").write_text(f"127.0.0.1 localhost\n{machine.address} {machine.name}\n")
    # The site has no DNS server but the cluster's own.
    (machine.folder / "etc/resolv.conf").write_text("# no name server outside the cluster\n")
    for name in _SHARED_ETC:
        source, target = Path("/etc") / name, machine.folder / "etc" / name
        if target.is_symlink() or target.exists() or not (source.is_symlink() or source.exists()):
            continue
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True)
        else:
            shutil.copy2(source, target, follow_symlinks=not source.is_symlink())


def _first_process(outer: processes.Process, log: Path) -> processes.Process:
    """The process inside the new namespaces, once it has set the machine up."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not outer.alive:
            break
        if log.read_bytes().endswith(b"ready\n"):
            inside = processes.children(outer.pid)
            if len(inside) == 1:
                return inside[0]
        time.sleep(0.01)
    raise MachineStartError(log.read_text(errors="replace").strip() or f"no sign of life in {log}")

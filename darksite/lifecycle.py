"""A site's life: up, what it is like, down. Each may be interrupted at any moment and repeated.

`up` goes on from what still stands, or clears away what does not stand by itself. `down` asks the kernel who is in
the site's namespaces and cgroups, and leaves neither them nor anything else.
"""

import contextlib
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from darksite import (
    backup_host,
    binaries,
    cgroups,
    cluster,
    control_plane,
    machines,
    network,
    network_policy,
    node_images,
    nodes,
    prerequisites,
    processes,
    upstream,
)
from darksite.errors import ClusterStartError, LeftoverError, NotUpError
from darksite.site import STATE_ROOT, Node, Site

Report = Callable[[str], None]
"""Takes one line about what happens now."""

SITE_PROGRAMS = (
    "pause",
    "kubernetes",
    "containerd",
    "runc",
    "etcd",
    "coredns",
    "local-path-provisioner",
    "kube-router",
    "registry",
    "cnpg-manager",
    "plugin-barman-cloud",
    "minio",
    "kubectl",
)
_OPERATOR_GRACE_SECONDS = 3.0


@dataclass(frozen=True)
class Status:
    """What runs of a site. `parts` are machines (n1), their daemons (n1-kubelet) and the parts of upstream."""

    site: str
    parts: Mapping[str, bool]
    nodes_ready: tuple[str, ...]
    kubeconfig: str
    registry: str
    network_policy: str

    @property
    def exists(self) -> bool:
        """Whether there is anything of the site."""
        return bool(self.parts)

    @property
    def up(self) -> bool:
        """Whether all of it runs."""
        return bool(self.nodes_ready) and bool(self.parts) and all(self.parts.values())


def up(site: Site, report: Report, *, enforce: bool | None = None) -> None:
    """Brings the site up, or what of it is missing. Returns when pods can be run. Raises `DarkSiteError`, OSError.

    `enforce` says whether its network enforces NetworkPolicies; None leaves that as it is (at first: as
    `$MXDARK_NETWORK_POLICY` says, else yes).
    """
    prerequisites.require()
    build(report)
    with _alone(site):
        if not _stands(site):
            if _remains(site):
                report("clearing away what an earlier start left")
                _clear(site)
            report("laying the network")
            network.create(site)
        network_policy.decide(site, enforce)
        # Upstream is outside: nothing of the site waits for it, and it takes the longest.
        with ThreadPoolExecutor(max_workers=1) as outside:
            world = outside.submit(upstream.start, site)
            _raise_cluster(site, report)
            report("waiting for upstream")
            world.result()


def build(report: Report, names: tuple[str, ...] = SITE_PROGRAMS) -> None:
    """Builds what is missing of `names`, and the preloaded images. Raises `subprocess.CalledProcessError`."""
    missing = [name for name in names if not binaries.is_built(name)]

    def one(name: str) -> None:
        started = time.monotonic()
        report(f"building {name}")
        binaries.ensure(name)
        report(f"built {name} in {time.monotonic() - started:.0f} s")

    # Two at a time: one links on a single core while the other compiles.
    with ThreadPoolExecutor(max_workers=2) as side_by_side:
        for result in [side_by_side.submit(one, name) for name in missing]:
            result.result()
    node_images.archive()


def status(site: Site) -> Status:
    """What runs now. Needs root where the site is up; raises OSError."""
    ledger = machines.ledger_of(site)
    parts = {name: process is not None for name, process in ledger.parts().items()}
    parts = {name: running for name, running in parts.items() if not name.endswith(machines.OUTER)}
    parts.update(upstream.status(site).running if parts else {})
    expected = {machine.name for machine in site.machines if machine != site.operator}
    standing = _stands(site)
    if parts:
        parts = {**dict.fromkeys(sorted(expected), False), **parts}
    return Status(
        site.name,
        parts,
        tuple(cluster.ready_nodes(site)) if standing else (),
        str(site.kubeconfig),
        site.registry,
        network_policy.told(site),
    )


def down(site: Site, report: Report) -> None:
    """Ends and removes everything of the site. Raises `LeftoverError` when something of it stays."""
    prerequisites.require_root()
    with _alone(site):
        if _remains(site):
            report(f"taking site {site.name} down")
        _clear(site)
        if left := leftovers(site):
            raise LeftoverError(site.name, left)


def shell(site: Site, command: list[str]) -> tuple[list[str], dict[str, str]]:
    """The command line and environment that run `command` on the operator's host. Raises `NotUpError`.

    It enters the network alone, so that the process keeps its number, its files and its signals.
    """
    # The operator's host is there also while other machines have lost their power.
    if not site.operator.namespace_path.exists() or not site.kubeconfig.exists():
        raise NotUpError(site.name)
    inside = command or [os.environ.get("SHELL", "/bin/bash")]
    enter = ["nsenter", f"--net={site.operator.namespace_path}", "--"]
    return [*enter, *inside], {**os.environ, **environment(site)}


def environment(site: Site) -> dict[str, str]:
    """The variables with which commands on the operator's host find the cluster, kubectl, helm and mxinstall.

    What the installer keeps on its host goes away with the site, unless `$MXINSTALL_STATE` says otherwise.
    """
    programs = f"{binaries.ensure('kubectl').parent}:{Path(sys.executable).parent}"
    return {
        "KUBECONFIG": str(site.kubeconfig),
        "MXDARK_SITE": site.name,
        "MXINSTALL_STATE": os.environ.get("MXINSTALL_STATE") or str(site.installer_state),
        "PATH": f"{programs}:{os.environ.get('PATH', os.defpath)}",
    }


def leftovers(site: Site) -> list[str]:
    """What there is of the site on this machine, in words; nothing after `down`."""
    found = [f"network namespace {name}" for name in sorted(network.of_site(site))]
    found += [f"cgroup {_cgroup(site)}"] if cgroups.exists(_cgroup(site)) else []
    found += [f"folder {site.state}"] if site.state.exists() else []
    found += [f"mount {place}" for place in _mounts_below(site.state)]
    return found


def _raise_cluster(site: Site, report: Report) -> None:
    report("starting the control plane")
    control_plane.write_certificates(site)
    for node in site.nodes:
        nodes.write_configuration(site, node)
    for machine in (site.control_plane, *site.nodes):
        machines.start(site, machine)
    control_plane.start_api(site)
    backup_host.start(site)
    report(f"starting {len(site.nodes)} nodes")
    for node in site.nodes:
        nodes.start_runtime(site, node)
    with ThreadPoolExecutor(max_workers=len(site.nodes)) as side_by_side:
        loaded = [side_by_side.submit(_prepare_node, site, node) for node in site.nodes]
        cluster.wait_for_api(site)
        report("the API server is ready")
        control_plane.start_controllers(site)
        cluster.apply_addons(site)
        for preparation in loaded:
            preparation.result()
    cluster.wait_for_nodes(site)
    for node in site.nodes:
        nodes.start_proxy(site, node)
        network_policy.settle(site, node)
    report(f"the nodes are ready; {network_policy.told(site)}")
    try:
        cluster.wait_for_addons(site, timeout_seconds=45)
    except ClusterStartError as reason:
        # A real machine starts a daemon again that ended; here somebody has to.
        report(f"once more: {reason}")
        _start_what_ended(site)
        cluster.wait_for_addons(site)
    report("DNS and storage are ready")


def _start_what_ended(site: Site) -> None:
    control_plane.start_api(site)
    cluster.wait_for_api(site)
    control_plane.start_controllers(site)
    for node in site.nodes:
        nodes.start_runtime(site, node)
        _prepare_node(site, node)
        nodes.start_proxy(site, node)
        network_policy.settle(site, node)


def _prepare_node(site: Site, node: Node) -> None:
    nodes.wait_for_runtime(site, node)
    # Images first: a kubelet that finds one missing asks again only ten seconds later.
    nodes.load_images(site, node)
    nodes.start_kubelet(site, node)


def _stands(site: Site) -> bool:
    """Whether every machine is there; they are started only when the network is complete."""
    ledger = machines.ledger_of(site)
    inside = (machine for machine in site.machines if machine != site.operator)
    return all(ledger.find(machine.name) is not None for machine in inside)


def _remains(site: Site) -> bool:
    return bool(leftovers(site))


def _clear(site: Site) -> None:
    upstream.stop(site)
    operator = site.operator.namespace_path
    ours = os.getpid()
    at_work = [each for each in processes.in_network_namespace(operator) if each.pid != ours]
    processes.end(at_work, grace_seconds=_OPERATOR_GRACE_SECONDS)
    ledger = machines.ledger_of(site)
    first = [ledger.find(machine.name) for machine in site.machines]
    # The first process of a machine takes everything in it along: containers, their shims, its mounts.
    processes.end([each for each in first if each is not None])
    for name in network.of_site(site):
        processes.end(each for each in processes.in_network_namespace(Path("/run/netns") / name) if each.pid != ours)
    strays = [processes.identify(pid) for pid in cgroups.members(_cgroup(site))]
    processes.end(each for each in strays if each is not None)
    network.remove(site)
    cgroups.remove(_cgroup(site))
    if not _mounts_below(site.state):
        shutil.rmtree(site.state, ignore_errors=True)
    with contextlib.suppress(OSError):
        STATE_ROOT.rmdir()


def _cgroup(site: Site) -> str:
    return f"mxdark/{site.name}"


def _mounts_below(folder: Path) -> list[str]:
    mounts = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [place for place in mounts if Path(place).is_relative_to(folder)]


@contextlib.contextmanager
def _alone(site: Site) -> Iterator[None]:
    """Keeps two commands from changing one site at a time; the file is gone when nobody holds it."""
    place = Path("/run/lock") / f"mxdark-{site.name}.lock"
    place.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = place.open("w")
        fcntl.flock(handle, fcntl.LOCK_EX)
        # Whoever held it before us may have removed the file we opened.
        with contextlib.suppress(FileNotFoundError):
            if place.stat().st_ino == os.fstat(handle.fileno()).st_ino:
                break
        handle.close()
    try:
        yield
    finally:
        place.unlink(missing_ok=True)
        handle.close()

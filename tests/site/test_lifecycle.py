"""A site may be stopped at any moment and started again, and leaves nothing when it goes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from darksite import cluster, lifecycle, machines, node_images, nodes, prerequisites, processes
from darksite.site import Site

SITE = Site("life")


@dataclass(frozen=True)
class Traces:
    """What a site could leave on the machine that it ran on, as text that can be compared."""

    rules: tuple[str, ...]
    links: tuple[str, ...]
    mounts: tuple[str, ...]


@pytest.fixture
def clean() -> Iterator[None]:
    """No site `life` before, none after."""
    lifecycle.down(SITE, print)
    yield
    lifecycle.down(SITE, print)


@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.4, 2.0, 5.0])
def test_down_leaves_nothing_of_a_start_that_was_killed(clean: None, seconds: float) -> None:
    before = _traces()
    _kill_up_after(seconds)
    assert lifecycle.leftovers(SITE), "the start did nothing in its time"
    down = _darksite("down")
    assert down.returncode == 0, down.stderr
    assert lifecycle.leftovers(SITE) == []
    assert _processes_of_the_site() == []
    assert _traces() == before


def test_a_start_that_was_killed_is_finished_by_the_next_and_repeating_it_changes_nothing(clean: None) -> None:
    _kill_up_after(2.5)
    again = _darksite("up")
    assert again.returncode == 0, again.stderr
    first = machines.ledger_of(SITE).parts()
    assert lifecycle.status(SITE).up
    assert _darksite("up").returncode == 0
    assert machines.ledger_of(SITE).parts() == first
    # Nothing of it hangs on the terminal or the session of the command that started it.
    sessions = {os.getsid(process.pid) for process in first.values() if process is not None}
    assert os.getsid(0) not in sessions
    interrupted = _start("down")
    time.sleep(0.3)
    interrupted.send_signal(signal.SIGKILL)
    interrupted.wait(timeout=10)
    assert _darksite("down").returncode == 0
    assert lifecycle.leftovers(SITE) == []
    assert _processes_of_the_site() == []


def test_a_daemon_that_died_is_started_by_up(site: Site) -> None:
    ledger = machines.ledger_of(site)
    died = ledger.find("cp-kube-scheduler")
    assert died is not None
    processes.end([died, *processes.children(died.pid)])
    assert not lifecycle.status(site).up
    lifecycle.up(site, print)
    replaced = ledger.find("cp-kube-scheduler")
    assert replaced not in (None, died)
    assert lifecycle.status(site).up


def test_status_says_by_its_exit_code_whether_the_site_is_up(site: Site) -> None:
    told = _darksite("status", "--json", site=site)
    assert told.returncode == 0, told.stdout
    found = json.loads(told.stdout)
    assert found["nodes_ready"] == [node.name for node in site.nodes]
    assert found["up"] is True
    assert _darksite("status", site=Site("nosuch")).returncode == 3


def test_shell_runs_on_the_operators_host_and_returns_the_commands_exit_code(site: Site) -> None:
    told = _darksite(
        "shell", "--", "sh", "-c", "ip -br -4 addr show eth0; kubectl get nodes -o name; exit 7", site=site
    )
    assert told.returncode == 7
    assert site.operator.address in told.stdout
    assert "node/n1" in told.stdout


def test_an_image_can_be_deleted_from_one_node(site: Site) -> None:
    node, other = site.nodes[:2]
    copy = "site.local/deleted-by-test:1"
    for each in (node, other):
        nodes.ctr(site, each, "images", "tag", "--force", node_images.SHELL, copy)
    nodes.ctr(site, node, "images", "rm", "--sync", copy)
    assert copy not in nodes.ctr(site, node, "images", "ls", "-q").stdout.split()
    assert copy in nodes.ctr(site, other, "images", "ls", "-q").stdout.split()
    nodes.ctr(site, other, "images", "rm", "--sync", copy)


@pytest.mark.parametrize("storage_class", ["fast", "bulk"])
def test_a_volume_of_each_storage_class_is_bound_and_written(site: Site, tmp_path: Path, storage_class: str) -> None:
    name = f"volume-{storage_class}"
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": "1Mi"}},
        },
    }
    writer = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}],
            "containers": [
                {
                    "name": "writer",
                    "image": node_images.SHELL,
                    "imagePullPolicy": "Never",
                    "command": ["sh", "-c", "echo kept > /data/file && cat /data/file"],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }
            ],
        },
    }
    target = tmp_path / "objects.json"
    target.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [claim, writer]}))
    try:
        cluster.kubectl(site, "apply", "--server-side", f"--filename={target}")
        finished = "--for=jsonpath={.status.phase}=Succeeded"
        waited = cluster.kubectl(site, "wait", finished, "--timeout=60s", f"pod/{name}", check=False)
        assert waited.returncode == 0, waited.stderr
        assert cluster.kubectl(site, "logs", name).stdout.strip() == "kept"
    finally:
        cluster.kubectl(site, "delete", f"--filename={target}", "--wait=false", "--ignore-not-found")


def _darksite(*arguments: str, site: Site = SITE) -> subprocess.CompletedProcess[str]:
    command, *rest = arguments
    return subprocess.run(
        [sys.executable, "-m", "darksite", command, f"--site={site.name}", *rest],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _start(command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "darksite", command, f"--site={SITE.name}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _kill_up_after(seconds: float) -> None:
    """Kills a start `seconds` after the first trace of it is there."""
    prerequisites.require()
    lifecycle.build(print)
    up = _start("up")
    deadline = time.monotonic() + 60
    while not lifecycle.leftovers(SITE) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(seconds)
    up.send_signal(signal.SIGKILL)
    up.wait(timeout=10)


def _traces() -> Traces:
    rules = _lines(["iptables-save"])
    links = _lines(["ip", "-br", "link"])
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return Traces(
        # Counters and dates change by themselves.
        tuple(line for line in rules if line.startswith("-")),
        tuple(sorted(line.split()[0] for line in links)),
        tuple(sorted(line.split()[4] for line in mounts if "mxd-life" in line or "mxdark/life" in line)),
    )


def _lines(command: list[str]) -> list[str]:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


def _processes_of_the_site() -> list[str]:
    """Command lines that name the site's folder, upstream's among them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if "/mxdark/life" in command:
                found.append(command)
    return found

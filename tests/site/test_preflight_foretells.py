"""Preflight on a real cluster with real faults: it names what is wrong, changes nothing, and the probes go away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from darksite.demo import ROOT, Places, operator_environment
from darksite.site import Site

pytestmark = pytest.mark.site
PLACES = Places(ROOT / "build")
INSIDE = [sys.executable, "-m", "darksite", "shell", "--"]
MXINSTALL = str(Path(sys.executable).with_name("mxinstall"))
Objects = Callable[[Sequence[str]], list[dict[str, Any]]]


def start(*command: str) -> subprocess.Popen[str]:
    """A command on the operator's host, in a process group of its own."""
    environment = {**os.environ, **operator_environment(Site.from_environment())}
    return subprocess.Popen(
        [*INSIDE, *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def preflight(site_file: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and verdict by check id."""
    bundle, signers = PLACES.stick / "site.tar.zst", PLACES.dark / "allowed_signers"
    fixed = ("--bundle", str(bundle), "--allowed-signers", str(signers), "--site", str(site_file))
    running = start(MXINSTALL, "--json", "preflight", *fixed, *options)
    out, err = running.communicate(timeout=400)
    lines = [json.loads(line) for line in out.splitlines()]
    (report,) = [line for line in lines if "findings" in line] or [None]
    assert report is not None, f"no report: {out[-1000:]} {err[-1000:]}"
    return running.returncode, {finding["id"]: finding for finding in report["findings"]}


@pytest.fixture
def site_file(demo: dict[str, Any], tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Writes the site.yaml of the installed system with some answers changed."""
    assert demo["passed"], demo["failure"]
    state = Path(operator_environment(Site.from_environment())["MXINSTALL_STATE"])
    (kept,) = state.glob("*/site.yaml")

    def write(spec: dict[str, Any]) -> Path:
        site = yaml.safe_load(kept.read_text())
        for field, value in spec.items():
            site["spec"][field] = {**site["spec"][field], **value} if isinstance(value, dict) else value
        path = tmp_path / "site.yaml"
        path.write_text(yaml.safe_dump(site))
        return path

    return write


@pytest.fixture
def listener() -> Iterator[str]:
    """Somebody else's service on the operator's host: its address."""
    program = (
        "import socket, sys, time; from urllib.parse import urlsplit;"
        "s = socket.socket(); s.bind((sys.argv[1], 0)); s.listen(); print(s.getsockname()[1], flush=True);"
        "time.sleep(600)"
    )
    host = str(Site.from_environment().operator.address)
    running = start(sys.executable, "-c", program, host)
    assert running.stdout is not None
    yield f"{host}:{running.stdout.readline().strip()}"
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()


def test_an_installed_site_passes_every_check_and_the_probes_go(
    site_file: Callable[[dict[str, Any]], Path], objects: Objects
) -> None:
    code, found = preflight(site_file({}), "--active")
    assert code == 0, {name: f["seen"] for name, f in found.items() if f["status"] != "pass"}
    assert {finding["status"] for finding in found.values()} == {"pass"}
    assert all(node in found["registry.pull"]["seen"] for node in ("n1", "n2"))
    assert gone(objects)


def test_a_passive_run_is_no_pass(site_file: Callable[[dict[str, Any]], Path]) -> None:
    code, found = preflight(site_file({}))
    assert code == 64
    assert {name for name, f in found.items() if f["status"] == "not-checked"} == {"storage.write", "registry.pull"}


def test_a_storage_class_that_does_not_exist_is_named(site_file: Callable[[dict[str, Any]], Path]) -> None:
    code, found = preflight(site_file({"storage": {"database": "golden"}}), "--active")
    assert code == 63
    assert found["storage.classes"]["status"] == "fail"
    assert "golden (spec.storage.database)" in found["storage.classes"]["seen"]
    assert "fast" in found["storage.classes"]["seen"]
    assert found["storage.write"]["status"] == "not-checked"


def test_a_cluster_that_is_too_small_for_the_profile_is_told(site_file: Callable[[dict[str, Any]], Path]) -> None:
    code, found = preflight(site_file({"profile": "20k"}))
    assert code == 60
    assert found["nodes.room"]["status"] == "fail"
    assert "free" in found["nodes.room"]["seen"]


def test_a_port_that_somebody_has_is_told_with_who(site_file: Callable[[dict[str, Any]], Path], listener: str) -> None:
    code, found = preflight(site_file({"registry": {"push": listener, "pull": listener}}))
    assert code == 53
    assert found["registry.address"]["status"] == "fail"
    assert "(pid " in found["registry.address"]["seen"]


def test_seeding_to_a_port_that_somebody_has_ends_in_one_error(
    site_file: Callable[[dict[str, Any]], Path], listener: str
) -> None:
    path = site_file({"registry": {"push": listener, "pull": listener}})
    other = path.with_name("other.yaml")
    other.write_text(path.read_text().replace("name: site-1", "name: elsewhere"))
    bundle, signers = PLACES.stick / "site.tar.zst", PLACES.dark / "allowed_signers"
    running = start(MXINSTALL, "seed", "--bundle", str(bundle), "--allowed-signers", str(signers), "--site", str(other))
    _, err = running.communicate(timeout=120)
    assert running.returncode == 53, err
    assert err.count("error[") == 1
    assert "error[registry-port-taken]" in err


def test_a_node_that_cannot_pull_is_named(site_file: Callable[[dict[str, Any]], Path], objects: Objects) -> None:
    """The registry is well, but not where site.yaml says that nodes find it."""
    push = yaml.safe_load(site_file({}).read_text())["spec"]["registry"]["push"]
    elsewhere = f"{push.rpartition(':')[0]}:5999"
    code, found = preflight(site_file({"registry": {"pull": elsewhere}}), "--active", "--only", "registry.pull")
    assert code == 52
    assert found["registry.pull"]["status"] == "fail"
    assert "n1: " in found["registry.pull"]["seen"]
    assert "n2: " in found["registry.pull"]["seen"]
    assert gone(objects)


def test_what_a_killed_run_left_is_cleared_by_the_next(
    site_file: Callable[[dict[str, Any]], Path], objects: Objects, operator: Callable[..., str]
) -> None:
    path = site_file({})
    bundle, signers = PLACES.stick / "site.tar.zst", PLACES.dark / "allowed_signers"
    fixed = ("--bundle", str(bundle), "--allowed-signers", str(signers), "--site", str(path))
    running = start(MXINSTALL, "preflight", "--active", *fixed)
    deadline = time.monotonic() + 60
    while not objects(["pods", "-n", "mx-preflight"]):
        assert time.monotonic() < deadline
        assert running.poll() is None, "it ended before it could be killed"
        time.sleep(0.1)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    left = [one["metadata"] for one in objects(["namespaces"]) if one["metadata"]["name"] == "mx-preflight"]
    assert left
    assert "deletionTimestamp" not in left[0]
    code, _ = preflight(path, "--active")
    assert code == 0
    assert gone(objects)


def gone(objects: Objects) -> bool:
    """Whether the probes' namespace goes away."""
    deadline = time.monotonic() + 60
    while any(one["metadata"]["name"] == "mx-preflight" for one in objects(["namespaces"])):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True

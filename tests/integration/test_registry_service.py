"""The carried registry as a service of this host: the real distribution, on loopback, without systemd."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import urllib3
from mxinstall.registry import ServicePlan, ensure, status, stop
from mxinstall.registry.configuration import unit

from darksite import binaries
from sitebundle.errors import PortTaken, RegistryServiceFailed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[ServicePlan]:
    plan = ServicePlan("test", tmp_path, binaries.ensure("registry"), f"127.0.0.1:{free_port()}")
    yield plan
    stop(plan)


def test_it_starts_answers_and_starting_again_changes_nothing(plan: ServicePlan) -> None:
    first = ensure(plan)
    assert first.running
    assert first.answers
    assert ensure(plan).start_id == first.start_id


def test_it_outlives_an_installer_that_is_killed(plan: ServicePlan) -> None:
    program = (
        "import os, signal; from pathlib import Path; from mxinstall.registry import ServicePlan, ensure;"
        f"ensure(ServicePlan('test', Path({str(plan.directory)!r}), Path({str(plan.binary)!r}), {plan.address!r}));"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], start_new_session=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    seen = status(plan)
    assert seen.running
    assert seen.answers
    assert seen.pid is not None
    assert os.getsid(seen.pid) != os.getsid(0)


def test_a_crashed_registry_comes_back_as_another_run(plan: ServicePlan) -> None:
    first = ensure(plan)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    assert eventually(lambda: status(plan).answers)
    second = status(plan)
    assert second.start_id != first.start_id
    assert second.restarts == 1


def test_a_killed_supervisor_leaves_no_registry_that_holds_the_port(plan: ServicePlan) -> None:
    import json

    ensure(plan)
    owner = json.loads((plan.directory / "supervisor.json").read_text())["supervisor"]["pid"]
    os.kill(owner, signal.SIGKILL)
    assert eventually(lambda: not status(plan).running)
    again = ensure(plan)
    assert again.answers


def test_stopping_frees_the_port_and_keeps_the_blobs(plan: ServicePlan) -> None:
    ensure(plan)
    (plan.store / "kept").write_text("kept")
    assert stop(plan)
    assert not status(plan).running
    assert not stop(plan)
    assert (plan.store / "kept").exists()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((plan.host, plan.port))


def test_a_port_taken_by_another_names_who_has_it(plan: ServicePlan) -> None:
    with socket.socket() as other:
        other.bind((plan.host, plan.port))
        other.listen()
        with pytest.raises(PortTaken) as caught:
            ensure(plan)
    assert f"(pid {os.getpid()})" in caught.value.message
    assert not status(plan).running


def test_a_wildcard_listener_is_in_the_way_too(plan: ServicePlan) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", plan.port))
        other.listen()
        with pytest.raises(PortTaken):
            ensure(plan)


def test_an_address_that_this_host_does_not_have_is_told(tmp_path: Path) -> None:
    plan = ServicePlan("test", tmp_path, binaries.ensure("registry"), f"192.0.2.7:{free_port()}")
    with pytest.raises(RegistryServiceFailed, match="cannot listen"):
        ensure(plan)


def test_another_address_restarts_it_there(plan: ServicePlan) -> None:
    first = ensure(plan)
    moved = ServicePlan(plan.site, plan.directory, plan.binary, f"127.0.0.1:{free_port()}")
    second = ensure(moved)
    assert second.answers
    assert second.start_id != first.start_id
    with pytest.raises(urllib3.exceptions.HTTPError):
        urllib3.request("GET", f"http://{plan.address}/v2/", timeout=1.0, retries=False)


def test_an_index_whose_children_are_absent_is_accepted(plan: ServicePlan) -> None:
    ensure(plan)
    index = (
        b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":'
        b'"application/vnd.oci.image.manifest.v1+json","size":2,"digest":"sha256:'
        b'44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}]}'
    )
    answer = urllib3.request(
        "PUT",
        f"http://{plan.address}/v2/mx/a/manifests/1",
        body=index,
        headers={"Content-Type": "application/vnd.oci.image.index.v1+json"},
        timeout=5.0,
        retries=False,
    )
    assert answer.status == 201


def test_two_starts_at_once_leave_one_registry(plan: ServicePlan) -> None:
    program = (
        "from pathlib import Path; from mxinstall.registry import ServicePlan, ensure;"
        f"ensure(ServicePlan('test', Path({str(plan.directory)!r}), Path({str(plan.binary)!r}), {plan.address!r}))"
    )
    ensure(plan)
    stop(plan)
    starters = [subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) for _ in range(2)]
    codes = [starter.wait(60) for starter in starters]
    assert 0 in codes
    seen = status(plan)
    assert seen.answers
    assert seen.restarts == 0


@pytest.mark.parametrize("folder", ["plain", "with space and %n"])
def test_systemd_takes_the_unit(tmp_path: Path, folder: str) -> None:
    """Where systemd runs the host, it keeps the registry instead of our supervisor."""
    binary = tmp_path / folder / "registry"
    binary.parent.mkdir()
    shutil.copy("/bin/true", binary)
    file = tmp_path / "mxinstall-registry-north-1.service"
    file.write_text(unit("north-1", binary, binary.with_name("config.yml")))
    judged = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", file], capture_output=True, text=True, check=False, timeout=60
    )
    assert (judged.returncode, judged.stderr) == (0, "")
    binary.unlink()
    missing = subprocess.run(["systemd-analyze", "verify", "--man=no", file], capture_output=True, check=False)
    assert missing.returncode != 0, "it did not look at the program that the unit names"

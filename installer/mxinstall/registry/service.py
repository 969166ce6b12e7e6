"""Start, look at and stop the carried registry: a systemd unit where there is systemd, else our own supervisor.

Starting what runs already with the same settings changes nothing. Nothing here is tied to the installer's life.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import urllib3

from mxinstall.registry import configuration
from mxinstall.registry.listeners import listener_at
from mxinstall.registry.systemd import Unit, is_in_charge
from mxinstall.site import Site, state_directory
from mxinstall.supervision import supervisor
from mxinstall.supervision.processes import Process, process
from sitebundle.atomic import write_durably
from sitebundle.digest import Digest
from sitebundle.errors import PortTaken, RegistryServiceFailed

DIRECTORY = "registry"
CONFIG = "config.yml"

_START_SECONDS = 60.0
_STOP_SECONDS = 15.0
_FORK_SECONDS = 30.0


@dataclass(frozen=True)
class ServicePlan:
    """What is to run: `binary` serves `address` (host:port) from `directory`/store."""

    site: str
    directory: Path
    binary: Path
    address: str

    @property
    def store(self) -> Path:
        """Where the registry keeps blobs."""
        return self.directory / "store"

    @property
    def log(self) -> Path:
        """What registry and supervisor said."""
        return self.directory / supervisor.LOG

    @property
    def config(self) -> Path:
        """The registry's configuration file."""
        return self.directory / CONFIG

    @property
    def host(self) -> str:
        """The address without its port."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port."""
        return int(self.address.rpartition(":")[2])


@dataclass(frozen=True)
class ServiceStatus:
    """What runs. `start_id` names this run of the registry: it changes at every restart; None when it does not run.

    `answers`: it was asked just now and answered as a registry does.
    """

    kind: Literal["systemd", "supervised"]
    address: str
    running: bool
    answers: bool
    pid: int | None = None
    start_id: str | None = None
    restarts: int = 0
    log: str = ""


def plan_for(site: Site) -> ServicePlan:
    """The service of `site` on this host; makes the state directory."""
    state = state_directory(site.name)
    directory = state / DIRECTORY
    directory.mkdir(mode=0o700, exist_ok=True)
    return ServicePlan(site.name, directory, state / "bin" / "registry", site.spec.registry.push)


def ensure(plan: ServicePlan) -> ServiceStatus:
    """Make the registry run as planned; unchanged when it does. Raises PortTaken and RegistryServiceFailed."""
    text = configuration.render(plan.address, plan.store, _secret(plan))
    wanted = {
        "command": [str(plan.binary), "serve", str(plan.config)],
        "environment": configuration.ENVIRONMENT,
        "config": Digest.of(text.encode()),
        "binary": Digest.of(plan.binary.read_bytes()),
    }
    seen = status(plan)
    if seen.running and _remembered(plan) == wanted:
        return seen if seen.answers else _await(plan)
    if seen.running:
        stop(plan)
    _check_address(plan)
    plan.store.mkdir(mode=0o700, exist_ok=True)
    _write(plan.config, text)
    _write(plan.directory / supervisor.COMMAND, json.dumps(wanted))
    if is_in_charge():
        _unit(plan).start(configuration.unit(plan.site, plan.binary, plan.config))
    else:
        subprocess.run(
            [sys.executable, "-m", "mxinstall.supervision.supervisor", str(plan.directory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=_FORK_SECONDS,
            start_new_session=True,
        )
    return _await(plan)


def status(plan: ServicePlan) -> ServiceStatus:
    """Look at the service, and ask the registry itself."""
    if _unit(plan).rules():
        return _status_of_unit(plan)
    record = _record(plan)
    owner = _process(record.get("supervisor"))
    child = _process(record.get("registry"))
    running = owner is not None
    return ServiceStatus(
        kind="supervised",
        address=plan.address,
        running=running,
        answers=child is not None and _answers(plan.address),
        pid=child.pid if child else None,
        start_id=child.identity if child else None,
        restarts=int(record.get("restarts", 0)) if running else 0,
        log=str(plan.log),
    )


def stop(plan: ServicePlan) -> bool:
    """Stop the service and wait for its end; False when it did not run. Blobs stay. Raises RegistryServiceFailed."""
    if _unit(plan).rules():
        running = _status_of_unit(plan).running
        _unit(plan).remove()
        return running
    owner = _process(_record(plan).get("supervisor"))
    if owner is None:
        return False
    for signal_number in (15, 9):
        os.kill(owner.pid, signal_number)
        deadline = time.monotonic() + _STOP_SECONDS
        while owner.alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        if not owner.alive():
            return True
    raise RegistryServiceFailed(address=plan.address, detail=f"pid {owner.pid} does not end", log=plan.log)


def _check_address(plan: ServicePlan) -> None:
    found = listener_at(plan.host, plan.port)
    if found is not None:
        raise PortTaken(address=plan.address, detail=str(found))
    family = socket.AF_INET6 if ":" in plan.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((plan.host, plan.port))
        except OSError as fault:
            detail = f"this host cannot listen there: {fault.strerror or fault}"
            raise RegistryServiceFailed(address=plan.address, detail=detail, log=plan.log) from fault


def _await(plan: ServicePlan) -> ServiceStatus:
    """Wait until our own registry answers: somebody else's answer on the port is none."""
    deadline = time.monotonic() + _START_SECONDS
    seen = status(plan)
    while not (seen.running and seen.answers):
        if time.monotonic() > deadline or seen.restarts > 5:
            found = listener_at(plan.host, plan.port)
            if found is not None and found.pid != seen.pid:
                raise PortTaken(address=plan.address, detail=str(found))
            detail = _last_words(plan) or "it did not answer"
            raise RegistryServiceFailed(address=plan.address, detail=detail, log=plan.log)
        time.sleep(0.1)
        seen = status(plan)
    return seen


def _answers(address: str) -> bool:
    try:
        answer = urllib3.request("GET", f"http://{address}/v2/", timeout=3.0, retries=False)
    except (urllib3.exceptions.HTTPError, OSError):
        return False
    return answer.status == 200 and answer.headers.get("Docker-Distribution-Api-Version") == "registry/2.0"


def _last_words(plan: ServicePlan) -> str:
    try:
        lines = plan.log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return lines[-1][:300] if lines else ""


def _secret(plan: ServicePlan) -> str:
    path = plan.directory / "secret"
    if not path.exists():
        _write(path, secrets.token_hex(32))
    return path.read_text()


def _write(path: Path, text: str) -> None:
    write_durably(path, text.encode(), 0o600)


def _remembered(plan: ServicePlan) -> dict[str, Any] | None:
    try:
        remembered: dict[str, Any] = json.loads((plan.directory / supervisor.COMMAND).read_text())
    except (OSError, ValueError):
        return None
    return remembered


def _record(plan: ServicePlan) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((plan.directory / supervisor.RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return record


def _process(entry: dict[str, Any] | None) -> Process | None:
    """The recorded process, if it still runs."""
    if not entry:
        return None
    known = Process(int(entry["pid"]), int(entry["start_ticks"]), str(entry["boot"]))
    return known if known.alive() else None


def _unit(plan: ServicePlan) -> Unit:
    return Unit(f"mxinstall-registry-{plan.site}.service", plan.address)


def _status_of_unit(plan: ServicePlan) -> ServiceStatus:
    facts = _unit(plan).facts()
    child = process(int(facts.get("MainPID") or 0)) if facts.get("MainPID", "0") != "0" else None
    return ServiceStatus(
        kind="systemd",
        address=plan.address,
        running=facts.get("ActiveState") in ("active", "activating"),
        answers=child is not None and _answers(plan.address),
        pid=child.pid if child else None,
        start_id=child.identity if child else None,
        restarts=int(facts.get("NRestarts") or 0),
        log=_unit(plan).log,
    )

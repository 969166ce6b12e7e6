"""The outside world of a dark site: a registry and a file host that answer for the real ones' names.

They listen on the loopback of the machine that runs the site, where nothing inside the site can reach them.
"""

import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from darksite import binaries, cache, cgroups, fileserver, images, wheels
from darksite.errors import DarkSiteError
from darksite.images.push import Registry
from darksite.processes import Ledger, end
from darksite.site import Site

HOSTS = ("docker.io", "ghcr.io", "quay.io", "registry.k8s.io")
"""Registries that upstream answers for; each is the first part of a repository's name in it."""

FILE_HOSTS = ("github.com", "files.pythonhosted.org")
"""Hosts of published files that upstream answers for."""

REGISTRY_PORT = 5055
FILES_PORT = 5056
_START_SECONDS = 20.0
_REGISTRY_PART = "upstream-registry"
_FILES_PART = "upstream-files"


class UpstreamNotStarted(DarkSiteError):
    """A part of upstream does not answer; the message names the part and its log."""


@dataclass(frozen=True)
class Addresses:
    """Where upstream listens, as host:port."""

    registry: str
    files: str


@dataclass(frozen=True)
class Status:
    """What there is: `addresses` None when upstream was never started; `missing` are references it should have."""

    addresses: Addresses | None
    running: Mapping[str, bool]
    images: Mapping[str, str]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Served:
    """One answer of upstream: `size_bytes` is what was written of the body."""

    method: str
    path: str
    status: int
    size_bytes: int


def start(site: Site) -> Addresses:
    """Starts what does not run, pushes what is not there, and writes `mirrors_file(site)`.

    Builds images that the cache lacks. Safe to repeat. Raises `UpstreamNotStarted`, and what a build raises.
    """
    ledger = _ledger(site)
    addresses = _addresses(site)
    if addresses is None or _taken_by_others(ledger, addresses):
        addresses = _choose_addresses(site)
    if ledger.find(_REGISTRY_PART) is None:
        _start_registry(site, ledger, addresses.registry)
    if ledger.find(_FILES_PART) is None:
        command = [sys.executable, "-m", "darksite.fileserver", str(_files(site)), addresses.files.split(":")[1]]
        _files(site).mkdir(parents=True, exist_ok=True)
        _start_part(site, ledger, _FILES_PART, command, {**os.environ})
    _await_answer(site, _REGISTRY_PART, addresses.registry, "/v2/")
    _await_answer(site, _FILES_PART, addresses.files, "/")
    _publish_files(site)
    with Registry(addresses.registry) as registry:
        for contract in images.all_contracts():
            built = images.build(contract)
            for reference in contract.references:
                registry.push(built.layout, reference)
    _write_mirrors(site, addresses)
    return addresses


def stop(site: Site) -> None:
    """Ends both parts. What the registry holds stays in the cache. Safe to repeat."""
    running = (_ledger(site).find(part) for part in (_REGISTRY_PART, _FILES_PART))
    end([process for process in running if process is not None], grace_seconds=2.0)


def status(site: Site) -> Status:
    """Whether both parts run and what each locked tag means there. Raises OSError when the registry breaks off."""
    addresses = _addresses(site)
    running = {part: _ledger(site).find(part) is not None for part in (_REGISTRY_PART, _FILES_PART)}
    references = [reference for contract in images.all_contracts() for reference in contract.references]
    found: dict[str, str] = {}
    if addresses is not None and running[_REGISTRY_PART]:
        with Registry(addresses.registry) as registry:
            digests = {reference: registry.digest_of(*reference.rsplit(":", 1)) for reference in references}
            found = {reference: digest for reference, digest in digests.items() if digest}
    return Status(addresses, running, found, tuple(name for name in references if name not in found))


def mirrors_file(site: Site) -> Path:
    """The bundler's mirror setting: upstream host → where it is answered for."""
    return site.state / "mirrors.toml"


def served(site: Site) -> list[Served]:
    """Everything that upstream has answered since its logs began, the registry's answers first."""
    answers = []
    for line in _json_lines(_log(site, _REGISTRY_PART)):
        if str(line.get("msg", "")).startswith("response completed"):
            answers.append(
                Served(
                    line["http.request.method"],
                    line["http.request.uri"],
                    int(line["http.response.status"]),
                    int(line["http.response.written"]),
                )
            )
    for line in _json_lines(_log(site, _FILES_PART)):
        answers.append(Served(line["method"], line["path"], line["status"], line["bytes"]))
    return answers


def served_blob_bytes(site: Site) -> dict[str, int]:
    """Digest → bytes of that blob that the registry has sent, repeats and ranges added up."""
    total: dict[str, int] = {}
    for answer in served(site):
        _, found, digest = answer.path.partition("/blobs/")
        if found and answer.method == "GET":
            total[digest] = total.get(digest, 0) + answer.size_bytes
    return total


def _start_registry(site: Site, ledger: Ledger, address: str) -> None:
    configuration = _folder(site) / "registry.json"
    configuration.parent.mkdir(parents=True, exist_ok=True)
    configuration.write_text(
        json.dumps(
            {
                "version": "0.1",
                "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": True}},
                "storage": {"filesystem": {"rootdirectory": str(cache.root() / "upstream-registry")}},
                "http": {"addr": address, "secret": "loopback-only"},
            }
        )
    )
    # Without this the registry looks for a collector of traces on port 4318.
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
    command = [str(binaries.ensure("registry")), "serve", str(configuration)]
    _start_part(site, ledger, _REGISTRY_PART, command, environment)


def _start_part(site: Site, ledger: Ledger, part: str, command: list[str], environment: Mapping[str, str]) -> None:
    # In a cgroup of the site, `down` finds it even when its start was cut short.
    cgroup = f"mxdark/{site.name}/upstream"
    cgroups.create(cgroup)
    ledger.start(part, command, _log(site, part), cgroups.joining(cgroup), environment)


def _await_answer(site: Site, part: str, address: str, path: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while _ledger(site).find(part) is not None and time.monotonic() < deadline:
        connection = http.client.HTTPConnection(address, timeout=2)
        try:
            connection.request("GET", path)
            connection.getresponse().read()
            return
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    raise UpstreamNotStarted(f"{part} does not answer at {address}: see {_log(site, part)}")


def published() -> dict[str, Path]:
    """Address → content of every file that upstream's file hosts publish. Builds what the cache lacks."""
    home = "https://github.com/cloudnative-pg"
    operator, plugin = binaries.cnpg_release_manifest(), binaries.barman_release_manifest()
    return {
        f"{home}/cloudnative-pg/releases/download/{binaries.CNPG_VERSION}/{operator.name}": operator,
        f"{home}/plugin-barman-cloud/releases/download/{binaries.BARMAN_VERSION}/{plugin.name}": plugin,
        **wheels.all_wheels(),
    }


def _publish_files(site: Site) -> None:
    for address, content in published().items():
        fileserver.publish(_files(site), address.removeprefix("https://"), content)


def _write_mirrors(site: Site, addresses: Addresses) -> None:
    mirrors = {
        "mirrors": {host: f"http://{addresses.registry}/{host}" for host in HOSTS},
        "files": {f"https://{host}": f"http://{addresses.files}/{host}" for host in FILE_HOSTS},
    }
    place = mirrors_file(site)
    growing = place.with_name(f".{place.name}")
    growing.write_text(tomli_w.dumps(mirrors))
    growing.replace(place)


def _addresses(site: Site) -> Addresses | None:
    """What an earlier start chose: the same ports again, for the mirrors file has them."""
    try:
        noted = json.loads((_folder(site) / "addresses.json").read_text())
    except FileNotFoundError:
        return None
    return Addresses(**noted)


def _taken_by_others(ledger: Ledger, addresses: Addresses) -> bool:
    """Whether another site has a port that this one let go of when it was stopped as a whole."""
    if any(ledger.find(part) for part in (_REGISTRY_PART, _FILES_PART)):
        return False
    ports = (int(address.rpartition(":")[2]) for address in (addresses.registry, addresses.files))
    return not all(map(_is_free, ports))


def _choose_addresses(site: Site) -> Addresses:
    """The usual ports where they are free; another site on this machine may have them."""
    chosen = Addresses(*(f"127.0.0.1:{_free_port(port)}" for port in (REGISTRY_PORT, FILES_PORT)))
    _folder(site).mkdir(parents=True, exist_ok=True)
    growing = _folder(site) / ".addresses.json"
    growing.write_text(json.dumps({"registry": chosen.registry, "files": chosen.files}))
    growing.replace(_folder(site) / "addresses.json")
    return chosen


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            if _bound(probe, port):
                return int(probe.getsockname()[1])
    raise UpstreamNotStarted("no port is free on the loopback")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return _bound(probe, port)


def _bound(probe: socket.socket, port: int) -> bool:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def _json_lines(log: Path) -> list[dict[str, Any]]:
    if not log.exists():
        return []
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]


def _ledger(site: Site) -> Ledger:
    return Ledger(_folder(site) / "processes")


def _folder(site: Site) -> Path:
    return site.state / "upstream"


def _files(site: Site) -> Path:
    return _folder(site) / "files"


def _log(site: Site, part: str) -> Path:
    return site.logs / f"{part}.log"

"""`mxinstall seed` and `mxinstall registry` as an operator runs them: the registry comes out of the bundle."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mxinstall.tools import host_platform
from seedable import site_at, two_images

from darksite import binaries
from sitebundle.archive.signing import sign_bundle
from sitebundle.digest import Digest
from sitebundle.manifest import Tool
from sitebundle.signature import fingerprint, generate_key

PROGRAM = Path(sys.executable).with_name("mxinstall")


class Host:
    """An operator's host: what it trusts, a site.yaml, a bundle that carries the registry's program."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.site = folder / "site.yaml"
        self.site.write_text(yaml.safe_dump(site_at(self.address).as_mapping()))
        program = binaries.ensure("registry").read_bytes()
        tool = Tool(
            name="registry",
            version="3.1.2",
            platform=host_platform(),
            member=f"tools/{host_platform().replace('/', '-')}/registry",
            digest=Digest.of(program),
        )
        self.bundle = two_images().write(folder / "site.tar.zst", tools=((tool, program),))
        generate_key(folder / "builder", "builder")
        sign_bundle(self.bundle, folder / "builder")
        public = folder / "builder.pub"
        self.run("trust", "add", "--fingerprint", fingerprint(public.read_text()), str(public))

    def run(self, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        """Exit code and JSON lines."""
        environment = {
            **os.environ,
            "MXINSTALL_STATE": str(self.folder / "state"),
            "MXINSTALL_ALLOWED_SIGNERS": str(self.folder / "allowed_signers"),
        }
        done = subprocess.run(
            [PROGRAM, "--json", *arguments], env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]

    def seed(self, *more: str) -> dict[str, Any]:
        """The report."""
        code, lines = self.run("seed", "--bundle", str(self.bundle), "--site", str(self.site), *more)
        assert code == 0, lines[-1]
        return lines[-1]

    def status(self) -> tuple[int, dict[str, Any]]:
        code, lines = self.run("registry", "status")
        return code, lines[-1]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.run("registry", "stop")


def test_the_carried_registry_is_started_filled_and_stays(host: Host) -> None:
    first = host.seed()
    assert first["moved_bytes"] > 0
    code, seen = host.status()
    assert code == 0
    assert seen["answers"]
    assert seen["address"] == host.address
    second = host.seed()
    assert second["quick"]
    assert (second["moved_bytes"], second["pushed_manifests"]) == (0, 0)
    assert not host.seed("--deep")["quick"]
    assert host.status()[1]["start_id"] == seen["start_id"]


def test_it_is_stopped_and_started_by_hand_with_what_it_holds(host: Host) -> None:
    host.seed()
    assert host.run("registry", "stop")[1][-1] == {"stopped": True}
    assert host.status()[0] == 1
    code, lines = host.run("registry", "start")
    assert code == 0
    assert lines[-1]["answers"]
    again = host.seed()
    assert not again["quick"]
    assert again["moved_bytes"] == 0
    assert again["present_bytes"] > 0


def test_a_program_that_somebody_changed_is_replaced_from_the_bundle(host: Host) -> None:
    host.seed()
    host.run("registry", "stop")
    (program,) = (host.folder / "state").glob("*/bin/registry")
    program.write_bytes(b"#!/bin/sh\nexit 1\n")
    host.seed()
    assert host.status()[0] == 0


def test_a_killed_seed_leaves_the_registry_running_for_the_next(host: Host) -> None:
    environment = {
        **os.environ,
        "MXINSTALL_STATE": str(host.folder / "state"),
        "MXINSTALL_ALLOWED_SIGNERS": str(host.folder / "allowed_signers"),
    }
    seeding = subprocess.Popen(
        [PROGRAM, "seed", "--bundle", str(host.bundle), "--site", str(host.site)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while host.status()[0] != 0:
        assert time.monotonic() < deadline
    os.killpg(seeding.pid, signal.SIGKILL)
    seeding.wait()
    code, seen = host.status()
    assert code == 0
    host.seed()
    assert host.status()[1]["start_id"] == seen["start_id"]

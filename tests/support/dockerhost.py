"""A Docker daemon of a test's own: real containerd and dockerd in a folder, no network, ended by process id.

A machine that has none gets Debian's; one that cannot run it fails the test.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker

PACKAGE = "docker.io"
_START_SECONDS = 60.0
_NOT_STARTED_BY_APT = "#!/bin/sh\nexit 101\n"


@dataclass(frozen=True)
class DockerHost:
    """Where the daemon answers."""

    url: str

    def inspect(self, reference: str) -> dict[str, Any]:
        """What the daemon says of an image."""
        client = docker.DockerClient(base_url=self.url)
        try:
            return dict(client.api.inspect_image(reference))
        finally:
            client.close()

    def build(self, reference: str, steps: Sequence[Mapping[str, bytes]], *instructions: str) -> None:
        """Build `reference` from nothing: a layer for each of `steps` (path -> content), then `instructions`."""
        context = io.BytesIO()
        lines = ["FROM scratch"]
        with tarfile.open(fileobj=context, mode="w") as archive:
            for number, files in enumerate(steps):
                for path, content in files.items():
                    _add(archive, f"{number}/{path}", content)
                lines.append(f"COPY {number}/ /")
            _add(archive, "Dockerfile", "\n".join([*lines, *instructions]).encode())
        context.seek(0)
        client = docker.DockerClient(base_url=self.url)
        try:
            client.images.build(fileobj=context, custom_context=True, tag=reference, rm=True)
        finally:
            client.close()


@contextmanager
def running_docker(folder: Path) -> Iterator[DockerHost]:
    """A daemon in `folder`, for as long as the block runs."""
    if os.geteuid() != 0:
        raise PermissionError("a Docker daemon is started by root alone")
    _install()
    folder.mkdir(parents=True, exist_ok=True)
    containerd, dockerd = folder / "containerd.sock", folder / "docker.sock"
    with ExitStack() as stack:
        command = ["containerd", "--address", containerd, "--root", folder / "containerd", "--state", folder / "state"]
        stack.enter_context(_process(command, folder / "containerd.log", containerd))
        command = ["dockerd", "--host", f"unix://{dockerd}", "--containerd", containerd]
        command += ["--data-root", folder / "docker", "--exec-root", folder / "exec", "--pidfile", folder / "pid"]
        command += ["--storage-driver", "vfs", "--bridge=none", "--iptables=false", "--ip-forward=false"]
        stack.enter_context(_process(command, folder / "dockerd.log", dockerd))
        yield DockerHost(f"unix://{dockerd}")


@contextmanager
def _process(command: Sequence[object], log: Path, socket: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen([str(word) for word in command], stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _install() -> None:
    if shutil.which("dockerd") and shutil.which("containerd"):
        return
    # Debian's package would start a daemon that changes the machine's firewall.
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text(_NOT_STARTED_BY_APT)
        policy.chmod(0o755)
    try:
        apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
        subprocess.run([*apt, "update"], check=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run([*apt, "install", "-y", "--no-install-recommends", PACKAGE], env=environment, check=True)
    finally:
        if ours:
            policy.unlink()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))

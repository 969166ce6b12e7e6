"""A Docker daemon of a test's own: real containerd and dockerd in a folder, no network, ended by process id.

The programs are Debian's, unpacked from their packages into the cache of built things and never installed: the machine
is left as it was. One that cannot run them fails the test.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker

from darksite import cache

PACKAGES = ("docker.io", "containerd", "runc", "libdevmapper1.02.1")
_START_SECONDS = 60.0


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
    programs = cache.built("docker", _unpack, [" ".join(PACKAGES)])
    folder.mkdir(parents=True, exist_ok=True)
    containerd, dockerd = folder / "containerd.sock", folder / "docker.sock"
    with ExitStack() as stack:
        command = ["containerd", "--address", containerd, "--root", folder / "containerd", "--state", folder / "state"]
        stack.enter_context(_process(command, folder / "containerd.log", containerd, programs))
        command = ["dockerd", "--host", f"unix://{dockerd}", "--containerd", containerd]
        command += ["--data-root", folder / "docker", "--exec-root", folder / "exec", "--pidfile", folder / "pid"]
        command += ["--storage-driver", "vfs", "--bridge=none", "--iptables=false", "--ip-forward=false"]
        stack.enter_context(_process(command, folder / "dockerd.log", dockerd, programs))
        yield DockerHost(f"unix://{dockerd}")


@contextmanager
def _process(command: Sequence[object], log: Path, socket: Path, programs: Path) -> Iterator[None]:
    # Theirs first, so that a Docker which the machine has is neither needed nor touched.
    paths = ":".join(str(programs / place) for place in ("usr/bin", "usr/sbin"))
    (libraries,) = {str(place.parent) for place in programs.glob("**/libdevmapper.so.1.02.1")}
    environment = {**os.environ, "PATH": f"{paths}:{os.environ['PATH']}", "LD_LIBRARY_PATH": libraries}
    with log.open("wb") as output:
        started = ["env", *(str(word) for word in command)]
        process = subprocess.Popen(started, stdout=output, stderr=output, env=environment)
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


def _unpack(target: Path) -> None:
    """Fill `target` with the packages' files. No script of theirs runs, and the package manager knows nothing of it."""
    with tempfile.TemporaryDirectory() as folder:
        # Another apt may be renewing the lists, and there is no option to wait for it: what fails shows in `download`.
        subprocess.run(["apt-get", "-q", "update"], check=False)
        subprocess.run(["apt-get", "-q", "download", *PACKAGES], cwd=folder, check=True)
        for package in Path(folder).glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", package, target], check=True)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))

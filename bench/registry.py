"""Real registries on loopback for the benchmark: one to build from, one fresh one per contender to seed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from darksite import binaries


@contextmanager
def running_registry(folder: Path) -> Iterator[str]:
    """A registry with its store in `folder`, as host:port, for the length of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    configuration = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "store")}},
        "http": {"addr": address, "secret": "loopback"},
        "validation": {"manifests": {"indexes": {"platforms": "none"}}},
    }
    (folder / "registry.json").write_text(json.dumps(configuration))
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
    with (folder / "registry.log").open("ab") as log:
        process = subprocess.Popen(
            [binaries.ensure("registry"), "serve", folder / "registry.json"], env=environment, stdout=log, stderr=log
        )
    try:
        _await(f"http://{address}/v2/")
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)


def _await(url: str) -> None:
    for _ in range(200):
        try:
            with urllib.request.urlopen(url, timeout=2):  # our own loopback address
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise TimeoutError(url)

"""`status` says what is away, soon, whatever is away."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mxinstall.cluster import Cluster
from mxinstall.kubeconfig import Access
from mxinstall.status import ANSWER_SECONDS, PATIENCE_SECONDS, read_status, status_text


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def take() -> None:
            try:
                while True:
                    taken.append(server.accept()[0])
            except OSError:
                return

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for one in taken:
            one.close()


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXINSTALL_STATE", str(tmp_path))


def test_a_server_that_is_not_there_is_told_at_once(unused_port: int) -> None:
    began = time.monotonic()
    address = f"http://127.0.0.1:{unused_port}"
    status = read_status(Cluster(Access(address), patience_seconds=PATIENCE_SECONDS, answer_seconds=ANSWER_SECONDS))
    assert time.monotonic() - began < PATIENCE_SECONDS + 2
    assert (status.healthy, status.as_json()["state"]) == (False, "unknown")
    assert f"AWAY: The API server {address} does not answer" in status_text(status)


def test_a_server_that_hangs_is_asked_once_and_not_for_every_part() -> None:
    with silent_server() as address:
        began = time.monotonic()
        status = read_status(Cluster(Access(address), patience_seconds=1.0, answer_seconds=1.0))
        assert time.monotonic() - began < 6
    assert "does not answer" in status.away[0]
    # This host keeps no site: that is told too, not raised.
    assert "this host keeps 0 sites" in status.away[1]


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

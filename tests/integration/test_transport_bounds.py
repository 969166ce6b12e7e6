"""No registry can keep an uploader busy for ever: what it forgets, swallows or leaves unanswered is bounded."""

from __future__ import annotations

import io
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from registries import Fault, FaultyProxy, running_registry

from sitebundle.digest import Digest
from sitebundle.errors import MxError, RegistryUnreachable
from sitebundle.events import silent
from sitebundle.oci import transport
from sitebundle.oci.client import Endpoint, Readable, Registry, RetryPolicy
from sitebundle.oci.limits import limit_of

QUICK = RetryPolicy(base_seconds=0.01, cap_seconds=0.05, retry_after_cap_seconds=0.1)
MB = 1_000_000


class Blob:
    """Bytes that no other test sends."""

    def __init__(self, name: str, size: int) -> None:
        self.data = random.Random(name).randbytes(size)
        self.digest = Digest.of(self.data)
        self.opened: list[int] = []

    @contextmanager
    def source(self, offset: int) -> Iterator[Readable]:
        self.opened.append(offset)
        yield io.BytesIO(self.data[offset:])


def client(url: str) -> Registry:
    return Registry(Endpoint.parse(url), None, silent, policy=QUICK)


def send(registry: Registry, blob: Blob) -> int:
    return registry.upload("a/b", blob.digest, len(blob.data), blob.source)


def permits_out(proxy: FaultyProxy) -> int:
    return limit_of(proxy.address).in_flight


def test_a_blob_whose_commit_always_fails_is_not_sent_for_ever(proxy: FaultyProxy) -> None:
    """Each new attempt moves all bytes again: they are no progress."""
    proxy.faults = [
        Fault("status", method="PUT", status=500, times=10_000),
        Fault("status", method="GET", path="/uploads/", status=404, times=10_000),
    ]
    blob = Blob("commit fails", 5 * MB)
    with pytest.raises(RegistryUnreachable, match="500"):
        send(client(proxy.url), blob)
    assert len(blob.opened) == QUICK.attempts
    assert permits_out(proxy) == 0


def test_a_registry_that_accepts_chunks_and_keeps_nothing_ends_in_one_error(proxy: FaultyProxy) -> None:
    proxy.faults = [Fault("status", method="PATCH", status=202, headers={"Range": "0-0"}, times=10_000)]
    blob = Blob("swallowed", 5 * MB)
    with pytest.raises(RegistryUnreachable, match="says that it has 0"):
        send(client(proxy.url), blob)
    assert len(blob.opened) == QUICK.attempts


def test_a_registry_that_hangs_is_given_up_after_one_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts connections and never answers: asking how far it came must not multiply the waiting."""
    monkeypatch.setattr(transport, "READ_SECONDS", 0.3)
    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connections.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(RegistryUnreachable, match="nothing came in time"):
            send(client(f"http://127.0.0.1:{server.getsockname()[1]}"), Blob("hangs", 5 * MB))
        took = time.monotonic() - began
        server.shutdown(socket.SHUT_RDWR)
    for connection in connections:
        connection.close()
    assert took < QUICK.attempts * 0.5 + 1, "waits were nested in waits"
    assert len(connections) <= QUICK.attempts


def test_a_registry_that_stops_reading_in_the_middle_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "SEND_SECONDS", 0.3)
    monkeypatch.setattr(transport, "READ_SECONDS", 0.3)
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def serve() -> None:
            """Opens an upload for whoever asks; takes nothing of what is sent to it."""
            while True:
                try:
                    connection = server.accept()[0]
                except OSError:
                    return
                held.append(connection)
                if connection.recv(65536).startswith(b"POST"):
                    place = f"http://127.0.0.1:{port}/v2/a/b/blobs/uploads/1"
                    connection.sendall(
                        f"HTTP/1.1 202 Accepted\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode()
                    )

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(RegistryUnreachable):
            send(client(f"http://127.0.0.1:{port}"), Blob("stops reading", 40 * MB))
        server.shutdown(socket.SHUT_RDWR)
    for connection in held:
        connection.close()


def test_an_upload_goes_on_where_a_killed_process_left_it(proxy: FaultyProxy) -> None:
    blob = Blob("killed", 11 * MB)
    proxy.faults = [Fault("cut-request", method="PATCH", after=6 * MB, times=1)]
    known: list[str] = []
    dying = Registry(Endpoint.parse(proxy.url), None, silent, policy=RetryPolicy(attempts=1))
    with pytest.raises(RegistryUnreachable):
        dying.upload("a/b", blob.digest, len(blob.data), blob.source, opened=known.append)
    assert len(known) == 1
    steps: list[int] = []
    sent = client(proxy.url).upload(
        "a/b", blob.digest, len(blob.data), blob.source, steps.append, session=known[-1], opened=known.append
    )
    assert blob.opened[0] == 0
    assert blob.opened[1] > MB
    assert sent == len(blob.data) - blob.opened[1]
    assert sum(steps) == len(blob.data)
    assert client(proxy.url).read_blob("a/b", blob.digest, 1 << 30) == blob.data


@pytest.mark.parametrize("session", ["gone", "another registry's"])
def test_an_upload_that_the_registry_does_not_know_any_more_begins_anew(proxy: FaultyProxy, session: str) -> None:
    blob = Blob(session, 5 * MB)
    place = f"{proxy.url}/v2/a/b/blobs/uploads/7d6e1a2c-0000-4000-8000-000000000000?_state=forged"
    sent = client(proxy.url).upload("a/b", blob.digest, len(blob.data), blob.source, session=place)
    assert (sent, blob.opened) == (len(blob.data), [0])


def test_a_resumed_upload_with_foreign_bytes_in_it_is_sent_anew(proxy: FaultyProxy) -> None:
    """Two writers at one upload, as when the registry still drains a dead client's connection."""
    blob, other = Blob("mixed", 9 * MB), Blob("foreign", 9 * MB)
    known: list[str] = []
    proxy.faults = [Fault("cut-request", method="PATCH", after=6 * MB, times=1)]
    dying = Registry(Endpoint.parse(proxy.url), None, silent, policy=RetryPolicy(attempts=1))
    with pytest.raises(RegistryUnreachable):
        dying.upload("a/b", other.digest, len(other.data), other.source, opened=known.append)
    client(proxy.url).upload("a/b", blob.digest, len(blob.data), blob.source, session=known[-1])
    assert client(proxy.url).read_blob("a/b", blob.digest, 1 << 30) == blob.data
    assert len(blob.opened) == 2
    assert blob.opened[1] == 0


def test_many_threads_through_a_bad_line_bring_everything_and_give_every_permit_back(proxy: FaultyProxy) -> None:
    """Drops, lost answers, push-back and failures at random, twelve threads, forty blobs."""
    dice = random.Random(7)
    kinds = [
        lambda: Fault("cut-request", method="PATCH", after=dice.randrange(5 * MB)),
        lambda: Fault("cut-request", method="PUT", after=dice.randrange(MB)),
        lambda: Fault("lose-answer", method=dice.choice(("POST", "PATCH", "PUT", "HEAD"))),
        lambda: Fault("status", method=dice.choice(("POST", "PATCH", "PUT", "HEAD")), status=429),
        lambda: Fault("status", method=dice.choice(("POST", "PATCH", "PUT")), status=503, headers={"Retry-After": "1"}),
        lambda: Fault("status", method=dice.choice(("PATCH", "PUT")), status=dice.choice((404, 500))),
        lambda: Fault("cut-answer", method="GET", path="/uploads/"),
    ]
    proxy.faults = [dice.choice(kinds)() for _ in range(60)]
    patient = RetryPolicy(attempts=20, base_seconds=0.01, cap_seconds=0.05, retry_after_cap_seconds=0.1)
    registry = Registry(Endpoint.parse(proxy.url), None, silent, policy=patient)
    blobs = [Blob(f"storm {n}", dice.choice((300_000, 2 * MB, 5 * MB))) for n in range(40)]
    began = time.monotonic()
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda blob: send(registry, blob), blobs))
    assert time.monotonic() - began < 60
    assert permits_out(proxy) == 0
    assert sum(fault.times for fault in proxy.faults) < 20, "the line was not bad enough to prove anything"
    for blob in blobs:
        assert registry.blob_size("a/b", blob.digest) == len(blob.data)


def test_many_threads_against_a_registry_that_dies_all_end(tmp_path: Path) -> None:
    """The registry is killed while twelve threads send to it: every one ends in an error of its own."""
    with running_registry(tmp_path / "dying") as address:
        proxy = FaultyProxy(address)
        registry = client(proxy.url)
        blobs = [Blob(f"dying {n}", 5 * MB) for n in range(24)]
        with ThreadPoolExecutor(12) as pool:
            sending = [pool.submit(send, registry, blob) for blob in blobs]
            while not any(future.done() for future in sending):
                time.sleep(0.01)
            proxy.upstream = "127.0.0.1:1"
            faults = [future.exception(timeout=60) for future in sending]
        assert any(faults), "all was sent before it died"
        assert all(fault is None or isinstance(fault, MxError) for fault in faults)
        assert permits_out(proxy) == 0
        proxy.close()

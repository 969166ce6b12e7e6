"""What an uploader meets: the registry's own offset decides where sending goes on, and no byte is taken on trust."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from registries import Fault, FaultyProxy, TokenAuth

from sitebundle.digest import Digest
from sitebundle.errors import BundleDamaged, RegistryRefused, RegistryUnreachable
from sitebundle.events import silent
from sitebundle.oci import upload as oci
from sitebundle.oci.client import Credentials, Endpoint, Readable, Registry, RetryPolicy

QUICK = RetryPolicy(base_seconds=0.01, cap_seconds=0.05)


@pytest.fixture
def blob(request: pytest.FixtureRequest) -> bytes:
    """Eleven megabytes that no other test sends."""
    return random.Random(request.node.name).randbytes(11_000_000)


class Upload:
    """One upload of `data`, with what was asked of its source and told to its progress."""

    def __init__(self, proxy: FaultyProxy, data: bytes, credentials: Credentials | None = None) -> None:
        self.registry = Registry(Endpoint.parse(proxy.url), credentials, silent, policy=QUICK)
        self.data = data
        self.digest = Digest.of(data)
        self.steps: list[int] = []
        self.opened: list[int] = []

    @contextmanager
    def source(self, offset: int) -> Iterator[Readable]:
        self.opened.append(offset)
        yield io.BytesIO(self.data[offset:])

    def run(self) -> int:
        return self.registry.upload("a/b", self.digest, len(self.data), self.source, self.steps.append)

    def arrived(self) -> bool:
        return self.registry.read_blob("a/b", self.digest, 1 << 30) == self.data


def test_a_blob_is_sent_once_and_arrives(proxy: FaultyProxy, blob: bytes) -> None:
    upload = Upload(proxy, blob)
    assert upload.run() == len(blob)
    assert upload.arrived()
    assert sum(upload.steps) == len(blob)
    assert upload.opened == [0]


@pytest.mark.parametrize("size", [0, 1, 1000, oci.WHOLE_BYTES, oci.WHOLE_BYTES + 1])
def test_any_size_arrives(proxy: FaultyProxy, blob: bytes, size: int) -> None:
    upload = Upload(proxy, blob[:size])
    assert upload.run() == size
    assert upload.arrived()
    assert len(proxy.requests("PATCH")) == (1 if size > oci.WHOLE_BYTES else 0)


def test_large_blobs_go_in_chunks(proxy: FaultyProxy, blob: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci, "CHUNK_BYTES", 4_000_000)
    upload = Upload(proxy, blob)
    assert upload.run() == len(blob)
    assert upload.arrived()
    ranges = [seen.headers["Content-Range"] for seen in proxy.requests("PATCH")]
    assert ranges == ["0-3999999", "4000000-7999999", "8000000-10999999"]


def test_an_upload_cut_in_the_middle_goes_on_from_the_registrys_own_offset(proxy: FaultyProxy, blob: bytes) -> None:
    proxy.faults = [Fault("cut-request", method="PATCH", after=6_000_000)]
    upload = Upload(proxy, blob)
    sent = upload.run()
    assert upload.arrived()
    assert upload.opened[0] == 0
    assert 0 < upload.opened[1] <= 6_000_000, "the registry kept nothing, or it was not asked"
    # What the sockets on the way held when the line was cut may be sent twice, no more.
    assert len(blob) <= sent < len(blob) + 6_000_000
    assert len(proxy.requests("GET", "/uploads/")) == 1
    assert sum(upload.steps) == len(blob)
    assert min(upload.steps) > 0


def test_a_chunk_whose_answer_was_lost_is_not_sent_again(proxy: FaultyProxy, blob: bytes) -> None:
    proxy.faults = [Fault("lose-answer", method="PATCH")]
    upload = Upload(proxy, blob)
    assert upload.run() == len(blob)
    assert upload.arrived()


def test_a_commit_whose_answer_was_lost_counts(proxy: FaultyProxy, blob: bytes) -> None:
    proxy.faults = [Fault("lose-answer", method="PUT", path="digest=")]
    upload = Upload(proxy, blob)
    assert upload.run() == len(blob)
    assert upload.arrived()
    assert len(proxy.requests("PUT", "digest=")) == 1


def test_a_registry_that_forgot_the_upload_gets_it_anew(proxy: FaultyProxy, blob: bytes) -> None:
    proxy.faults = [
        Fault("cut-request", method="PATCH", after=6_000_000),
        Fault("status", method="GET", path="/uploads/", status=404),
    ]
    upload = Upload(proxy, blob)
    assert upload.run() > len(blob)
    assert upload.arrived()
    assert upload.opened == [0, 0]
    assert sum(upload.steps) == len(blob), "progress counted bytes twice"


@pytest.mark.parametrize("status", [429, 502, 503])
def test_a_registry_that_pushes_back_gets_the_blob_later(proxy: FaultyProxy, blob: bytes, status: int) -> None:
    proxy.faults = [
        Fault("status", method="POST", status=status),
        Fault("status", method="PATCH", status=status, headers={"Retry-After": "0"}),
        Fault("status", method="PUT", status=status),
    ]
    upload = Upload(proxy, blob)
    upload.run()
    assert upload.arrived()


def test_a_registry_that_never_takes_it_ends_in_one_error(proxy: FaultyProxy, blob: bytes) -> None:
    proxy.faults = [Fault("status", method="PATCH", status=500, times=1000)]
    with pytest.raises(RegistryUnreachable, match="500"):
        Upload(proxy, blob).run()
    assert len(proxy.requests("PATCH")) == QUICK.attempts


def test_bytes_that_do_not_have_the_digest_are_refused_by_the_registry(proxy: FaultyProxy, blob: bytes) -> None:
    upload = Upload(proxy, blob)
    upload.digest = Digest.of(b"something else")
    with pytest.raises(RegistryRefused, match="DIGEST_INVALID"):
        upload.run()
    assert upload.registry.blob_size("a/b", upload.digest) is None


@pytest.mark.parametrize("fault", [BundleDamaged(path="x", where="frame 3", detail="checksum"), OSError(5, "EIO")])
def test_what_the_source_raises_comes_out_as_it_is(proxy: FaultyProxy, blob: bytes, fault: Exception) -> None:
    opened: list[int] = []

    class Damaged(Upload):
        @contextmanager
        def source(self, offset: int) -> Iterator[Readable]:
            opened.append(offset)

            class Stream:
                def readinto(self, buffer: memoryview) -> int:
                    raise fault

            yield Stream()

    upload = Damaged(proxy, blob)
    with pytest.raises(type(fault)) as caught:
        upload.run()
    assert caught.value is fault
    # Counted at the source: of a request that breaks off at once, the proxy may not have seen anything yet.
    assert opened == [0], "a broken source was tried again as if it were the network"


def test_a_source_that_ends_early_is_never_completed(proxy: FaultyProxy, blob: bytes) -> None:
    upload = Upload(proxy, blob)
    upload.data = blob[:-1]

    def run() -> int:
        return upload.registry.upload("a/b", upload.digest, len(blob), upload.source)

    with pytest.raises(EOFError):
        run()
    assert upload.registry.blob_size("a/b", upload.digest) is None


def test_a_mount_moves_no_byte_and_is_false_when_there_is_nothing_to_mount(proxy: FaultyProxy, blob: bytes) -> None:
    upload = Upload(proxy, blob)
    upload.run()
    before = len(proxy.requests("PATCH"))
    assert upload.registry.mount("c/d", upload.digest, "a/b")
    assert upload.registry.blob_size("c/d", upload.digest) == len(blob)
    assert not upload.registry.mount("c/d", Digest.of(b"nowhere"), "a/b")
    assert len(proxy.requests("PATCH")) == before


def test_a_token_that_ends_between_two_chunks_is_renewed(
    store: str, blob: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oci, "CHUNK_BYTES", 4_000_000)
    auth = TokenAuth()
    faulty = FaultyProxy(store, auth)
    try:
        upload = Upload(faulty, blob, Credentials("robot", "secret"))

        def end_tokens(step: int) -> None:
            upload.steps.append(step)
            auth.revoke()

        upload.registry.upload("a/b", upload.digest, len(blob), upload.source, end_tokens)
        assert upload.arrived()
        assert {seen.status for seen in faulty.requests("PATCH")} == {202, 401}
    finally:
        faulty.close()

"""What a reader of a registry meets when the network is not kind; a real registry, faults by a proxy before it."""

from __future__ import annotations

import io
import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from registries import Fault, FaultyProxy, TokenAuth, running_registry

from sitebundle.digest import Digest
from sitebundle.errors import BlobCorrupt, RegistryRefused, RegistryUnreachable
from sitebundle.events import Event, Retried
from sitebundle.oci import limits
from sitebundle.oci.client import Credentials, Endpoint, Readable, Registry, RetryPolicy
from sitebundle.oci.descriptor import OCI_INDEX, OCI_MANIFEST

QUICK = RetryPolicy(base_seconds=0.01, cap_seconds=0.05)
BLOB = random.Random(1).randbytes(3_000_000)
DIGEST = Digest.of(BLOB)
CONFIG = b'{"architecture":"amd64","os":"linux","config":{}}'
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest.of(CONFIG),
            "size": len(CONFIG),
        },
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": DIGEST, "size": len(BLOB)}],
    }
).encode()


@contextmanager
def opened(data: bytes, offset: int) -> Iterator[Readable]:
    yield io.BytesIO(data[offset:])


def push(registry: Registry, repository: str) -> None:
    registry.upload(repository, DIGEST, len(BLOB), lambda offset: opened(BLOB, offset))
    registry.upload(repository, Digest.of(CONFIG), len(CONFIG), lambda offset: opened(CONFIG, offset))
    registry.put_manifest(repository, "1", MANIFEST, OCI_MANIFEST)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_registry(tmp_path_factory.mktemp("registry")) as address:
        push(Registry(Endpoint.parse(f"http://{address}")), "a/b")
        push(Registry(Endpoint.parse(f"http://{address}")), "ghcr.io/a/b")
        yield address


@pytest.fixture
def proxy(upstream: str) -> Iterator[FaultyProxy]:
    faulty = FaultyProxy(upstream)
    yield faulty
    faulty.close()


def client(proxy: FaultyProxy, policy: RetryPolicy = QUICK, sink: list[Event] | None = None) -> Registry:
    return Registry(Endpoint.parse(proxy.url), sink=[].append if sink is None else sink.append, policy=policy)


def whole(registry: Registry, offset: int = 0) -> tuple[int, bytes]:
    content = bytearray()
    buffer = memoryview(bytearray(100_000))
    with registry.blob("a/b", DIGEST, offset) as stream:
        while count := stream.readinto(buffer):
            content += buffer[:count]
        return stream.offset, bytes(content)


def test_a_tag_resolves_by_head_alone_to_what_it_names(proxy: FaultyProxy) -> None:
    found = client(proxy).resolve("a/b", "1")
    assert found is not None
    assert (found.media_type, found.digest, found.size) == (OCI_MANIFEST, Digest.of(MANIFEST), len(MANIFEST))
    assert len(proxy.requests("HEAD")) == 1
    assert proxy.requests("GET") == []


def test_a_registry_whose_head_says_too_little_is_asked_by_get(proxy: FaultyProxy) -> None:
    proxy.faults = [Fault("status", method="HEAD", status=200)]
    found = client(proxy).resolve("a/b", "1")
    assert found is not None
    assert found.digest == Digest.of(MANIFEST)


def test_a_name_that_does_not_exist_resolves_to_none(proxy: FaultyProxy) -> None:
    assert client(proxy).resolve("a/b", "2") is None
    assert client(proxy).resolve("no/such", "1") is None
    assert client(proxy).blob_size("a/b", Digest.of(b"?")) is None


def test_a_mirror_with_a_path_answers_for_its_host(upstream: str) -> None:
    registry = Registry(Endpoint.parse(f"http://{upstream}/ghcr.io"), policy=QUICK)
    assert registry.manifest("a/b", "1")[1] == MANIFEST
    assert registry.blob_size("a/b", DIGEST) == len(BLOB)


def test_a_body_cut_in_the_middle_goes_on_where_it_broke(proxy: FaultyProxy) -> None:
    events: list[Event] = []
    proxy.faults = [Fault("cut-answer", path="/blobs/", after=1_000_000), Fault("cut-answer", path="/blobs/", after=7)]
    offset, content = whole(client(proxy, sink=events))
    assert (offset, content) == (0, BLOB)
    asked = [seen.headers.get("Range") for seen in proxy.requests("GET", "/blobs/")]
    assert asked[0] is None
    assert len(asked) == 3
    assert all(text is not None and text.startswith("bytes=") for text in asked[1:])
    assert sum(seen.sent for seen in proxy.requests("GET")) <= len(BLOB) + 2 * 100_000, (
        "what had arrived was sent again"
    )
    assert len([event for event in events if isinstance(event, Retried)]) == 2


def test_a_body_cut_in_the_middle_is_whole_even_when_the_registry_ignores_ranges(proxy: FaultyProxy) -> None:
    proxy.faults = [
        Fault("cut-answer", path="/blobs/", after=1_000_000),
        Fault("ignore-range", path="/blobs/"),
    ]
    assert whole(client(proxy)) == (0, BLOB)


def test_reading_from_an_offset_fetches_the_rest_only(proxy: FaultyProxy) -> None:
    assert whole(client(proxy), 2_999_000) == (2_999_000, BLOB[2_999_000:])
    assert sum(seen.sent for seen in proxy.requests("GET")) == 1000


def test_reading_from_the_very_end_is_empty(proxy: FaultyProxy) -> None:
    assert whole(client(proxy), len(BLOB)) == (len(BLOB), b"")


def test_the_stream_says_when_a_registry_ignored_the_offset(proxy: FaultyProxy) -> None:
    proxy.faults = [Fault("ignore-range", path="/blobs/")]
    assert whole(client(proxy), 2_999_000) == (0, BLOB)


def test_a_range_of_another_place_is_never_taken(proxy: FaultyProxy) -> None:
    proxy.faults = [Fault("wrong-range", path="/blobs/")]
    with pytest.raises(RegistryRefused) as caught:
        whole(client(proxy), 1000)
    assert caught.value.fields["status"] == 206


def test_a_connection_that_always_breaks_ends_in_one_error_after_bounded_attempts(proxy: FaultyProxy) -> None:
    proxy.faults = [Fault("cut-answer", path="/blobs/", after=1000, times=1000)]
    with pytest.raises(RegistryUnreachable, match="6 attempts: blob sha256:"):
        whole(client(proxy))
    assert len(proxy.requests("GET", "/blobs/")) == 6


def test_503_passes_and_a_lasting_503_is_unreachable(proxy: FaultyProxy) -> None:
    proxy.faults = [Fault("status", method="GET", path="/manifests/", status=503, times=2)]
    assert client(proxy).manifest("a/b", "1")[1] == MANIFEST
    proxy.faults = [Fault("status", method="GET", path="/manifests/", status=503, times=100)]
    with pytest.raises(RegistryUnreachable, match="503"):
        client(proxy).manifest("a/b", "1")


def test_retry_after_is_obeyed_before_the_backoff_and_capped(proxy: FaultyProxy) -> None:
    waits: list[float] = []
    policy = RetryPolicy(base_seconds=0.01, retry_after_cap_seconds=0.3, sleep=waits.append)
    proxy.faults = [
        Fault("status", path="/manifests/", status=429, headers={"Retry-After": "0"}),
        Fault("status", path="/manifests/", status=429, headers={"Retry-After": "86400"}),
        Fault("status", path="/manifests/", status=429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    ]
    assert client(proxy, policy).manifest("a/b", "1")[1] == MANIFEST
    assert waits == [0.0, 0.3, 0.0]


def test_a_host_that_pushes_back_gets_half_as_many_requests_and_recovers(proxy: FaultyProxy) -> None:
    limit = limits.limit_of(proxy.address)
    before = limit.limit
    proxy.faults = [Fault("status", path="/manifests/", status=429)]
    registry = client(proxy)
    registry.manifest("a/b", "1")
    assert limit.limit == before // 2
    for _ in range(40):
        registry.manifest("a/b", "1")
    assert limit.limit > before // 2


def test_no_more_requests_are_under_way_than_the_limit_and_every_permit_comes_back(proxy: FaultyProxy) -> None:
    registry = client(proxy)
    proxy.faults = [Fault("cut-answer", path="/blobs/", after=500_000, times=5)]
    failed: list[BaseException] = []

    def read() -> None:
        try:
            assert whole(registry)[1] == BLOB
        except BaseException as fault:
            failed.append(fault)

    threads = [threading.Thread(target=read) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert limits.limit_of(proxy.address)._in_flight == 0


def test_a_stream_left_half_read_gives_its_permit_back(proxy: FaultyProxy) -> None:
    registry = client(proxy)
    for _ in range(limits.CEILING + 1):
        with registry.blob("a/b", DIGEST) as stream:
            stream.read(10)
    assert limits.limit_of(proxy.address)._in_flight == 0


def test_wrong_bytes_for_a_digest_or_a_tag_are_refused(proxy: FaultyProxy) -> None:
    proxy.faults = [Fault("corrupt", path="/manifests/", times=2), Fault("corrupt", path="/blobs/")]
    with pytest.raises(BlobCorrupt):
        client(proxy).manifest("a/b", Digest.of(MANIFEST))
    with pytest.raises(BlobCorrupt):
        client(proxy).manifest("a/b", "1")
    with pytest.raises(BlobCorrupt):
        client(proxy).read_blob("a/b", Digest.of(CONFIG))
    assert client(proxy).read_blob("a/b", Digest.of(CONFIG)) == CONFIG


def test_nothing_listening_is_unreachable_and_says_why() -> None:
    with pytest.raises(RegistryUnreachable, match="connection refused"):
        Registry(Endpoint.parse("http://127.0.0.1:9"), policy=QUICK).ping()


def test_a_name_without_an_address_is_unreachable() -> None:
    with pytest.raises(RegistryUnreachable, match="cannot be resolved"):
        Registry(Endpoint.parse("http://registry.invalid"), policy=QUICK).ping()


def test_what_speaks_no_tls_is_unreachable_at_once(proxy: FaultyProxy) -> None:
    waits: list[float] = []
    with pytest.raises(RegistryUnreachable, match="TLS"):
        Registry(Endpoint.parse(proxy.address), policy=RetryPolicy(sleep=waits.append)).resolve("a/b", "1")
    assert waits == []


def test_a_refusal_carries_the_registrys_own_words(proxy: FaultyProxy) -> None:
    body = b'{"errors":[{"code":"DENIED","message":"not\\nfor you"}]}'
    proxy.faults = [Fault("status", path="/manifests/", status=403, body=body)]
    with pytest.raises(RegistryRefused, match="403 DENIED: not for you"):
        client(proxy).manifest("a/b", "1")


@pytest.fixture
def guarded(upstream: str) -> Iterator[FaultyProxy]:
    faulty = FaultyProxy(upstream, TokenAuth())
    yield faulty
    faulty.close()


ROBOT = Credentials("robot", "secret")


def test_a_token_is_fetched_once_per_scope_and_renewed_when_it_ends(guarded: FaultyProxy) -> None:
    auth = guarded.auth
    assert auth is not None
    registry = Registry(Endpoint.parse(guarded.url), ROBOT, policy=QUICK)
    registry.ping()
    registry.manifest("a/b", "1")
    registry.manifest("a/b", "1")
    assert auth.issued == [(), ("repository:a/b:pull",)]
    auth.revoke()
    assert registry.manifest("a/b", "1")[1] == MANIFEST
    assert len(auth.issued) == 3


def test_an_upload_asks_for_push_and_a_mount_for_both_repositories(guarded: FaultyProxy) -> None:
    registry = Registry(Endpoint.parse(guarded.url), ROBOT, policy=QUICK)
    assert registry.mount("c/d", DIGEST, "a/b")
    assert guarded.auth is not None
    assert ("repository:c/d:pull,push", "repository:a/b:pull") in guarded.auth.issued
    assert registry.blob_size("c/d", DIGEST) == len(BLOB)


def test_a_wrong_password_is_refused_and_never_shown(guarded: FaultyProxy) -> None:
    registry = Registry(Endpoint.parse(guarded.url), Credentials("robot", "hunter2"), policy=QUICK)
    with pytest.raises(RegistryRefused, match="401") as caught:
        registry.manifest("a/b", "1")
    assert "hunter2" not in str(caught.value.as_json())
    assert "hunter2" not in repr(Credentials("robot", "hunter2"))


def test_anonymous_pull_works_where_the_registry_allows_it(guarded: FaultyProxy) -> None:
    assert guarded.auth is not None
    guarded.auth.anonymous_pull = True
    registry = Registry(Endpoint.parse(guarded.url), policy=QUICK)
    assert registry.manifest("a/b", "1")[1] == MANIFEST
    with pytest.raises(RegistryRefused, match="401"):
        registry.mount("c/d", DIGEST, "a/b")


def test_basic_authentication_is_sent_only_when_asked_for(upstream: str) -> None:
    faulty = FaultyProxy(upstream, TokenAuth(basic=True))
    try:
        registry = Registry(Endpoint.parse(faulty.url), ROBOT, policy=QUICK)
        assert registry.manifest("a/b", "1")[1] == MANIFEST
        registry.manifest("a/b", "1")
        assert "Authorization" not in faulty.requests("GET")[0].headers
        assert [seen.status for seen in faulty.requests("GET")] == [401, 200, 200]
        with pytest.raises(RegistryRefused, match="401"):
            Registry(Endpoint.parse(faulty.url), Credentials("robot", "no"), policy=QUICK).manifest("a/b", "1")
    finally:
        faulty.close()


def test_credentials_do_not_follow_a_redirect_to_another_host(guarded: FaultyProxy, proxy: FaultyProxy) -> None:
    guarded.faults = [
        Fault("status", path="/blobs/", status=307, headers={"Location": f"{proxy.url}/v2/a/b/blobs/{DIGEST}"})
    ]
    registry = Registry(Endpoint.parse(guarded.url), ROBOT, policy=QUICK)
    assert whole(registry) == (0, BLOB)
    assert "Authorization" in guarded.requests("GET", "/blobs/")[-1].headers
    assert "Authorization" not in proxy.requests("GET", "/blobs/")[0].headers


def test_a_private_ca_is_trusted_only_where_it_is_named(tmp_path: Path) -> None:
    import http.server
    import ssl

    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    class Api(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        address = f"127.0.0.1:{server.server_address[1]}"
        Registry(Endpoint.parse(address, tmp_path / "ca.pem"), policy=QUICK).ping()
        with pytest.raises(RegistryUnreachable, match=r"TLS.*certificate"):
            Registry(Endpoint.parse(address), policy=QUICK).ping()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_an_index_is_read_as_an_index(upstream: str) -> None:
    registry = Registry(Endpoint.parse(f"http://{upstream}"), policy=QUICK)
    index = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [{"mediaType": OCI_MANIFEST, "digest": Digest.of(b"elsewhere"), "size": 9}],
        }
    ).encode()
    registry.put_manifest("a/b", "sparse", index, OCI_INDEX)
    found = registry.resolve("a/b", "sparse")
    assert found is not None
    assert (found.media_type, found.digest) == (OCI_INDEX, Digest.of(index))

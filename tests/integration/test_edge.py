"""The routing tier as the edge: TLS, host names, discovery, trusted proxies, certificates renewed under traffic."""

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from mxinstall.site.model import EdgePlan
from routing_tier import HOST, SERVER_NAME, Tier, running_tier
from shipped_stack import MANIFESTS, named, pinned, rendered, stack, unpack_image

from sitebundle.rendering import values_for

METALLB = "metallb.io/loadBalancerIPs"

FEDERATED: dict[str, Any] = {
    "federation": {"enabled": True, "allow": ["*"], "port": 8448},
    "edge": {"hstsSeconds": 31536000},
    "serverName": f"{SERVER_NAME}:8448",
}


@pytest.fixture(scope="module")
def haproxy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_image("haproxy", tmp_path_factory.mktemp("images") / "haproxy")


@pytest.fixture(scope="module")
def tier(haproxy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tier]:
    with running_tier(haproxy_root, tmp_path_factory.mktemp("tier"), {}) as running:
        yield running


@pytest.fixture(scope="module")
def federated(haproxy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tier]:
    with running_tier(haproxy_root, tmp_path_factory.mktemp("federated"), FEDERATED) as running:
        yield running


def test_clients_reach_synapse_by_tls_and_the_certificate_is_the_sites(tier: Tier) -> None:
    answer = tier.ask_tls("GET", "/_matrix/client/versions")
    assert answer.status == 200
    assert answer.body["headers"]["x-forwarded-proto"] == "https"
    assert answer.body["headers"]["host"] == HOST


def test_a_name_that_the_certificate_does_not_have_is_noticed_by_the_client(tier: Tier) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        tier.tls("other.example.org").connect()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_current_tls_is_spoken(tier: Tier, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cadata=tier.authority.certificate)
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection((tier.addresses[0], 8443), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=HOST) as talking,
    ):
        assert talking.version() == version.name.replace("_", ".")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_tls_1_1_is_refused_by_the_tier(tier: Tier) -> None:
    context = ssl.create_default_context(cadata=tier.authority.certificate)
    # Below the usual level OpenSSL itself offers it; the refusal must be the server's.
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection((tier.addresses[0], 8443), timeout=10) as raw,
        pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"),
    ):
        context.wrap_socket(raw, server_hostname=HOST)


def test_a_weak_cipher_is_refused(tier: Tier) -> None:
    context = ssl.create_default_context(cadata=tier.authority.certificate)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA:AES128-SHA")
    with (
        socket.create_connection((tier.addresses[0], 8443), timeout=10) as raw,
        pytest.raises(ssl.SSLError, match="ALERT"),
    ):
        context.wrap_socket(raw, server_hostname=HOST)


@pytest.mark.parametrize("alpn", ["h2", "http/1.1"])
def test_http_2_is_offered(tier: Tier, alpn: str) -> None:
    connection = tier.tls(alpn=alpn)
    connection.connect()
    assert connection.sock.selected_alpn_protocol() == alpn
    connection.close()


@pytest.mark.parametrize("host", [HOST, f"{HOST}:443", HOST.upper()])
def test_the_public_host_is_known_however_it_is_written(tier: Tier, host: str) -> None:
    assert tier.ask_tls("GET", "/_matrix/client/versions", host).status == 200


def test_an_unknown_host_gets_one_clear_answer(tier: Tier) -> None:
    answer = tier.ask_tls("GET", "/_matrix/client/versions", "evil.example.org")
    assert (answer.status, answer.body["errcode"]) == (421, "M_UNRECOGNIZED")
    assert "host name" in answer.body["error"]


def test_the_servers_own_name_is_for_discovery_only(tier: Tier) -> None:
    assert tier.ask_tls("GET", "/_matrix/client/versions", SERVER_NAME).status == 404
    assert tier.ask_tls("GET", "/.well-known/matrix/client", SERVER_NAME).status == 200


@pytest.mark.parametrize("host", [HOST, SERVER_NAME])
def test_clients_and_servers_find_the_way_from_both_names(tier: Tier, host: str) -> None:
    client = tier.ask_tls("GET", "/.well-known/matrix/client", host)
    server = tier.ask_tls("GET", "/.well-known/matrix/server", host)
    assert client.body == {"m.homeserver": {"base_url": f"https://{HOST}"}}
    assert server.body == {"m.server": f"{HOST}:443"}
    for answer in (client, server):
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["content-type"] == "application/json"


def test_what_is_added_to_discovery_is_told(haproxy_root: Path, tmp_path: Path) -> None:
    foci = {
        "org.matrix.msc4143.rtc_foci": [{"type": "livekit", "livekit_service_url": "https://rtc.example.site/it's"}]
    }
    over = {"edge": {"wellKnownClient": foci}}
    with running_tier(haproxy_root, tmp_path, over) as talkative:
        answer = talkative.ask_tls("GET", "/.well-known/matrix/client")
    assert answer.body == {"m.homeserver": {"base_url": f"https://{HOST}"}, **foci}


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/_matrix/client/v3/sync?since=s%2F1"), ("POST", "/_matrix/client/v3/login")]
)
def test_plain_http_is_sent_to_https(tier: Tier, method: str, path: str) -> None:
    connection = http.client.HTTPConnection(tier.addresses[0], 8080, timeout=10)
    answer = tier.ask(method, path, {"Host": f"{HOST}:80"}, connection=connection)
    connection.close()
    assert (answer.status, answer.headers["location"]) == (308, f"https://{HOST}{path}")


def test_plain_http_sends_nobody_to_a_foreign_host(tier: Tier) -> None:
    connection = http.client.HTTPConnection(tier.addresses[0], 8080, timeout=10)
    answer = tier.ask("GET", "/", {"Host": "evil.example.org"}, connection=connection)
    connection.close()
    assert answer.status == 421
    assert "location" not in answer.headers


def test_in_the_cluster_any_host_name_will_do(tier: Tier) -> None:
    answer = tier.ask("GET", "/_matrix/client/versions", {"Host": "routing.matrix.svc"})
    assert (answer.status, answer.body["headers"]["x-forwarded-proto"]) == (200, "http")


def test_strict_transport_security_is_said_by_tls_only_and_only_where_it_is_wanted(tier: Tier, federated: Tier) -> None:
    said = "strict-transport-security"
    assert said not in tier.ask_tls("GET", "/_matrix/client/versions").headers
    assert federated.ask_tls("GET", "/_matrix/client/versions").headers[said] == "max-age=31536000"
    assert federated.ask_tls("GET", "/nothing", "evil.example.org").headers[said] == "max-age=31536000"
    assert said not in federated.ask("GET", "/_matrix/client/versions").headers


def test_without_federation_nobody_listens_at_its_port(tier: Tier) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((tier.addresses[0], 8448), timeout=5)


@pytest.mark.parametrize("host", [HOST, SERVER_NAME, f"{SERVER_NAME}:8448"])
def test_other_servers_have_their_port_and_nothing_else_is_there(federated: Tier, host: str) -> None:
    for path, status in (
        ("/_matrix/federation/v1/version", 200),
        ("/_matrix/key/v2/server", 200),
        ("/_matrix/client/versions", 404),
        ("/", 404),
    ):
        assert federated.ask_tls("GET", path, host, port=8448).status == status, path
    assert federated.ask_tls("GET", "/.well-known/matrix/server", host).body == {"m.server": f"{HOST}:8448"}


def test_a_client_cannot_say_where_it_comes_from(tier: Tier) -> None:
    lie = {"X-Forwarded-For": "8.8.8.8", "Forwarded": "for=8.8.8.8", "X-Forwarded-Proto": "https"}
    headers = tier.ask("GET", "/_matrix/client/versions", lie).body["headers"]
    assert headers["x-forwarded-for"].startswith("127.")
    assert headers["x-forwarded-proto"] == "http"
    assert "forwarded" not in headers
    assert (
        tier.ask_tls("GET", "/_matrix/client/versions", headers=lie)
        .body["headers"]["x-forwarded-for"]
        .startswith("127.")
    )


def test_a_trusted_proxy_says_who_asked_and_a_client_behind_it_makes_nothing_up(
    haproxy_root: Path, tmp_path: Path
) -> None:
    with running_tier(haproxy_root, tmp_path, {"edge": {"trustedProxies": ["127.0.0.0/8", "10.0.0.0/8"]}}) as behind:

        def seen(forwarded: str) -> str:
            headers = {"X-Forwarded-For": forwarded, "X-Forwarded-Proto": "https"}
            told = behind.ask("GET", "/_matrix/client/versions", headers).body["headers"]
            assert told["x-forwarded-proto"] == "https"
            return str(told["x-forwarded-for"])

        assert seen("192.0.2.7") == "192.0.2.7"
        # The client wrote the first, its proxy the second.
        assert seen("8.8.8.8, 192.0.2.7") == "192.0.2.7"
        # Two proxies of ours.
        assert seen("8.8.8.8, 192.0.2.7, 10.1.2.3") == "192.0.2.7"


@dataclass
class Visitors:
    """Clients that open a new connection for each request, without a pause; every failure is kept."""

    tier: Tier
    served: int = 0
    failures: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def come(self, *, keep: bool) -> None:
        connection = self.tier.tls()
        while not self.ended.is_set():
            try:
                answer = self.tier.ask("GET", "/_matrix/client/versions", {"Host": HOST}, connection=connection)
                fault = "" if answer.status == 200 else f"answered with {answer.status}"
                closing = answer.headers.get("connection") == "close"
            except (OSError, http.client.HTTPException) as broken:
                fault, closing = repr(broken), True
            with self.lock:
                self.served += 1
                self.failures += [fault] if fault else []
            if not keep or closing:
                connection.close()
                connection = self.tier.tls()
            time.sleep(0.002)
        connection.close()


@contextlib.contextmanager
def visitors(tier: Tier, each_time: int = 4, kept: int = 4) -> Iterator[Visitors]:
    coming = Visitors(tier)
    threads = [threading.Thread(target=coming.come, kwargs={"keep": n >= each_time}) for n in range(each_time + kept)]
    for thread in threads:
        thread.start()
    try:
        yield coming
    finally:
        coming.ended.set()
        for thread in threads:
            thread.join()


def shown(tier: Tier) -> str:
    """The certificate that a new connection sees, as PEM."""
    connection = tier.tls()
    connection.connect()
    der = connection.sock.getpeercert(binary_form=True)
    connection.close()
    return ssl.DER_cert_to_PEM_cert(der)


def until_shown(tier: Tier, certificate: str, seconds: float = 20) -> None:
    wanted, end = x509.load_pem_x509_certificate(certificate.encode()), time.monotonic() + seconds
    while x509.load_pem_x509_certificate(shown(tier).encode()) != wanted:
        assert time.monotonic() < end, "the new certificate is not shown"
        time.sleep(0.1)


def test_a_certificate_is_renewed_without_a_dropped_connection(haproxy_root: Path, tmp_path: Path) -> None:
    held: list[int] = []
    # DNS is slow: what the old worker knew of the processes must not be asked anew.
    with running_tier(haproxy_root, tmp_path, {}, dns_delay_seconds=0.5) as tier:
        poll = tier.tls()
        idle = tier.tls()

        def hold() -> None:
            path = "/_matrix/client/v3/sync?since=s1&hold=20"
            held.append(tier.ask("GET", path, {"Host": HOST}, connection=poll).status)

        assert tier.ask("GET", "/_matrix/client/versions", {"Host": HOST}, connection=idle).status == 200
        holding = threading.Thread(target=hold)
        holding.start()
        with visitors(tier) as coming:
            time.sleep(1)
            for _ in range(3):
                until_shown(tier, tier.renew())
                time.sleep(0.5)
            assert not held, "the long poll ended before the certificates were renewed"
            # Idle since before the first renewal: the old worker still answers it.
            assert tier.ask("GET", "/_matrix/client/versions", {"Host": HOST}, connection=idle).status == 200
            holding.join()
        idle.close()
        poll.close()
    assert coming.failures == []
    assert coming.served > 100
    assert held == [200]


def test_a_certificate_that_cannot_be_read_changes_nothing_and_the_next_good_one_is_taken(
    haproxy_root: Path, tmp_path: Path
) -> None:
    with running_tier(haproxy_root, tmp_path, {}) as tier:
        before = shown(tier)
        with visitors(tier) as coming:
            tier.spoil()
            time.sleep(3)
            assert shown(tier) == before
            until_shown(tier, tier.renew())
    assert coming.failures == []
    assert coming.served > 100


def test_whoever_is_asked_when_a_replica_is_told_to_go_gets_an_answer(haproxy_root: Path, tmp_path: Path) -> None:
    """SIGUSR1 is the image's stop signal; the kubelet sends it after preStop."""
    held: list[int] = []
    with running_tier(haproxy_root, tmp_path, {}) as tier:

        def hold() -> None:
            held.append(tier.ask_tls("GET", "/_matrix/client/v3/sync?since=s1&hold=4").status)

        holding = threading.Thread(target=hold)
        holding.start()
        time.sleep(1)
        tier.tell_to_go()
        time.sleep(1)
        with pytest.raises(ConnectionRefusedError):
            tier.ask_tls("GET", "/_matrix/client/versions")
        holding.join()
        # Nothing is left to wait for.
        assert tier.running[0].wait(timeout=10) == 0
    assert held == [200]


@pytest.mark.parametrize(
    ("service", "policy"),
    [
        ({"type": "LoadBalancer"}, "Local"),
        ({"type": "NodePort"}, "Cluster"),
        ({"type": "NodePort", "trafficPolicy": "Local"}, "Local"),
        ({"type": "ClusterIP"}, None),
    ],
)
def test_a_load_balancer_keeps_the_clients_addresses(service: dict[str, Any], policy: str | None) -> None:
    spec = named(rendered("synapse", "demo", {"edge": {"service": service}}), "Service", "edge")["spec"]
    assert (spec["type"], spec.get("externalTrafficPolicy")) == (service["type"], policy)


@pytest.mark.parametrize(
    ("service", "field", "annotation"),
    [
        ({"type": "LoadBalancer", "address": "10.90.0.200"}, "10.90.0.200", None),
        ({"type": "LoadBalancer", "address": "fd00::200"}, "fd00::200", None),
        ({"type": "LoadBalancer", "address": "10.90.0.200", "addressAnnotation": METALLB}, None, "10.90.0.200"),
        ({"type": "LoadBalancer", "address": "edge.example.site"}, None, None),
        ({"type": "NodePort", "address": "10.90.0.200", "addressAnnotation": METALLB}, None, None),
    ],
)
def test_a_load_balancer_is_asked_for_the_sites_address_in_one_way(
    service: dict[str, Any], field: str | None, annotation: str | None
) -> None:
    edge = named(rendered("synapse", "demo", {"edge": {"service": service}}), "Service", "edge")
    assert edge["spec"].get("loadBalancerIP") == field
    assert (edge["metadata"].get("annotations") or {}).get(METALLB) == annotation


@pytest.mark.parametrize("profile", ["small", "20k"])
@pytest.mark.parametrize("asked", ["10.90.0.200", None])
def test_a_load_balancer_is_asked_for_an_address_only_when_site_yaml_names_one(profile: str, asked: str | None) -> None:
    site = {"edge": EdgePlan(address="10.90.0.11", load_balancer_address=asked).model_dump(by_alias=True)}
    site["edge"] = {name: value for name, value in site["edge"].items() if value is not None}
    values = values_for(stack(), stack().release("synapse"), profile, MANIFESTS, pinned, site)
    edge = named(rendered("synapse", profile, {"edge": values["edge"]}), "Service", "edge")
    assert (edge["spec"]["type"], edge["spec"].get("loadBalancerIP")) == ("LoadBalancer", asked)


def test_the_edge_has_its_ports_and_plain_http_stays_in_the_cluster() -> None:
    objects = rendered("synapse", "demo", {"federation": {"enabled": True, "allow": ["*"], "port": 8448}})
    ports = {
        port["name"]: (port["port"], port.get("nodePort"))
        for port in named(objects, "Service", "edge")["spec"]["ports"]
    }
    assert ports == {"https": (443, 30443), "http": (80, 30080), "federation": (8448, None)}
    inside = named(objects, "Service", "routing")["spec"]
    assert (inside["type"], [port["port"] for port in inside["ports"]]) == ("ClusterIP", [8008])
    deployment = named(objects, "Deployment", "routing")
    open_ports = {port["name"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
    targets = {
        port["targetPort"] for name in ("edge", "routing") for port in named(objects, "Service", name)["spec"]["ports"]
    }
    assert targets < open_ports


def test_the_tier_is_rolled_last_and_its_replicas_are_on_different_nodes() -> None:
    deployment = named(rendered("synapse", "demo"), "Deployment", "routing")
    assert deployment["metadata"]["annotations"] == {"mxbundle.io/wave": "3"}
    pod = deployment["spec"]["template"]
    assert "mxbundle.io/wave" not in pod["metadata"]["annotations"]
    (rule,) = pod["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert rule["topologyKey"] == "kubernetes.io/hostname"
    assert rule["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    # A node may have room for no second one: an old replica goes first.
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_without_an_edge_there_is_no_certificate_and_nothing_public() -> None:
    objects = rendered("synapse", "demo", {"edge": {"mode": "none"}})
    assert [
        one["metadata"]["name"] for one in objects if one["kind"] == "Service" and one["metadata"]["name"] == "edge"
    ] == []
    pod = named(objects, "Deployment", "routing")["spec"]["template"]["spec"]
    assert [volume["name"] for volume in pod["volumes"]] == ["configuration", "state"]
    assert {port["name"] for port in pod["containers"][0]["ports"]} == {"http", "status"}

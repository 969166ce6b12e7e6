"""The proof reaches the edge by the name that users have, and believes nobody else."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import trustme
from mxinstall.proof.matrix import Homeserver, MatrixUnreachable
from mxinstall.proof.reach import edge_address
from mxinstall.site import Site

from sitebundle.errors import ReleaseNotReady

NAME = "matrix.a.site"
AUTHORITY = trustme.CA()


class Handler(http.server.BaseHTTPRequestHandler):
    """Tells which host was asked for."""

    def do_GET(self) -> None:
        body = json.dumps({"host": self.headers["Host"]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Silent."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(NAME).configure_cert(context)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    serving = threading.Thread(target=server.serve_forever, args=(0.05,))
    serving.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    serving.join()
    server.server_close()


def test_the_public_name_is_asked_for_and_verified_at_another_address(address: str) -> None:
    ca = AUTHORITY.cert_pem.bytes().decode()
    assert Homeserver(f"https://{NAME}", ca, address).json("GET", "/") == {"host": NAME}


@pytest.mark.parametrize(
    ("name", "ca", "reason"),
    [
        ("other.a.site", AUTHORITY, "match"),
        (NAME, trustme.CA(), "verify failed"),
    ],
)
def test_a_certificate_for_another_name_or_of_another_authority_is_refused(
    address: str, name: str, ca: trustme.CA, reason: str
) -> None:
    server = Homeserver(f"https://{name}", ca.cert_pem.bytes().decode(), address)
    with pytest.raises(MatrixUnreachable, match=reason):
        server.call("GET", "/", patience_seconds=0)


class Services:
    """A cluster with one Service or none."""

    def __init__(self, spec: dict[str, Any] | None, ingress: list[dict[str, str]] | None = None) -> None:
        self._service = spec and {"spec": spec, "status": {"loadBalancer": {"ingress": ingress} if ingress else {}}}

    def get(self, *_: str) -> dict[str, Any] | None:
        return self._service


def site() -> Site:
    registry = {"push": "10.0.0.1:5000", "pull": "10.0.0.1:5000"}
    spec = {
        "profile": "demo",
        "serverName": "a.site",
        "hosts": {"matrix": NAME},
        "registry": registry,
        "storage": {"default": "s", "database": "s", "objects": "s"},
        "edge": {"address": "10.0.0.9"},
    }
    return Site.model_validate({"metadata": {"name": "a"}, "spec": spec})


PORTS = [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "https", "port": 443, "nodePort": 30443}]


@pytest.mark.parametrize(
    ("spec", "ingress", "expected"),
    [
        ({"type": "NodePort", "clusterIP": "10.96.0.7"}, None, "10.0.0.9:30443"),
        ({"type": "LoadBalancer", "clusterIP": "10.96.0.7"}, [{"ip": "10.0.0.5"}], "10.0.0.5:443"),
        ({"type": "LoadBalancer", "clusterIP": "10.96.0.7"}, None, "10.0.0.9:443"),
        ({"type": "ClusterIP", "clusterIP": "10.96.0.7"}, None, "10.96.0.7:443"),
    ],
)
def test_the_edge_is_connected_to_where_its_service_is(
    spec: dict[str, Any], ingress: list[dict[str, str]] | None, expected: str
) -> None:
    cluster: Any = Services({**spec, "ports": PORTS}, ingress)
    assert edge_address(cluster, site()) == expected


def test_without_an_edge_the_release_is_not_ready() -> None:
    cluster: Any = Services(None)
    with pytest.raises(ReleaseNotReady):
        edge_address(cluster, site())

"""Everything that ends is told, once, with who renews it and whether somebody has to look after it."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from mxinstall import expiries
from mxinstall.certificates import listed
from mxinstall.cluster import Cluster
from mxinstall.deploy.authority import AUTHORITY_DAYS, CERTIFICATE_DAYS, KeyPair, expiry, issue, new_authority
from mxinstall.deploy.journal import Account
from mxinstall.deploy.names import document_secret
from mxinstall.expiries import Expiry, every_expiry, expiry_lines
from mxinstall.kubeconfig import Access
from mxinstall.status import Status, read_status, status_text

from sitebundle.signature import generate_key

NOW = datetime.now(UTC)
OURS, THEIRS, STORES, CLUSTERS = (new_authority(name) for name in ("site", "cnpg", "store", "cluster"))
STACK: dict[str, Any] = {
    "apiVersion": "mxbundle.io/v1alpha1",
    "kind": "Stack",
    "name": "matrix",
    "kubernetes": ">=1.33",
    "profiles": ["demo"],
    "images": {},
    "namespaces": [{"name": name, "podSecurity": "restricted"} for name in ("data", "operators")],
    "secrets": [
        {"name": "db-tls", "namespaces": ["data"], "certificate": {"commonName": "db", "dns": ["db"], "chain": True}},
        {"name": "site-ca", "namespaces": ["data"], "ca": True},
    ],
    "givenSecrets": [{"site": "backups.s3.secret", "namespaces": ["data"], "keys": ["accessKeyId"]}],
    "releases": [],
}
IMAGE = f"127.0.0.1:5000/mx/docker.io/library/postgres:17@sha256:{'a' * 64}"
RUNNING = {
    "kind": "Pod",
    "metadata": {"namespace": "data", "name": "postgres-1"},
    "spec": {"nodeName": "n1", "containers": [{"name": "postgres", "image": IMAGE}]},
    "status": {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "postgres", "image": IMAGE, "imageID": IMAGE, "state": {"running": {}}}],
    },
}
OPERATOR = [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "cnpg-controller-manager", "uid": "1"}]


class Canned:
    """A cluster that has these objects."""

    def __init__(self, access: Access, *objects: dict[str, Any]) -> None:
        self.access, self.server, self._objects = access, access.server, objects

    def list(
        self, api_version: str, kind: str, namespace: str | None = None, labels: str | None = None
    ) -> list[dict[str, Any]]:
        return [
            one
            for one in self._objects
            if (one["kind"], one["metadata"]["namespace"]) == (kind, namespace)
            and (labels is None or labels.split("=") in [list(pair) for pair in one["metadata"]["labels"].items()])
        ]

    def get(self, *_: object) -> None:
        return None

    def version(self) -> str:
        return "v1.36.3"


def secret(place: str, owners: list[dict[str, str]] | None = None, **texts: str) -> dict[str, Any]:
    namespace, _, name = place.partition("/")
    data = {key.replace("_", "."): base64.b64encode(text.encode()).decode() for key, text in texts.items()}
    return {
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "ownerReferences": owners or [], "labels": {}},
        "data": data,
    }


def leaf(ca: KeyPair, days: float = CERTIFICATE_DAYS) -> str:
    """A certificate of `ca` that ends in so many days."""
    return issue(ca, "db", ("db",), ("server",), NOW - timedelta(days=CERTIFICATE_DAYS - days)).certificate


def account(issuer: str = "generated", **registry: str) -> Account:
    place = {"push": "127.0.0.1:5000", "pull": "127.0.0.1:5000", **registry}
    spec = {
        "profile": "demo",
        "serverName": "example.site",
        "hosts": {"matrix": "matrix.example.site"},
        "registry": place,
        "storage": {"default": "bulk", "database": "bulk", "objects": "bulk"},
        "tls": {"issuer": issuer},
        "edge": {"address": "192.0.2.1"},
        "backups": {"s3": {"endpoint": "http://127.0.0.1:9", "bucket": "backups", "secret": "s3"}},
    }
    site = {"apiVersion": "mxbundle.io/v1alpha1", "kind": "Site", "metadata": {"name": "north-1"}, "spec": spec}
    return Account(1, "sha256:0", "b", "demo", namespaces=["data", "operators"], site=site, stack=STACK)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MXINSTALL_ALLOWED_SIGNERS", str(tmp_path / "allowed_signers"))
    return tmp_path / "allowed_signers"


def found(*objects: dict[str, Any], access: Access | None = None, **registry: str) -> dict[str, Expiry]:
    cluster = Canned(access or Access("http://127.0.0.1:9"), *objects)
    return {entry.name: entry for entry in every_expiry(cast(Cluster, cluster), account(**registry)).found}


def installed(*objects: dict[str, Any], **registry: str) -> Cluster:
    """A cluster where all is well with what was installed, a registry of somebody else's with it."""
    known = account(**{"mode": "external", **registry})
    known.state, known.images = "committed", {"docker.io/library/postgres:17": [IMAGE.partition("@")[2]]}
    journal = document_secret("generation-1", "journal", "journal.json", known.as_json())
    return cast(Cluster, Canned(Access("http://127.0.0.1:9"), journal, RUNNING, *objects))


def seen(*objects: dict[str, Any], **registry: str) -> Status:
    return read_status(installed(*objects, **registry))


def test_secrets_of_any_origin_are_told_with_who_renews_them() -> None:
    entries = found(
        secret("mx-system/site-authority", ca_crt=OURS.certificate, ca_key=OURS.key),
        secret("data/db-tls", tls_crt=leaf(OURS) + OURS.certificate, ca_crt=OURS.certificate),
        secret("data/site-ca", ca_crt=OURS.certificate),
        secret("operators/cnpg-webhook-cert", OPERATOR, tls_crt=leaf(THEIRS)),
        secret("operators/cnpg-ca-secret", OPERATOR, ca_crt=THEIRS.certificate, ca_key=THEIRS.key),
        secret("mx-system/s3", ca_crt=STORES.certificate, accessKeyId="k"),
        secret("data/s3", ca_crt=STORES.certificate, accessKeyId="k"),
        secret("data/by-hand", tls_crt=leaf(THEIRS)),
        secret("elsewhere/not-ours", tls_crt=leaf(THEIRS)),
        secret("data/password", password="-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----"),
    )
    assert {name: entry.renewed_by.partition(";")[0] for name, entry in entries.items()} == {
        "data/db-tls": "mxinstall, with any install or `certificates renew db-tls`",
        "mx-system/site-authority": "you, with `certificates renew --ca`",
        "operators/cnpg-webhook-cert": "Deployment cnpg-controller-manager, by itself",
        "operators/cnpg-ca-secret ca.crt": "Deployment cnpg-controller-manager, by itself",
        "mx-system/s3 ca.crt": "you, in Secret mx-system/s3",
        "data/by-hand": "whoever wrote it",
    }
    assert set(entries["mx-system/site-authority"].places) == {
        "mx-system/site-authority",
        "data/db-tls ca.crt",
        "data/db-tls tls.crt",
        "data/site-ca ca.crt",
    }


def test_a_copy_that_kept_an_older_ca_is_told_by_itself() -> None:
    older = new_authority("site", NOW - timedelta(days=AUTHORITY_DAYS - 20))
    entries = found(
        secret("mx-system/site-authority", ca_crt=OURS.certificate), secret("data/site-ca", ca_crt=older.certificate)
    )
    assert {name: entry.level() for name, entry in entries.items()} == {
        "mx-system/site-authority": "ok",
        "data/site-ca ca.crt": "soon",
    }


def test_while_the_sites_ca_is_replaced_each_is_told_with_what_to_do() -> None:
    ended = new_authority("site", NOW - timedelta(days=AUTHORITY_DAYS + 2))
    objects = (
        secret(
            "mx-system/site-authority",
            ca_crt=OURS.certificate,
            ca_key=OURS.key,
            old_crt=ended.certificate,
            old_key=ended.key,
            coming_crt=THEIRS.certificate,
            coming_key=THEIRS.key,
        ),
        secret("data/site-ca", ca_crt=THEIRS.certificate + OURS.certificate + ended.certificate),
    )
    entries = found(*objects)
    assert {name: entry.renewed_by.partition(";")[0] for name, entry in entries.items()} == {
        "mx-system/site-authority": "you, with `certificates renew --ca`",
        "mx-system/site-authority coming.crt": (
            "nobody yet: it does not sign. `certificates renew --ca` was not finished"
        ),
        "mx-system/site-authority old.crt": (
            "nobody: another one signs. When people's devices have that: `certificates forget-old-ca`"
        ),
    }
    assert all("data/site-ca ca.crt" in entry.places for entry in entries.values())
    # Nothing depends on an old one that has ended; the other ones do not end.
    assert (seen(*objects).healthy, seen(*objects).as_json()["ended"]) == (True, [])


def test_what_ends_outside_of_secrets_is_told_too(store: Path, tmp_path: Path) -> None:
    (tmp_path / "registry.pem").write_text(f"a registry's\n{STORES.certificate}{OURS.certificate}")
    key = generate_key(tmp_path / "builder", "builder")
    store.write_text(f'builder valid-before="20990101" {key.line}\nother {key.line}\n')
    access = Access("http://127.0.0.1:9", ca=CLUSTERS.certificate, certificate=leaf(CLUSTERS, 3))
    root = {
        "kind": "ConfigMap",
        "metadata": {"name": "kube-root-ca.crt", "namespace": "data"},
        "data": {"ca.crt": CLUSTERS.certificate},
    }
    entries = found(root, access=access, ca=str(tmp_path / "registry.pem"))
    assert {name.partition(" SHA256")[0]: (entry.kind, entry.level()) for name, entry in entries.items()} == {
        "the kubeconfig's client certificate": ("certificate", "soon"),
        "the kubeconfig's CA": ("ca", "ok"),
        f"file {tmp_path}/registry.pem": ("ca", "ok"),
        "key": ("key", "ok"),
    }
    assert entries["the kubeconfig's CA"].places == ("the kubeconfig's CA", "ConfigMap data/kube-root-ca.crt ca.crt")


def test_a_file_that_this_host_does_not_have_is_a_note_and_the_rest_is_told(store: Path, tmp_path: Path) -> None:
    text = leaf(OURS)
    tls = secret("data/db-tls", tls_crt=text)
    status = seen(tls, ca=str(tmp_path / "nowhere.pem"))
    assert (status.healthy, status.away) == (True, ())
    assert [entry.name for entry in status.certificates] == ["data/db-tls"]
    (note,) = status.as_json()["notes"]
    assert f"{tmp_path}/nowhere.pem" in note
    assert "No such file" in note
    assert f"note: {note}" in status_text(status)
    told = listed(installed(tls, ca=str(tmp_path / "nowhere.pem")))
    assert ([entry.name for entry in told.found], told.notes) == (["data/db-tls"], (note,))


@pytest.mark.parametrize("content", [b"not a line of a trust store\n", b"\xff"])
def test_a_trust_store_or_a_ca_that_cannot_be_read_makes_no_system_unhealthy(
    content: bytes, store: Path, tmp_path: Path
) -> None:
    store.write_bytes(content)
    (tmp_path / "registry.pem").write_bytes(content)
    status = seen(ca=str(tmp_path / "registry.pem"))
    assert (status.healthy, status.away) == (True, ())
    assert [str(tmp_path / "registry.pem") in status.notes[0], str(store) in status.notes[1]] == [True, True]


@pytest.mark.parametrize(
    ("place", "owners", "days", "level"),
    [
        ("data/db-tls", None, 31, "ok"),
        ("data/db-tls", None, 29, "soon"),
        ("data/db-tls", None, -1, "ended"),
        # Its operator renews it 7 days before: until then nobody has to do anything.
        ("operators/cnpg-webhook-cert", OPERATOR, 6, "ok"),
        ("operators/cnpg-webhook-cert", OPERATOR, 4, "soon"),
    ],
)
def test_a_person_is_warned_in_time_and_not_for_what_goes_by_itself(
    place: str, owners: list[dict[str, str]] | None, days: int, level: str
) -> None:
    (entry,) = found(secret(place, owners, tls_crt=leaf(THEIRS, days + 0.5))).values()
    assert entry.level() == entry.as_json()["level"] == level
    assert entry.as_json()["days"] == days
    (line,) = expiry_lines([entry])
    assert line.startswith({"ok": " ", "soon": "SOON", "ended": "ENDED"}[level])
    assert entry.renewed_by in line


def test_a_site_that_asked_for_what_is_not_built_is_looked_at_like_any_other() -> None:
    status = seen(secret("data/db-tls", tls_crt=leaf(OURS)), issuer="intermediate")
    assert (status.healthy, status.away) == (True, ())
    assert [entry.name for entry in status.certificates] == ["data/db-tls"]


def test_status_tells_all_the_rest_of_a_site_that_it_cannot_read() -> None:
    status = seen(secret("data/db-tls", tls_crt=leaf(OURS)), push="nowhere")
    assert not status.healthy
    assert all("mx-system/generation-1: spec.registry.push: " in text for text in status.away)
    assert ([pod.name for pod in status.pods], status.audit and status.audit.passed) == (["postgres-1"], True)
    assert [entry.name for entry in status.certificates] == ["data/db-tls"]


def test_a_certificate_or_the_sites_ca_that_has_ended_makes_the_system_ill_and_another_ca_does_not() -> None:
    older = new_authority("site", NOW - timedelta(days=AUTHORITY_DAYS + 2))
    site_ca = secret("mx-system/site-authority", ca_crt=older.certificate, ca_key=older.key)
    status = seen(site_ca)
    assert (status.healthy, status.away, status.as_json()["ended"]) == (False, (), ["mx-system/site-authority"])
    line = next(
        line for line in status_text(status).splitlines() if line.startswith("ENDED: mx-system/site-authority on ")
    )
    assert "renewed by you, with `certificates renew --ca`" in line
    status = seen(secret("data/db-tls", tls_crt=leaf(OURS, -1)))
    assert (status.healthy, status.as_json()["ended"]) == (False, ["data/db-tls"])
    # A copy that somebody kept of a CA of before is told, and nothing depends on it.
    status = seen(secret("data/by-hand", ca_crt=older.certificate))
    assert (status.healthy, status.as_json()["ended"]) == (True, [])
    assert [entry.level() for entry in status.certificates] == ["ended"]


@contextlib.contextmanager
def showing(pair: KeyPair, folder: Path) -> Iterator[int]:
    """A server that shows a certificate to whoever comes; its port."""
    (folder / "pair.pem").write_text(pair.certificate + pair.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "pair.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError), context.wrap_socket(server.accept()[0], server_side=True):
                pass

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def test_a_server_whose_name_nobody_resolves_holds_nobody_up_and_the_others_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, resolve = threading.Event(), socket.getaddrinfo

    def hanging(host: str, *more: Any, **named: Any) -> Any:
        if host == "api.example.site":
            released.wait(20)
        return resolve(host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    monkeypatch.setattr(expiries, "_SHOWN_SECONDS", 1.5)
    pair = issue(OURS, "registry", ("registry",), ("server",))
    began = time.monotonic()
    try:
        with showing(pair, tmp_path) as port:
            entries = found(access=Access("https://api.example.site:6443"), push=f"127.0.0.1:{port}", scheme="https")
        assert time.monotonic() - began < 10
    finally:
        released.set()
    assert {name: entry.ends for name, entry in entries.items()} == {
        f"shown by 127.0.0.1:{port}": expiry(pair.certificate)
    }

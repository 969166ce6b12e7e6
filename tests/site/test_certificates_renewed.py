"""Certificates are renewed in every namespace and taken, on a real API server with the real controllers and helm.

There are no nodes; what a TLS client sees of it on a running site: test_certificates_live.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apiserver import breakable_api_server
from claimed_pods import Claims, claimed_pods
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from mxinstall.authority_change import forget_old_authority, forgetting_ahead, renew_authority, renewal_ahead
from mxinstall.certificates import listed, renew_certificates
from mxinstall.cluster import Cluster, Object
from mxinstall.deploy import authority, certificates, ready
from mxinstall.deploy.authorities import Authorities, known_authorities
from mxinstall.deploy.authority import issue, issued_by
from mxinstall.deploy.journal import read_account
from mxinstall.deploy.names import NAMESPACE as SYSTEM
from waves_chart import NAMESPACE, carried_parts, deploy_parts, parts_site, plan_of_parts, remove_parts

from sitebundle.errors import AuthorityNotReplaced, CertificateUnknown, NotInstalled
from sitebundle.events import Event, Step, silent

CONTROLLERS = (
    "statefulset-controller",
    "deployment-controller",
    "replicaset-controller",
    "garbage-collector-controller",
)
SETS = ("parts-main", "parts-writer", "parts-reader")


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with breakable_api_server(tmp_path_factory.mktemp("apiserver"), CONTROLLERS) as server:
        cluster = Cluster.connect(server.kubeconfig)
        with pytest.raises(NotInstalled):
            listed(cluster)
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        yield cluster


@pytest.fixture
def claims(operator: Cluster, tmp_path: Path) -> Iterator[Claims]:
    with claimed_pods(operator, NAMESPACE) as running:
        deploy_parts(operator, tmp_path)
        yield running
        remove_parts(operator)


def secret(operator: Cluster, name: str = "parts-tls", namespace: str = NAMESPACE) -> dict[str, str]:
    found = operator.get("v1", "Secret", name, namespace)
    assert found is not None
    return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}


def certificate(operator: Cluster, name: str = "parts-tls", namespace: str = NAMESPACE) -> x509.Certificate:
    return x509.load_pem_x509_certificate(secret(operator, name, namespace)["tls.crt"].encode())


def pods(operator: Cluster) -> set[str]:
    return {pod["metadata"]["uid"] for pod in operator.list("v1", "Pod", NAMESPACE)}


def site_cas(operator: Cluster) -> Authorities:
    known = known_authorities(operator)
    assert known is not None
    return known


def put(operator: Cluster, pair: authority.KeyPair, *namespaces: str) -> None:
    """Write a certificate as if it had been there all the time."""
    data = {"tls.crt": pair.certificate, "tls.key": pair.key}
    encoded = {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}
    for namespace in namespaces:
        operator.patch("v1", "Secret", "parts-tls", {"data": encoded}, namespace)


def test_renewing_writes_every_namespace_keeps_the_ca_and_restarts_in_waves_who_must_be(
    operator: Cluster, claims: Claims
) -> None:
    before, reloaded_before, pods_before = secret(operator), secret(operator, "reloaded-tls"), pods(operator)
    told: list[Event] = []
    renewal = renew_certificates(operator, told.append, everything=True)
    assert set(renewal.renewed) == {"matrix/parts-tls", "mx-system/parts-tls", "matrix/reloaded-tls"}
    after = secret(operator)
    assert after["tls.crt"] != before["tls.crt"]
    assert after["ca.crt"] == before["ca.crt"]
    assert secret(operator, namespace=SYSTEM) == after
    assert secret(operator, "reloaded-tls")["tls.crt"] != reloaded_before["tls.crt"]
    key = serialization.load_pem_private_key(after["tls.key"].encode(), None)
    assert certificate(operator).public_key() == key.public_key()
    ca = x509.load_pem_x509_certificate(after["ca.crt"].encode())
    certificate(operator).verify_directly_issued_by(ca)
    # The tier mounts neither; the three sets mount the one that must be taken by a restart.
    restarted = [event.id for event in told if isinstance(event, Step) and event.detail == "restarted"]
    assert restarted == list(SETS)
    assert len(pods_before & pods(operator)) == 1
    steps = [entry.name for entry in (read_account(operator, 1) or pytest.fail("no journal")).entries]
    assert steps[-2:] == ["certificates", "certificates/restart"]
    assert (read_account(operator, 1) or pytest.fail("no journal")).state == "committed"


def test_what_reads_its_certificate_by_itself_is_not_restarted(operator: Cluster, claims: Claims) -> None:
    before = pods(operator)
    assert renew_certificates(operator, silent, chosen=["reloaded-tls"]).restarted == ()
    assert pods(operator) == before


def test_nothing_happens_when_nothing_is_due(operator: Cluster, claims: Claims, tmp_path: Path) -> None:
    before, pods_before = secret(operator), pods(operator)
    assert renew_certificates(operator, silent).renewed == ()
    assert (secret(operator), pods(operator)) == (before, pods_before)
    assert plan_of_parts(operator, tmp_path).nothing_to_do


def test_an_unknown_name_is_refused_with_the_known_ones(operator: Cluster, claims: Claims) -> None:
    with pytest.raises(CertificateUnknown, match="no certificate edge; it has: parts-tls, reloaded-tls"):
        renew_certificates(operator, silent, chosen=["edge"])


def test_an_ordinary_run_renews_what_ends_soon_and_nothing_else(
    operator: Cluster, claims: Claims, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = site_cas(operator).signing
    names = ("parts", "matrix.parts.site")
    monkeypatch.setattr(authority, "CERTIFICATE_DAYS", 20)
    put(operator, issue(ca, "parts", names, ("server",)), NAMESPACE, SYSTEM)
    monkeypatch.undo()
    plan = plan_of_parts(operator, tmp_path)
    assert [entry.split(": ends")[0] for entry in plan.certificates] == ["matrix/parts-tls, mx-system/parts-tls"]
    other = secret(operator, "reloaded-tls")
    deploy_parts(operator, tmp_path)
    assert (certificate(operator).not_valid_after_utc - certificate(operator).not_valid_before_utc).days == 825
    assert secret(operator, "reloaded-tls") == other
    assert plan_of_parts(operator, tmp_path).nothing_to_do


def test_a_name_that_site_yaml_gives_anew_is_in_the_certificate_after_the_next_run(
    operator: Cluster, claims: Claims, tmp_path: Path
) -> None:
    ca = site_cas(operator).signing
    put(operator, issue(ca, "parts", ("parts",), ("server",)), NAMESPACE, SYSTEM)
    assert "is not for matrix.parts.site" in plan_of_parts(operator, tmp_path).certificates[0]
    deploy_parts(operator, tmp_path)
    assert authority.names(secret(operator)["tls.crt"]) == {"parts", "matrix.parts.site"}


def test_a_renewal_killed_between_namespaces_and_restarts_is_finished_by_any_run(
    operator: Cluster, claims: Claims, tmp_path: Path
) -> None:
    old = secret(operator)
    plans = carried_parts(tmp_path).stack.secrets_at(parts_site().spec_mapping())
    (due,) = certificates.due(operator, plans, forced=["parts-tls"])
    certificates.renew(operator, [due])
    new = secret(operator)
    # As if it had been ended after the first namespace.
    put(operator, authority.KeyPair(old["tls.crt"], old["tls.key"]), SYSTEM)
    told = plan_of_parts(operator, tmp_path).certificates
    assert "matrix/parts-tls, mx-system/parts-tls: a renewal was not finished in each of its namespaces" in told
    assert "StatefulSet/matrix/parts-main has not taken the renewed parts-tls" in told
    before = pods(operator)
    deploy_parts(operator, tmp_path)
    assert secret(operator) == secret(operator, namespace=SYSTEM) == new
    assert len(before & pods(operator)) == 1
    assert plan_of_parts(operator, tmp_path).nothing_to_do


def test_every_certificate_is_listed_the_cas_and_operators_too(operator: Cluster, claims: Claims) -> None:
    theirs: Object = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "webhook", "namespace": NAMESPACE}}
    ca = site_cas(operator).signing
    text = issue(ca, "webhook", ("webhook",), ("server",)).certificate
    operator.create({**theirs, "data": {"tls.crt": base64.b64encode(text.encode()).decode()}})
    found = {entry.name: entry for entry in listed(operator).found}
    assert set(found) >= {"matrix/parts-tls", "mx-system/parts-tls", "mx-system/site-authority", "matrix/webhook"}
    assert found["matrix/webhook"].renewed_by == "whoever wrote it"
    assert found["matrix/parts-tls"].renewed_by == "mxinstall, with any install or `certificates renew parts-tls`"
    # The CA is told once, with every Secret that has it; the kubeconfig's and what the API server shows are told too.
    assert {"mx-system/site-authority", "matrix/parts-tls ca.crt"} <= set(found["mx-system/site-authority"].places)
    assert any(name.startswith("shown by ") for name in found)
    assert "the kubeconfig's CA" in found


EVERY_SECRET = (("parts-tls", NAMESPACE), ("parts-tls", SYSTEM), ("reloaded-tls", NAMESPACE), ("parts-ca", NAMESPACE))
INSIDE, PEOPLE = "reloaded-tls", "parts-tls"
"""Only the second is for a name of site.yaml. It is also the one that must be taken by a restart."""


class Killed(BaseException):
    """The run ends here, as by SIGKILL: nothing catches it."""


def distrust(operator: Cluster) -> list[str]:
    """Which Secrets hold a certificate that another one's `ca.crt` does not cover."""
    held = {place: secret(operator, *place) for place in EVERY_SECRET}
    return [
        f"{client} does not trust {server}"
        for server, shown in held.items()
        for client, trusting in held.items()
        if "tls.crt" in shown
        and not any(
            issued_by(shown["tls.crt"], one.public_bytes(serialization.Encoding.PEM).decode())
            for one in x509.load_pem_x509_certificates(trusting["ca.crt"].encode())
        )
    ]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kubelet has to bring anything here; controllers answer at once."""
    monkeypatch.setattr(certificates, "TAKEN_SECONDS", 0.0)
    monkeypatch.setattr(certificates, "_POLL_SECONDS", 0.2)
    monkeypatch.setattr(ready, "POLL_SECONDS", 0.2)


def test_another_ca_is_trusted_signs_and_an_install_after_each_step_changes_nothing(
    operator: Cluster, claims: Claims, tmp_path: Path, quick: None
) -> None:
    old, told = site_cas(operator).signing, list[Event]()
    ahead = renewal_ahead(operator)
    assert [step.name for step in ahead] == ["new", "trust", "wait", "issue"]
    assert set(ahead[1].restarts) == {f"StatefulSet/{name}" for name in SETS}
    renewal = renew_authority(operator, told.append)
    now = site_cas(operator)
    assert now.old == old
    assert {secret(operator, *place)["ca.crt"] for place in EVERY_SECRET} == {now.signing.certificate + old.certificate}
    assert issued_by(secret(operator, INSIDE)["tls.crt"], now.signing.certificate)
    assert issued_by(secret(operator, PEOPLE)["tls.crt"], old.certificate)
    assert [event.id for event in told if isinstance(event, Step) and event.detail == "restarted"] == list(SETS)
    assert set(renewal.renewed) == {f"{namespace}/{name}" for name, namespace in EVERY_SECRET}
    found = {entry.name: entry.renewed_by for entry in listed(operator).found}
    assert "forget-old-ca" in found["mx-system/site-authority old.crt"]

    def unchanged_by_an_install() -> None:
        before, pods_before = [secret(operator, *place) for place in EVERY_SECRET], pods(operator)
        assert plan_of_parts(operator, tmp_path).nothing_to_do
        deploy_parts(operator, tmp_path)
        assert ([secret(operator, *place) for place in EVERY_SECRET], pods(operator)) == (before, pods_before)

    unchanged_by_an_install()
    assert renew_authority(operator, silent).renewed == ()
    told.clear()
    forget_old_authority(operator, told.append)
    assert site_cas(operator).trusted == now.signing.certificate
    assert {secret(operator, *place)["ca.crt"] for place in EVERY_SECRET} == {now.signing.certificate}
    assert issued_by(secret(operator, PEOPLE)["tls.crt"], now.signing.certificate)
    # For the certificate, and again for whom it trusts.
    assert [event.id for event in told if isinstance(event, Step) and event.detail == "restarted"] == [*SETS, *SETS]
    unchanged_by_an_install()
    assert forget_old_authority(operator, silent).renewed == ()


def test_a_change_of_ca_that_is_killed_after_each_single_write_ends_where_it_should(
    operator: Cluster, claims: Claims, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    old, patch, left = site_cas(operator).signing, Cluster.patch, [0]

    def one_more(cluster: Cluster, api_version: str, kind: str, *more: Any, **named: Any) -> Object:
        if kind in ("Secret", "StatefulSet"):
            if not left[0]:
                raise Killed
            left[0] -= 1
        return patch(cluster, api_version, kind, *more, **named)

    monkeypatch.setattr(Cluster, "patch", one_more)
    runs = 0
    for act, ahead in ((renew_authority, renewal_ahead), (forget_old_authority, forgetting_ahead)):
        while ahead(operator):
            runs += 1
            assert runs < 60
            left[0] = 1
            with contextlib.suppress(Killed):
                act(operator, silent)
            assert distrust(operator) == []
        if act is renew_authority:
            assert site_cas(operator).old == old
    assert runs > 20
    assert site_cas(operator).old is None
    assert {secret(operator, *place)["ca.crt"] for place in EVERY_SECRET} == {site_cas(operator).signing.certificate}
    left[0] = 1000
    assert plan_of_parts(operator, tmp_path).nothing_to_do


def test_an_install_goes_on_with_a_killed_change_of_ca_only_as_far_as_it_was_written(
    operator: Cluster, claims: Claims, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    old = site_cas(operator).signing
    with monkeypatch.context() as killing:

        def killed(*_: object, **__: object) -> None:
            raise Killed

        killing.setattr(certificates, "restart", killed)
        with pytest.raises(Killed):
            renew_authority(operator, silent)
    assert (
        "StatefulSet/matrix/parts-main has not taken the renewed parts-tls"
        in plan_of_parts(operator, tmp_path).certificates
    )
    before = pods(operator)
    deploy_parts(operator, tmp_path)
    assert len(before & pods(operator)) == 1
    now = site_cas(operator)
    assert (now.signing, now.coming is not None, distrust(operator)) == (old, True, [])
    with pytest.raises(AuthorityNotReplaced):
        forget_old_authority(operator, silent)
    renew_authority(operator, silent)
    assert site_cas(operator).old == old
    forget_old_authority(operator, silent)

"""The site's CA is replaced without a moment in which somebody meets a certificate that he does not trust."""

from __future__ import annotations

import base64
import contextlib
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from mxinstall import certificates as command
from mxinstall.authority_change import (
    forget_old_authority,
    forgetting_ahead,
    renew_authority,
    renewal_ahead,
    site_authorities,
)
from mxinstall.certificates import renew_certificates
from mxinstall.cli import group
from mxinstall.cluster import Cluster
from mxinstall.deploy import authorities, certificates
from mxinstall.deploy.authorities import Authorities, known_authorities
from mxinstall.deploy.authority import AUTHORITY_DAYS, expiry, issue, issued_by, new_authority, subject
from mxinstall.deploy.fencing import Hold
from mxinstall.deploy.journal import Account
from mxinstall.deploy.names import document_secret
from mxinstall.deploy.secrets import ensure_secrets

from sitebundle.errors import AuthorityNotReplaced
from sitebundle.events import silent
from sitebundle.stack import SecretPlan, Stack

SPEC: dict[str, Any] = {
    "profile": "demo",
    "serverName": "example.site",
    "hosts": {"matrix": "matrix.example.site"},
    "registry": {"push": "127.0.0.1:5000", "pull": "127.0.0.1:5000"},
    "storage": {"default": "bulk", "database": "bulk", "objects": "bulk"},
    "edge": {"address": "192.0.2.1"},
}
STACK: dict[str, Any] = {
    "apiVersion": "mxbundle.io/v1alpha1",
    "kind": "Stack",
    "name": "matrix",
    "kubernetes": ">=1.33",
    "profiles": ["demo"],
    "images": {},
    "namespaces": [{"name": name, "podSecurity": "restricted"} for name in ("data", "front")],
    "secrets": [
        {
            "name": "store-tls",
            "namespaces": ["data", "front"],
            "certificate": {"commonName": "store", "dns": ["store"]},
        },
        {
            "name": "plugin-tls",
            "namespaces": ["data"],
            "taken": "reload",
            "certificate": {"commonName": "plugin", "dns": ["plugin"], "chain": True},
        },
        {
            "name": "edge-tls",
            "namespaces": ["front"],
            "taken": "reload",
            "certificate": {"commonName": "edge", "site": ["hosts.matrix"]},
        },
        {"name": "site-ca", "namespaces": ["data", "front"], "taken": "reload", "ca": True},
        {"name": "password", "namespaces": ["data"], "data": {"password": {"generate": "random"}}},
    ],
    "releases": [],
}
INSIDE = ("data/store-tls", "front/store-tls", "data/plugin-tls")


class Killed(BaseException):
    """The run ends here, as by SIGKILL: nothing catches it."""


class Kept:
    """A cluster that keeps Secrets and one StatefulSet, and every state since somebody last waited for all to be taken.

    `writes_left`: so many patches happen, then the run is killed.
    """

    def __init__(self) -> None:
        self.secrets: dict[tuple[str, str], dict[str, Any]] = {}
        template: dict[str, Any] = {"spec": {"volumes": [{"secret": {"secretName": "store-tls"}}]}}
        self.store: dict[str, Any] = {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "store", "namespace": "data", "generation": 1},
            "spec": {"replicas": 1, "template": template},
            "status": {"observedGeneration": 1, "readyReplicas": 1, "updatedReplicas": 1, "replicas": 1},
        }
        self.writes_left: float = float("inf")
        self.restarts = 0
        self.since_taken: list[dict[str, dict[str, str]]] = []

    def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        if kind == "StatefulSet":
            return self.store
        return self.secrets.get((str(namespace), name))

    def list(
        self, api_version: str, kind: str, namespace: str | None = None, labels: str | None = None
    ) -> list[dict[str, Any]]:
        if kind == "StatefulSet":
            return [self.store] if namespace == "data" else []
        if kind != "Secret":
            return []
        wanted = labels.split("=") if labels else None
        return [
            secret
            for (ns, _), secret in self.secrets.items()
            if ns == namespace and (not wanted or secret["metadata"]["labels"].get(wanted[0]) == wanted[1])
        ]

    def create(self, obj: dict[str, Any]) -> None:
        self.secrets[(obj["metadata"]["namespace"], obj["metadata"]["name"])] = obj

    apply = create

    def patch(
        self, api_version: str, kind: str, name: str, patch: dict[str, Any], namespace: str | None = None
    ) -> None:
        if self.writes_left <= 0:
            raise Killed
        self.writes_left -= 1
        if kind == "StatefulSet":
            self.restarts += 1
            metadata = self.store["spec"]["template"].setdefault("metadata", {}).setdefault("annotations", {})
            metadata.update(patch["spec"]["template"]["metadata"]["annotations"])
            return
        secret = self.secrets[(str(namespace), name)]
        for key, value in patch.get("data", {}).items():
            secret["data"][key] = value
            if value is None:
                del secret["data"][key]
        secret["metadata"].setdefault("annotations", {}).update(patch.get("metadata", {}).get("annotations", {}))
        if authorities.TAKEN in patch.get("metadata", {}).get("annotations", {}):
            self.since_taken = []
        self.since_taken.append(self.texts())

    def texts(self) -> dict[str, dict[str, str]]:
        """`namespace/name` → what each Secret holds of certificates."""
        return {
            f"{ns}/{name}": {
                key: base64.b64decode(value).decode() for key, value in secret["data"].items() if key.endswith(".crt")
            }
            for (ns, name), secret in self.secrets.items()
            if ns in ("data", "front")
        }

    def distrust(self) -> list[str]:
        """Who may meet what he does not trust: everybody may have any state since all was last taken."""
        leaves, trusts = (
            {(place, text[key]) for state in self.since_taken for place, text in state.items() if key in text}
            for key in ("tls.crt", "ca.crt")
        )
        # The other side of the plugin takes its tls.crt for the list of CAs.
        pools = {("the plugin's other side", text) for place, text in leaves if place == "data/plugin-tls"}
        return [
            f"{client} does not trust {server}"
            for (server, leaf), (client, trusted) in [
                *itertools.product(leaves, trusts),
                *itertools.product((one for one in leaves if one[0] == "data/plugin-tls"), pools),
            ]
            if not any(issued_by(leaf, one) for one in pems(trusted))
        ]


def pems(text: str) -> list[str]:
    return [f"{part}-----END CERTIFICATE-----\n" for part in text.split("-----END CERTIFICATE-----\n") if part]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    """A site as an install leaves it. Only the lease is not there."""
    cluster = Kept()
    account = Account(
        1,
        "sha256:0",
        "b",
        "demo",
        state="committed",
        namespaces=["data", "front"],
        site={"apiVersion": "mxbundle.io/v1alpha1", "kind": "Site", "metadata": {"name": "north-1"}, "spec": SPEC},
        stack=STACK,
    )
    cluster.create(document_secret("generation-1", "journal", "journal.json", account.as_json()))
    ensure_secrets(cast(Cluster, cluster), plans(), "north-1")
    cluster.since_taken = [cluster.texts()]

    @contextlib.contextmanager
    def held(operator: Cluster, *_: object, **__: object) -> Iterator[Hold]:
        yield Hold(operator, cast(Any, None), 1, "me")

    monkeypatch.setattr(command, "hold", held)
    monkeypatch.setattr(certificates, "TAKEN_SECONDS", 0.0)
    return cluster


def plans() -> tuple[SecretPlan, ...]:
    return Stack.model_validate(STACK).secrets_at(SPEC)


def of(kept: Kept) -> Cluster:
    return cast(Cluster, kept)


def known(kept: Kept) -> Authorities:
    found = known_authorities(of(kept))
    assert found is not None
    return found


def signers(kept: Kept) -> dict[str, str]:
    """Secret → the name of the CA that signed its certificate."""
    return {
        place: x509.load_pem_x509_certificate(texts["tls.crt"].encode()).issuer.rfc4514_string()
        for place, texts in kept.texts().items()
        if "tls.crt" in texts
    }


def test_the_new_ca_signs_what_processes_show_and_the_old_one_stays_for_people(kept: Kept) -> None:
    old = known(kept).signing
    renewal = renew_authority(of(kept), silent)
    now = known(kept)
    assert (now.old, now.coming) == (old, None)
    assert subject(now.signing.certificate) == f"north-1 site CA {datetime.now(UTC) - timedelta(hours=1):%Y-%m-%d}"
    texts = kept.texts()
    assert all(issued_by(texts[place]["tls.crt"], now.signing.certificate) for place in INSIDE)
    # Nobody's device has the new one yet.
    assert issued_by(texts["front/edge-tls"]["tls.crt"], old.certificate)
    assert {text["ca.crt"] for text in texts.values() if "ca.crt" in text} == {
        now.signing.certificate + old.certificate
    }
    # Whoever takes the other side's tls.crt as what to trust finds both.
    assert pems(texts["data/plugin-tls"]["tls.crt"])[1:] == [now.signing.certificate, old.certificate]
    assert set(renewal.renewed) == set(texts) - {"data/password"}
    # For what it trusts, then for what it shows.
    assert (renewal.restarted, kept.restarts) == (("StatefulSet/store",), 2)
    assert [one.role for one in site_authorities(of(kept))] == ["signs", "old"]


def test_the_old_ca_goes_when_somebody_says_so_and_people_are_shown_the_new_ones(kept: Kept) -> None:
    renew_authority(of(kept), silent)
    forget_old_authority(of(kept), silent)
    now = known(kept)
    assert (now.old, now.coming) == (None, None)
    texts = kept.texts()
    assert all(issued_by(text["tls.crt"], now.signing.certificate) for text in texts.values() if "tls.crt" in text)
    assert {text["ca.crt"] for text in texts.values() if "ca.crt" in text} == {now.signing.certificate}
    assert len(pems(texts["data/plugin-tls"]["tls.crt"])) == 2
    assert set(kept.secrets[("mx-system", "site-authority")]["data"]) == {"ca.crt", "ca.key"}


def test_killed_after_each_single_write_it_is_finished_and_nobody_ever_meets_what_he_does_not_trust(kept: Kept) -> None:
    runs = 0
    for act, done in ((renew_authority, lambda: not renewal_ahead(of(kept))), (forget_old_authority, lambda: False)):
        while not done():
            kept.writes_left = 1
            runs += 1
            assert runs < 100
            assert kept.distrust() == []
            try:
                act(of(kept), silent)
            except Killed:
                continue
            break
    assert runs > 20
    now = known(kept)
    assert (now.old, now.coming) == (None, None)
    assert set(signers(kept).values()) == {f"CN={subject(now.signing.certificate)}"}
    assert {text["ca.crt"] for text in kept.texts().values() if "ca.crt" in text} == {now.signing.certificate}
    assert certificates.due(of(kept), plans()) == []
    assert certificates.behind(of(kept), plans()) == []


def test_the_watch_over_trust_finds_a_ca_that_signs_before_it_is_trusted(kept: Kept) -> None:
    authorities.prepare(of(kept), "north-1")
    authorities.switch(of(kept))
    certificates.renew(of(kept), certificates.due(of(kept), plans()))
    assert "front/site-ca does not trust data/store-tls" in kept.distrust()


def test_each_step_again_changes_nothing_and_so_does_an_install(kept: Kept) -> None:
    for act in (renew_authority, forget_old_authority):
        act(of(kept), silent)
        before = kept.texts(), kept.restarts
        assert certificates.due(of(kept), plans()) == []
        assert certificates.behind(of(kept), plans()) == []
        assert ensure_secrets(of(kept), plans(), "north-1") == []
        kept.writes_left = 0
        if act is renew_authority:
            assert renewal_ahead(of(kept)) == []
        else:
            assert forgetting_ahead(of(kept)) == []
        assert act(of(kept), silent).renewed == ()
        kept.writes_left = float("inf")
        assert before == (kept.texts(), kept.restarts)


def test_an_install_finishes_what_a_killed_run_wrote_and_goes_no_step_further(kept: Kept) -> None:
    old = known(kept).signing
    kept.writes_left = 3
    with pytest.raises(Killed):
        renew_authority(of(kept), silent)
    kept.writes_left = float("inf")
    certificates.renew(of(kept), certificates.due(of(kept), plans()))
    now = known(kept)
    assert (now.signing, now.old) == (old, None)
    assert {text["ca.crt"] for text in kept.texts().values() if "ca.crt" in text} == {now.trusted}
    assert set(signers(kept).values()) == {f"CN={subject(old.certificate)}"}
    assert kept.distrust() == []


def test_a_secret_that_is_made_while_both_are_trusted_trusts_both(kept: Kept) -> None:
    renew_authority(of(kept), silent)
    for place in (("front", "edge-tls"), ("data", "plugin-tls")):
        del kept.secrets[place]
    ensure_secrets(of(kept), plans(), "north-1")
    now, texts = known(kept), kept.texts()
    assert now.old is not None
    assert issued_by(texts["front/edge-tls"]["tls.crt"], now.old.certificate)
    assert issued_by(texts["data/plugin-tls"]["tls.crt"], now.signing.certificate)
    assert certificates.due(of(kept), plans()) == []


def test_all_renewed_by_hand_in_between_leaves_people_with_the_old_ca(kept: Kept) -> None:
    renew_authority(of(kept), silent)
    before = kept.texts()["front/edge-tls"]["tls.crt"]
    renew_certificates(of(kept), silent, everything=True)
    after, old = kept.texts()["front/edge-tls"]["tls.crt"], known(kept).old
    assert old is not None
    assert after != before
    assert issued_by(after, old.certificate)


def test_a_leaf_of_a_ca_that_nobody_trusts_any_more_is_due(kept: Kept) -> None:
    stranger = issue(new_authority("north-1"), "store", ("store",), ("server",))
    for namespace in ("data", "front"):
        data = kept.secrets[(namespace, "store-tls")]["data"]
        for key, text in (("tls.crt", stranger.certificate), ("tls.key", stranger.key)):
            data[key] = base64.b64encode(text.encode()).decode()
    (due,) = certificates.due(of(kept), plans())
    assert str(due) == "data/store-tls, front/store-tls: is not signed by the CA that signs now"


def test_an_old_ca_that_ends_soon_signs_no_more_for_people(kept: Kept) -> None:
    (edge,) = (plan for plan in plans() if plan.name == "edge-tls")
    new = new_authority("north-1")
    for left, signs in ((30, "old"), (5, "new")):
        old = new_authority("north-1", datetime.now(UTC) - timedelta(days=AUTHORITY_DAYS - left))
        assert Authorities(new, old=old).signer(edge) == {"old": old, "new": new}[signs]


def test_what_is_ahead_names_each_step_with_its_secrets_and_restarts_and_changes_nothing(kept: Kept) -> None:
    kept.writes_left = 0
    assert [step.name for step in renewal_ahead(of(kept))] == ["new", "trust", "wait", "issue"]
    _, trust, _, leaves = renewal_ahead(of(kept))
    assert set(trust.secrets) == set(kept.texts()) - {"data/password"}
    assert trust.restarts == leaves.restarts == ("StatefulSet/store",)
    assert set(leaves.secrets) == set(INSIDE)
    kept.writes_left = float("inf")
    renew_authority(of(kept), silent)
    ahead = {step.name: step for step in forgetting_ahead(of(kept))}
    assert list(ahead) == ["people", "wait", "forget"]
    assert ahead["people"].secrets == ("front/edge-tls",)
    assert ahead["forget"].restarts == ("StatefulSet/store",)


def told(kept: Kept, monkeypatch: pytest.MonkeyPatch, *words: str, answer: str = "") -> tuple[int, str]:
    """What `mxinstall certificates …` exits with and prints."""
    monkeypatch.setattr(Cluster, "connect", lambda *_: kept)
    done = CliRunner().invoke(group, ["certificates", *words], input=answer)
    return done.exit_code, done.stdout


def test_the_command_says_what_to_hand_out_and_asks_before_the_old_one_goes(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text = told(kept, monkeypatch, "renew", "--ca", "--plain")
    assert code == 0
    now = known(kept)
    assert now.old is not None
    assert f"CA {subject(now.signing.certificate)}: signs; ends " in text
    assert f"CA north-1 site CA: is trusted until it is forgotten; ends {expiry(now.old.certificate):%Y-%m-%d}" in text
    assert "mxinstall certificates ca > site-ca.crt" in text
    code, text = told(kept, monkeypatch, "ca")
    assert (code, text.count("BEGIN CERTIFICATE"), "PRIVATE" in text) == (0, 2, False)
    # A comment between two certificates is no part of either.
    handed = [one.public_bytes(Encoding.PEM).decode() for one in x509.load_pem_x509_certificates(text.encode())]
    assert handed == [now.signing.certificate, now.old.certificate]
    before = kept.texts()
    assert told(kept, monkeypatch, "forget-old-ca", "--plain", answer="n\n")[0] != 0
    assert kept.texts() == before
    code, text = told(kept, monkeypatch, "forget-old-ca", "--plain", answer="y\n")
    assert (code, known(kept).old) == (0, None)
    assert "is trusted until" not in text


def test_a_dry_run_and_a_wrong_combination_change_nothing(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.writes_left = 0
    code, text = told(kept, monkeypatch, "renew", "--ca", "--dry-run")
    assert code == 0
    assert "restart: StatefulSet/store" in text
    assert text.endswith("nothing was changed\n")
    code, text = told(kept, monkeypatch, "renew", "store-tls", "--dry-run")
    assert (code, "write: data/store-tls, front/store-tls" in text) == (0, True)
    assert told(kept, monkeypatch, "renew", "--dry-run") == (0, "nothing is due\n")
    assert told(kept, monkeypatch, "forget-old-ca", "--dry-run") == (0, "there is no old CA\n")
    assert told(kept, monkeypatch, "renew", "--ca", "--all")[0] == 2


def test_the_old_ca_is_not_forgotten_while_the_new_one_does_not_sign(kept: Kept) -> None:
    kept.writes_left = 1
    with pytest.raises(Killed):
        renew_authority(of(kept), silent)
    kept.writes_left = float("inf")
    with pytest.raises(AuthorityNotReplaced, match="the new one does not sign yet"):
        forget_old_authority(of(kept), silent)

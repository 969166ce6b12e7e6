"""The site's CAs in their Secret: the one that signs, and beside it the one that follows or the one that signed before.

Which CAs everybody trusts follows from it, so that a change of CA that was killed anywhere can be gone on with by
whoever reads it. Not here: making certificates (`authority`), which Secrets hold them (`secrets`).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from mxinstall.cluster import Cluster, Object
from mxinstall.deploy.authority import KeyPair, expiry, issued_by, new_authority
from mxinstall.deploy.names import NAMESPACE, labels
from sitebundle.errors import ClusterRefused
from sitebundle.stack import SecretPlan

AUTHORITY = "site-authority"
"""The Secret in `mx-system` that holds the CAs' keys; it is in no other namespace."""
COMING, OLD = "coming", "old"
"""Of the keys `coming.crt`, `coming.key`, `old.crt` and `old.key`; `ca.crt` and `ca.key` are of the one that signs."""
TAKEN = "mxbundle.io/taken"
"""On the Secret: what all certificates were when everybody had last been given the time to take them."""

Role = Literal["signs", "coming", "old"]

_OLD_SIGNS = timedelta(days=7)
"""So long before it ends, the old CA does not sign for people's devices any more: nothing is lost with it then."""


@dataclass(frozen=True)
class Authorities:
    """The site's CAs with their keys. `coming` is trusted and does not sign yet; `old` is trusted still.

    `people` overrides who signs what people's devices see.
    """

    signing: KeyPair
    coming: KeyPair | None = None
    old: KeyPair | None = None
    people: KeyPair | None = None

    @property
    def roles(self) -> tuple[tuple[Role, KeyPair], ...]:
        """All of them, the newest first."""
        named: tuple[tuple[Role, KeyPair | None], ...] = (
            ("coming", self.coming),
            ("signs", self.signing),
            ("old", self.old),
        )
        return tuple((role, pair) for role, pair in named if pair is not None)

    @property
    def trusted(self) -> str:
        """What a `ca.crt` holds: their certificates, PEM, the newest first. The same before and after the switch."""
        return "".join(pair.certificate for _, pair in self.roles)

    @property
    def moved(self) -> Authorities:
        """The same, with the one that signs signing for people's devices too."""
        return replace(self, people=self.signing)

    def signer(self, plan: SecretPlan, now: datetime | None = None) -> KeyPair:
        """Who signs this certificate.

        What bears names of site.yaml is seen by people's devices: as long as the old CA is trusted, they may have no
        other, so it signs that.
        """
        if self.old is None or not for_people(plan):
            return self.signing
        if self.people is not None:
            return self.people
        return self.old if expiry(self.old.certificate) - (now or datetime.now(UTC)) > _OLD_SIGNS else self.signing

    def accepts(self, plan: SecretPlan, certificate: str, now: datetime | None = None) -> bool:
        """Whether the certificate may stay, as far as who signed it goes."""
        return any(issued_by(certificate, pair.certificate) for pair in {self.signing, self.signer(plan, now)})


def for_people(plan: SecretPlan) -> bool:
    """Whether people's devices see this certificate: it is for names that site.yaml gives."""
    return plan.certificate is not None and bool(plan.certificate.site)


def known_authorities(cluster: Cluster) -> Authorities | None:
    """The site's CAs; None before the first install. Reads only."""
    known = cluster.get("v1", "Secret", AUTHORITY, NAMESPACE)
    return None if known is None else _read(known)


def ensure_authorities(cluster: Cluster, site: str) -> Authorities:
    """The site's CAs; the first install makes one."""
    known = cluster.get("v1", "Secret", AUTHORITY, NAMESPACE)
    if known is None:
        secret: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": AUTHORITY, "namespace": NAMESPACE, "labels": labels("authority")},
            "type": "mxbundle.io/authority",
            "data": _data("ca", new_authority(site)),
        }
        try:
            cluster.create(secret)
        except ClusterRefused as refusal:
            if refusal.status != 409:
                raise
        known = cluster.get("v1", "Secret", AUTHORITY, NAMESPACE) or secret
    return _read(known)


def prepare(cluster: Cluster, site: str) -> None:
    """Make the CA that is to follow, beside the one that signs. There is none, and no old one."""
    _change(cluster, _data(COMING, new_authority(site, dated=True)))


def switch(cluster: Cluster) -> None:
    """From now on the one that was to follow signs; the one before is kept as the old one. One write, or none."""
    known = known_authorities(cluster)
    assert known is not None, "there is a CA"
    assert known.coming is not None, "there is one to follow it"
    data = {**_data("ca", known.coming), **_data(OLD, known.signing), **_data(COMING, None)}
    _change(cluster, data)


def forget_old(cluster: Cluster) -> None:
    """Destroy the old CA's key; nobody is to trust it any more."""
    _change(cluster, _data(OLD, None))


def taken(cluster: Cluster) -> str:
    """What `note_taken` wrote last; empty if nothing. Reads only."""
    known = cluster.get("v1", "Secret", AUTHORITY, NAMESPACE) or {}
    return str(((known.get("metadata") or {}).get("annotations") or {}).get(TAKEN, ""))


def note_taken(cluster: Cluster, what: str) -> None:
    """Write that everybody had the time to take certificates whose fingerprint is `what`."""
    cluster.patch("v1", "Secret", AUTHORITY, {"metadata": {"annotations": {TAKEN: what}}}, NAMESPACE)


def _change(cluster: Cluster, data: Mapping[str, str | None]) -> None:
    cluster.patch("v1", "Secret", AUTHORITY, {"data": dict(data)}, NAMESPACE)


def _read(secret: Object) -> Authorities:
    signing = _pair(secret, "ca")
    assert signing is not None, "the site's CA has a certificate and a key"
    return Authorities(signing, _pair(secret, COMING), _pair(secret, OLD))


def _pair(secret: Object, role: str) -> KeyPair | None:
    data = secret.get("data") or {}
    if f"{role}.crt" not in data:
        return None
    return KeyPair(*(base64.b64decode(data[f"{role}.{part}"]).decode() for part in ("crt", "key")))


def _data(role: str, pair: KeyPair | None) -> dict[str, str | None]:
    """As a Secret's data; with None the keys go."""
    texts = {f"{role}.crt": pair.certificate, f"{role}.key": pair.key} if pair else {}
    encoded = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
    return {key: encoded.get(key) for key in (f"{role}.crt", f"{role}.key")}

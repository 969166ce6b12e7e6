"""What ends at a site, and when: certificates and CAs in the cluster, those that servers show, the builders' keys.

Each with who renews it. Reads only. Not here: renewing (`mxinstall.certificates`), making (`deploy.authority`).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from mxinstall.cluster import Cluster, Object
from mxinstall.deploy.authorities import AUTHORITY
from mxinstall.deploy.authority import expiry
from mxinstall.deploy.journal import Account
from mxinstall.deploy.names import NAMESPACE
from mxinstall.deploy.secrets import copies_of_given
from mxinstall.installed import site_of
from mxinstall.kubeconfig import Access
from mxinstall.site import Site
from mxinstall.trust import store_path
from sitebundle.errors import TrustStoreInvalid
from sitebundle.signature import AllowedSigners
from sitebundle.stack import Stack

Kind = Literal["certificate", "ca", "key"]
Level = Literal["ok", "soon", "ended"]

SOON_DAYS: Mapping[Kind, int] = {"certificate": 30, "ca": 180, "key": 30}
"""From when on something ends soon. A new CA has to be with everybody before the old one ends: that takes longer."""
OVERDUE_DAYS = 5
"""What an operator of the cluster renews by itself is late only then: CloudNativePG does it 7 days before."""

SITE_CA = f"{NAMESPACE}/{AUTHORITY}"
"""The `name` of the site's own CA. All of the system's certificates end with it, whatever they say themselves."""

_SITE_CA_RENEWED = {
    "ca.crt": "you, with `certificates renew --ca`; people's devices need the new one before this one ends",
    "coming.crt": "nobody yet: it does not sign. `certificates renew --ca` was not finished; run it again",
    "old.crt": "nobody: another one signs. When people's devices have that: `certificates forget-old-ca`",
}
"""Key of the Secret of the site's CAs → who renews it. The one that signs is called by the Secret's name alone."""

_ADMINISTRATOR = "the administrator of the cluster"
_SHOWN_SECONDS = 3.0
"""For all servers together and all of a question: a socket's own timeout begins anew with each address of a name, and
does not count while names are resolved.
"""
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class Expiry:
    """One thing that ends. `name`: `namespace/secret` of a certificate, else where it was seen first, in words.

    `places` are all of them: a CA is told once, however many Secrets have it.
    """

    name: str
    ends: datetime
    kind: Kind
    renewed_by: str
    places: tuple[str, ...]
    soon_days: int

    def level(self, now: datetime | None = None) -> Level:
        """Whether it has ended, or ends so soon that somebody has to look after it."""
        left = self.ends - (now or datetime.now(UTC))
        return "ended" if left.total_seconds() <= 0 else "soon" if left.days < self.soon_days else "ok"

    def as_json(self, now: datetime | None = None) -> dict[str, Any]:
        """It as plain values."""
        moment = now or datetime.now(UTC)
        return {
            "secret": self.name,
            "kind": self.kind,
            "ends": self.ends.isoformat(),
            "days": (self.ends - moment).days,
            "level": self.level(moment),
            "renewed_by": self.renewed_by,
            "places": list(self.places),
        }


@dataclass(frozen=True)
class Expiries:
    """What ends, and in words what could not be looked at and is not held against the system (`notes`)."""

    found: tuple[Expiry, ...]
    notes: tuple[str, ...] = ()


def sources(cluster: Cluster, account: Account) -> dict[str, Callable[[], list[Expiry]]]:
    """Where something that ends may be outside this host, in words, and how it is looked at. Each may raise MxError."""
    return {
        "the certificates in the cluster": partial(in_cluster, cluster, account),
        "the certificates that servers show": lambda: shown_to(cluster, site_of(account)),
    }


def every_expiry(cluster: Cluster, account: Account) -> Expiries:
    """All of it, soonest first. Raises MxError for the first thing outside this host that cannot be looked at."""
    host = of_this_host(account)
    found = [entry for look in sources(cluster, account).values() for entry in look()]
    return replace(host, found=tuple(soonest_first([*found, *host.found])))


def of_this_host(account: Account) -> Expiries:
    """What files of this host tell. One that cannot be read is a note: the system runs all the same, and the host from
    which somebody looks need not be the one that installed it.
    """
    path = ((account.site.get("spec") or {}).get("registry") or {}).get("ca")
    found: list[Expiry] = []
    notes: list[str] = []
    if path:
        try:
            found += _registry_ca(path)
        except (OSError, ValueError) as fault:
            why = getattr(fault, "strerror", None) or fault
            notes.append(f"{path}, the CA of the registry (spec.registry.ca), cannot be read on this host: {why}")
    try:
        found += trusted_keys(store_path())
    except TrustStoreInvalid as fault:
        notes.append(f"the builders' keys: {fault.message}")
    return Expiries(tuple(found), tuple(notes))


def soonest_first(entries: Iterable[Expiry]) -> list[Expiry]:
    """In the order in which somebody has to care."""
    return sorted(entries, key=lambda entry: (entry.ends, entry.name))


def expiry_lines(entries: Iterable[Expiry], now: datetime | None = None) -> list[str]:
    """For people: a line each, what needs somebody marked in front."""
    moment = now or datetime.now(UTC)
    marks = {"ok": "", "soon": "SOON", "ended": "ENDED"}
    return [
        f"{marks[entry.level(moment)]:<5} {entry.ends:%Y-%m-%d}  in {(entry.ends - moment).days:>5} days  "
        f"{entry.name}{_elsewhere(entry)}; renewed by {entry.renewed_by}"
        for entry in entries
    ]


def in_cluster(cluster: Cluster, account: Account) -> list[Expiry]:
    """Of every Secret and ConfigMap in the system's namespaces, whatever its type, and of the kubeconfig in use."""
    renewers = _Renewers.of(account)
    authorities = _Authorities()
    found = _of_kubeconfig(cluster.access, authorities)
    namespaces = [NAMESPACE, *sorted({*account.namespaces} - {NAMESPACE})]
    secrets = [secret for namespace in namespaces for secret in cluster.list("v1", "Secret", namespace)]
    # The CA's own Secret first: it is what all copies are copies of.
    for secret in sorted(secrets, key=lambda one: one["metadata"]["name"] != AUTHORITY):
        place = f"{secret['metadata']['namespace']}/{secret['metadata']['name']}"
        by, days = renewers(secret)
        for key, value in sorted((secret.get("data") or {}).items()):
            texts = _certificates(base64.b64decode(value or "").decode(errors="replace"))
            if key == "tls.crt" and texts:
                found.append(
                    Expiry(place, expiry(texts[0]), "certificate", by, (place,), days or SOON_DAYS["certificate"])
                )
                texts = texts[1:]
            if place == SITE_CA:
                by = _SITE_CA_RENEWED.get(key, by)
            authorities.add(texts, place if (place, key) == (SITE_CA, "ca.crt") else f"{place} {key}", by, days)
    for namespace in namespaces:
        for config in cluster.list("v1", "ConfigMap", namespace):
            for key, value in sorted((config.get("data") or {}).items()):
                place = f"ConfigMap {namespace}/{config['metadata']['name']} {key}"
                authorities.add(_certificates(str(value)), place, *renewers(config))
    return [*found, *authorities.found]


def shown_to(cluster: Cluster, site: Site) -> list[Expiry]:
    """What the API server, a registry and a backup store with TLS show to this host, whoever signed it.

    Whoever shows none within 3 seconds is left out: whether it is there is told elsewhere.
    """
    registry, store = site.spec.registry, site.spec.backups.s3
    asked = {_address(cluster.server): _ADMINISTRATOR} if cluster.server.startswith("https:") else {}
    if registry.scheme == "https":
        asked[registry.push] = "whoever runs the registry"
    if store and store.endpoint.startswith("https:"):
        asked[_address(store.endpoint)] = "whoever runs the backup store"
    ends = _shown_ends(asked)
    found = []
    for address, renewed_by in asked.items():
        if address in ends:
            name = f"shown by {address}"
            found.append(Expiry(name, ends[address], "certificate", renewed_by, (name,), SOON_DAYS["certificate"]))
    return found


def _shown_ends(addresses: Iterable[str]) -> dict[str, datetime]:
    """When the certificates end that servers (`HOST:PORT`) show; all are asked at once."""
    ends: dict[str, datetime] = {}

    def ask(address: str) -> None:
        host, _, port = address.rpartition(":")
        # OverflowError: a port that there is not.
        with contextlib.suppress(OSError, ValueError, OverflowError):
            text = ssl.get_server_certificate((host.strip("[]"), int(port)), timeout=_SHOWN_SECONDS)
            ends[address] = expiry(text)

    # Daemons: nothing ends a resolver that waits for a name server, and the program must not wait for it at its end.
    asking = [threading.Thread(target=ask, args=(address,), daemon=True) for address in addresses]
    deadline = time.monotonic() + _SHOWN_SECONDS
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(ends)


def trusted_keys(store: Path) -> list[Expiry]:
    """Of the builders' keys that this host trusts for a time only. Raises TrustStoreInvalid."""
    found = []
    for signer in AllowedSigners.read(store).signers:
        if signer.valid_before is not None:
            name, by = f"key {signer.key.fingerprint} in {store}", "its builder; then `mxinstall trust add`"
            ends = signer.valid_before.astimezone(UTC)
            found.append(Expiry(name, ends, "key", by, (str(store),), SOON_DAYS["key"]))
    return found


class _Authorities:
    """CAs by fingerprint: the first place names one, and says who renews it."""

    def __init__(self) -> None:
        self._known: dict[str, Expiry] = {}

    def add(self, texts: Iterable[str], place: str, renewed_by: str, days: int | None = None) -> None:
        """Note that `place` has the certificates `texts`."""
        for text in texts:
            fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(text)).hexdigest()
            known = self._known.get(fingerprint)
            if known is None:
                known = Expiry(place, expiry(text), "ca", renewed_by, (), days or SOON_DAYS["ca"])
            if place not in known.places:
                known = replace(known, places=(*known.places, place))
            self._known[fingerprint] = known

    @property
    def found(self) -> list[Expiry]:
        """Each once."""
        return list(self._known.values())


@dataclass(frozen=True)
class _Renewers:
    """Says of a Secret or ConfigMap who renews what it holds, and days before the end by which that was to happen."""

    ours: Collection[str]
    given: Mapping[str, str]

    @classmethod
    def of(cls, account: Account) -> _Renewers:
        stack, spec = Stack.model_validate(account.stack), account.site.get("spec") or {}
        ours = {f"{ns}/{plan.name}" for plan in stack.secrets if plan.certificate for ns in plan.namespaces}
        given: dict[str, str] = {}
        for copies in copies_of_given(stack.given_secrets, spec):
            given |= {f"{ns}/{copies.name}": copies.name for ns in (NAMESPACE, *copies.namespaces)}
        return cls(ours, given)

    def __call__(self, holder: Object) -> tuple[str, int | None]:
        metadata = holder["metadata"]
        place, name = f"{metadata['namespace']}/{metadata['name']}", metadata["name"]
        if holder["kind"] == "ConfigMap":
            return (_ADMINISTRATOR if name == "kube-root-ca.crt" else _owner(metadata) or "whoever wrote it"), None
        if place in self.ours:
            return f"mxinstall, with any install or `certificates renew {name}`", None
        if place in self.given:
            return f"you, in Secret {NAMESPACE}/{self.given[place]}; the next install copies it", None
        if owner := _owner(metadata):
            return f"{owner}, by itself", OVERDUE_DAYS
        return "whoever wrote it", None


def _owner(metadata: Mapping[str, Any]) -> str:
    owners = metadata.get("ownerReferences") or []
    return f"{owners[0]['kind']} {owners[0]['name']}" if owners else ""


def _of_kubeconfig(access: Access, authorities: _Authorities) -> list[Expiry]:
    authorities.add(_certificates(access.ca or ""), "the kubeconfig's CA", _ADMINISTRATOR)
    name = "the kubeconfig's client certificate"
    return [
        Expiry(name, expiry(text), "certificate", _ADMINISTRATOR, (name,), SOON_DAYS["certificate"])
        for text in _certificates(access.certificate or "")[:1]
    ]


def _registry_ca(path: str) -> list[Expiry]:
    """Of the file that site.yaml names. Raises OSError, ValueError."""
    texts = _certificates(Path(path).read_text(encoding="utf-8"))
    if not texts:
        raise ValueError("there is no certificate in it")
    authorities = _Authorities()
    authorities.add(texts, f"file {path}", "whoever runs the registry")
    return authorities.found


def _certificates(text: str) -> Sequence[str]:
    """The certificates of a PEM text that can be read, in its order."""
    return [found for found in _PEM.findall(text) if _readable(found)]


def _readable(text: str) -> bool:
    try:
        return bool(expiry(text))
    except ValueError:
        return False


def _elsewhere(entry: Expiry) -> str:
    others = len(entry.places) - 1
    return f" and {others} places more" if others > 0 else ""


def _address(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"[{host}]:{parts.port or 443}" if ":" in host else f"{host}:{parts.port or 443}"

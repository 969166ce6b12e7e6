"""The site's secrets: made once by the system's generator, never overwritten, the same in every namespace.

Plain objects, owned by no release. Not here: what uses them (charts name them), how certificates are made (authority).
"""

from __future__ import annotations

import base64
import secrets as system
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mxinstall.cluster import Cluster, Object
from mxinstall.deploy.authorities import Authorities, ensure_authorities
from mxinstall.deploy.authority import issue
from mxinstall.deploy.names import NAMESPACE, labels
from sitebundle.errors import ClusterRefused, SiteInvalid
from sitebundle.stack import Generated, GivenSecret, SecretPlan


def missing(cluster: Cluster, plans: Iterable[SecretPlan]) -> list[str]:
    """Which Secrets (`namespace/name`) do not exist, or lack a key that the stack wants. Reads only."""
    found = []
    for plan in plans:
        for namespace in plan.namespaces:
            secret = cluster.get("v1", "Secret", plan.name, namespace)
            if secret is None or set(_keys(plan)) - set(secret.get("data") or {}):
                found.append(f"{namespace}/{plan.name}")
    return found


def ensure_secrets(cluster: Cluster, plans: Iterable[SecretPlan], site: str) -> list[str]:
    """Make what is missing, in every namespace that needs it; what exists stays. Returns `namespace/name` of the new.

    The namespaces exist already. Two namespaces of one plan get the same values, also when a run was ended between.
    """
    authorities = ensure_authorities(cluster, site)
    made = []
    for plan in plans:
        existing = {ns: cluster.get("v1", "Secret", plan.name, ns) for ns in plan.namespaces}
        values: dict[str, str] = {}
        for secret in existing.values():
            values = {**((secret or {}).get("data") or {}), **values}
        if set(_keys(plan)) - set(values):
            fresh = fresh_values(plan, authorities)
            # A certificate and its key belong together: never one old and one new.
            values = fresh if plan.certificate else {**fresh, **values}
        for namespace, secret in existing.items():
            if secret is None:
                cluster_made = _create(cluster, plan, namespace, values)
                made += [f"{namespace}/{plan.name}"] if cluster_made else []
            elif lacking := [key for key in _keys(plan) if key not in (secret.get("data") or {})]:
                keys = _keys(plan) if plan.certificate else lacking
                cluster.patch("v1", "Secret", plan.name, {"data": {key: values[key] for key in keys}}, namespace)
                made.append(f"{namespace}/{plan.name}")
    return made


@dataclass(frozen=True)
class Copies:
    """A Secret of the operator's in `mx-system`, and where it is copied to. `field`: where site.yaml names it."""

    name: str
    field: str
    namespaces: tuple[str, ...]
    keys: tuple[str, ...] = ()
    labels: Mapping[str, str] = dataclass_field(default_factory=dict)


def copies_of_given(plans: Iterable[GivenSecret], spec: Mapping[str, Any]) -> list[Copies]:
    """The Secrets that this site (`spec` of site.yaml) names, as the stack wants them copied."""
    found = []
    for plan in plans:
        name: Any = spec
        for part in plan.site.split("."):
            name = name.get(part) if isinstance(name, Mapping) else None
        if name is not None:
            found.append(Copies(str(name), f"spec.{plan.site}", plan.namespaces, plan.keys, plan.labels))
    return found


def pull_secret_copies(name: str, namespaces: Iterable[str]) -> Copies:
    """The registry's pull secret, which every namespace needs."""
    return Copies(name, "spec.registry.pullSecret", tuple(namespaces))


def copy_gaps(cluster: Cluster, copies: Copies) -> list[str]:
    """Where (`namespace/name`) a Secret is not what `mx-system` has. Reads only.

    Raises SiteInvalid when `mx-system` has none: that is where the operator puts it, and from where it is copied.
    """
    source = _source(cluster, copies)
    found = []
    for namespace in copies.namespaces:
        there = cluster.get("v1", "Secret", copies.name, namespace) if namespace != NAMESPACE else source
        if there is None or there.get("data") != source.get("data"):
            found.append(f"{namespace}/{copies.name}")
    return found


def spread(cluster: Cluster, copies: Copies) -> None:
    """Write the Secret into each namespace, also when it was renewed. Raises SiteInvalid."""
    source = _source(cluster, copies)
    for namespace in copies.namespaces:
        if namespace != NAMESPACE:
            marked = {**labels("copy"), **copies.labels}
            metadata = {"name": copies.name, "namespace": namespace, "labels": marked}
            copy = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": source["type"]}
            cluster.apply({**copy, "data": source["data"]})


def _source(cluster: Cluster, copies: Copies) -> Object:
    source = cluster.get("v1", "Secret", copies.name, NAMESPACE)
    told = f"{copies.field} is {copies.name}, but"
    if source is None:
        detail = f"{told} there is no Secret {NAMESPACE}/{copies.name} to take it from"
        raise SiteInvalid(path="site.yaml", detail=detail)
    if lacking := [key for key in copies.keys if key not in (source.get("data") or {})]:
        detail = f"{told} the Secret {NAMESPACE}/{copies.name} has no key {lacking[0]}"
        raise SiteInvalid(path="site.yaml", detail=detail)
    return source


def generated_value(plan: Generated) -> str:
    """A fresh value of one key."""
    if plan.generate == "random":
        return system.token_urlsafe(plan.bytes)
    if plan.generate == "synapse-signing-key":
        return synapse_signing_key()
    return plan.value or ""


def synapse_signing_key() -> str:
    """An Ed25519 key as Synapse reads it: algorithm, version, unpadded base64 of the 32-byte seed.

    Source: matrix-org/python-signedjson, `signedjson/key.py` (read_signing_keys).
    """
    seed = Ed25519PrivateKey.generate().private_bytes_raw()
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    version = "a_" + "".join(system.choice(letters) for _ in range(4))
    return f"ed25519 {version} {base64.b64encode(seed).decode().rstrip('=')}\n"


def _keys(plan: SecretPlan) -> tuple[str, ...]:
    if plan.certificate:
        return ("tls.crt", "tls.key", "ca.crt")
    return ("ca.crt",) if plan.ca else tuple(plan.data)


def fresh_values(plan: SecretPlan, authorities: Authorities) -> dict[str, str]:
    """New values of every key of a Secret, in base64 as the API has them."""
    if plan.certificate:
        wanted = plan.certificate
        pair = issue(authorities.signer(plan), wanted.common_name, wanted.dns, wanted.usages)
        return {**trusting(plan, authorities, pair.certificate), "tls.key": _encoded(pair.key)}
    if plan.ca:
        return trusting(plan, authorities)
    return {key: _encoded(generated_value(value)) for key, value in plan.data.items()}


def trusting(plan: SecretPlan, authorities: Authorities, leaf: str = "") -> dict[str, str]:
    """The certificates that a Secret holds, in base64: those of the CAs, and `leaf` (PEM) where it has its own."""
    texts = {"ca.crt": authorities.trusted}
    if plan.certificate:
        texts["tls.crt"] = leaf + (authorities.trusted if plan.certificate.chain else "")
    return {key: _encoded(text) for key, text in texts.items()}


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _create(cluster: Cluster, plan: SecretPlan, namespace: str, values: dict[str, str]) -> bool:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": plan.name, "namespace": namespace, "labels": {**labels("secret"), **plan.labels}},
        "type": plan.type,
        "data": {key: values[key] for key in _keys(plan)},
    }
    return _kept(cluster, secret)


def _kept(cluster: Cluster, secret: Object) -> bool:
    """Create; on a conflict keep what is there."""
    try:
        cluster.create(secret)
    except ClusterRefused as refusal:
        if refusal.status != 409:
            raise
        return False
    return True

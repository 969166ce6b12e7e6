"""Renewing the certificates of the site's secrets, and seeing to it that whoever uses one takes the new one.

A renewed Secret carries the fingerprint of what it holds; a workload that must be restarted for it carries the
fingerprint that its pods have. So a run that was killed in between is finished by the next.
Not here: making certificates (`authority`), which CAs there are (`authorities`), what else a Secret holds (`secrets`).
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any

from mxinstall.cluster import Cluster, Object
from mxinstall.deploy.authorities import Authorities, known_authorities, note_taken, taken
from mxinstall.deploy.authority import expiry, first_of, names
from mxinstall.deploy.ready import Patience, workload_obstacle
from mxinstall.deploy.rollout import in_waves
from mxinstall.deploy.secrets import fresh_values, trusting
from sitebundle.errors import ClusterRefused, ClusterUnreachable, ReleaseNotReady
from sitebundle.events import Note, Sink, Step
from sitebundle.stack import SecretPlan

RENEW_DAYS = 30
"""An ordinary run renews what ends within this many days, and nothing else."""
RENEWED = "mxbundle.io/renewed"
"""On a renewed Secret: its certificates' fingerprint. On a pod template, with the Secret's name: what its pods have."""
TAKEN_SECONDS = 120.0
"""After so long everybody has taken what he takes by himself. A kubelet looks at a pod's Secrets every 60 s, and up to
half of that later (`syncFrequency` and its jitter); the edge looks at its files every 5 s. CloudNativePG's pods read
their Secrets from the API server when those change.
"""

_KINDS = ("StatefulSet", "Deployment", "DaemonSet")
_WAIT_SECONDS = 900.0
"""For the first pod of each workload of a wave; `Patience` adds what the others need."""
_POLL_SECONDS = 1.5


@dataclass(frozen=True)
class Due:
    """A Secret whose certificates are to be written, and why. `keeps`: its own one stays, others in it change."""

    plan: SecretPlan
    reason: str
    keeps: bool = False

    def __str__(self) -> str:
        return f"{', '.join(f'{ns}/{self.plan.name}' for ns in self.plan.namespaces)}: {self.reason}"


@dataclass(frozen=True)
class Behind:
    """A workload whose pods still have a certificate of before. `fingerprints`: Secret → what they should have."""

    live: Object
    fingerprints: Mapping[str, str]

    def __str__(self) -> str:
        metadata = self.live["metadata"]
        name = f"{self.live['kind']}/{metadata['namespace']}/{metadata['name']}"
        return f"{name} has not taken the renewed {', '.join(sorted(self.fingerprints))}"


def due(
    cluster: Cluster,
    plans: Iterable[SecretPlan],
    *,
    forced: Collection[str] = (),
    within_days: int = RENEW_DAYS,
    now: datetime | None = None,
    authorities: Authorities | None = None,
) -> list[Due]:
    """The certificates named in `forced`, those that end within `within_days`, those that lack a name that site.yaml
    gives, those that a CA signed that does not sign any more, those that are unlike in two namespaces, and the Secrets
    with other CAs than the site's. `plans` are the site's, every name written out.

    One that would end no later than it does now, because the CA ends then, is not renewed for its age. Reads only.
    """
    known, moment, found = authorities or known_authorities(cluster), now or datetime.now(UTC), []
    if known is None:
        return []
    for plan in plans:
        if not (plan.certificate or plan.ca):
            continue
        secrets = [cluster.get("v1", "Secret", plan.name, ns) for ns in plan.namespaces]
        if not secrets or not _has(plan, secrets[0]):
            continue  # It is missing, and will be made.
        held = [_texts(secret) for secret in secrets if _has(plan, secret)]
        if plan.name in forced:
            found.append(Due(plan, "asked for"))
        elif reason := _leaf_reason(plan, held[0], known, within_days, moment):
            found.append(Due(plan, reason))
        elif any(texts != held[0] for texts in held):
            found.append(Due(plan, "a renewal was not finished in each of its namespaces", keeps=True))
        elif {**held[0], **_trusting(plan, held[0], known)} != held[0]:
            found.append(Due(plan, "it has other CAs than the site", keeps=True))
    return found


def _leaf_reason(
    plan: SecretPlan, held: Mapping[str, str], known: Authorities, within_days: int, moment: datetime
) -> str:
    """Why a Secret's own certificate cannot stay; empty when it can, and when it has none."""
    if plan.certificate is None:
        return ""
    leaf = base64.b64decode(held["tls.crt"]).decode()
    ends = expiry(leaf)
    later = expiry(known.signer(plan, moment).certificate) - ends > timedelta(days=1)
    if later and ends - moment < timedelta(days=within_days):
        return f"ends {ends:%Y-%m-%d}"
    if lacking := sorted(set(plan.certificate.dns) - names(leaf)):
        return f"is not for {', '.join(lacking)}"
    return "" if known.accepts(plan, leaf, moment) else "is not signed by the CA that signs now"


def renew(cluster: Cluster, entries: Iterable[Due], authorities: Authorities | None = None) -> list[str]:
    """Write new certificates (or finish writing one), the first namespace of each before the others; `ns/name` of all.

    Whoever finds two namespaces unlike can so tell which one is the newer.
    """
    known, written = authorities or known_authorities(cluster), []
    assert known is not None, "what is due was signed by an authority"
    for entry in entries:
        plan = entry.plan
        if entry.keeps:
            held = _texts(cluster.get("v1", "Secret", plan.name, plan.namespaces[0]))
            values = {**held, **_trusting(plan, held, known)}
        else:
            values = fresh_values(plan, known)
        mark = fingerprint(values)
        for namespace in plan.namespaces:
            secret = cluster.get("v1", "Secret", plan.name, namespace)
            if secret is not None and (_texts(secret) != values or _mark_of(secret) != mark):
                change = {"metadata": {"annotations": {RENEWED: mark}}, "data": values}
                cluster.patch("v1", "Secret", plan.name, change, namespace)
                written.append(f"{namespace}/{plan.name}")
    return written


def behind(cluster: Cluster, plans: Iterable[SecretPlan]) -> list[Behind]:
    """The workloads that mount a renewed certificate, need a restart to take it, and had none yet. Reads only."""
    wanted: dict[str, dict[str, str]] = {}
    for plan in plans:
        for namespace in plan.namespaces if _by_restart(plan) else ():
            if mark := _mark_of(cluster.get("v1", "Secret", plan.name, namespace)):
                wanted.setdefault(namespace, {})[plan.name] = mark
    found = []
    for namespace, marks in sorted(wanted.items()):
        for live, used in _mounting(cluster, namespace):
            has = (live["spec"]["template"].get("metadata") or {}).get("annotations") or {}
            lacking = {name: mark for name, mark in marks.items() if name in used and has.get(_key(name)) != mark}
            if lacking:
                found.append(Behind(live, lacking))
    return found


def restarted_for(cluster: Cluster, plans: Iterable[SecretPlan]) -> list[Object]:
    """The workloads that would be restarted if every one of these were renewed, in their order. Reads only."""
    wanted: dict[str, set[str]] = {}
    for plan in plans:
        for namespace in plan.namespaces if _by_restart(plan) else ():
            wanted.setdefault(namespace, set()).add(plan.name)
    found = [
        live
        for namespace, names in sorted(wanted.items())
        for live, used in _mounting(cluster, namespace)
        if names & used
    ]
    return [live for wave in in_waves(found) for live in wave]


def _by_restart(plan: SecretPlan) -> bool:
    return (plan.certificate is not None or plan.ca) and plan.taken == "restart"


def _mounting(cluster: Cluster, namespace: str) -> Iterator[tuple[Object, set[str]]]:
    """Every workload of a namespace with the names of the Secrets that its pods use."""
    for kind in _KINDS:
        for live in cluster.list("apps/v1", kind, namespace):
            yield live, secrets_of(live["spec"]["template"]["spec"])


def restart(cluster: Cluster, entries: Iterable[Behind], sink: Sink, stage: str, stop: Event | None = None) -> None:
    """Replace the pods of those that are behind, wave after wave, each awaited. Raises ReleaseNotReady."""
    listed = list(entries)
    marks = {_identity(entry.live): entry.fingerprints for entry in listed}
    for wave in in_waves(entry.live for entry in listed):
        began = time.monotonic()
        for live in wave:
            annotations = {_key(name): mark for name, mark in marks[_identity(live)].items()}
            change = {"spec": {"template": {"metadata": {"annotations": annotations}}}}
            metadata = live["metadata"]
            cluster.patch("apps/v1", live["kind"], metadata["name"], change, metadata["namespace"])
        _await(cluster, wave, stop or Event())
        for live in wave:
            sink(Step(stage, live["metadata"]["name"], "ok", "restarted", time.monotonic() - began))


def await_taken(cluster: Cluster, plans: Iterable[SecretPlan], sink: Sink, stage: str) -> None:
    """Wait until everybody has taken the certificates that there are now. Raises ReleaseNotReady.

    Who was restarted for them runs; who takes them by himself, and never says so, has had `TAKEN_SECONDS`. What was
    waited for is written down: a run after this one need not wait again.
    """
    listed = list(plans)
    written = _all_of_them(cluster, listed)
    if taken(cluster) == written:
        return
    began = time.monotonic()
    _await(cluster, restarted_for(cluster, listed), Event())
    sink(Note("info", f"waiting {TAKEN_SECONDS:.0f} s until every node has brought its pods the certificates"))
    time.sleep(TAKEN_SECONDS)
    note_taken(cluster, written)
    sink(Step(stage, "taken", "ok", "whoever reads its certificates by itself had the time", time.monotonic() - began))


def _all_of_them(cluster: Cluster, plans: Iterable[SecretPlan]) -> str:
    total = hashlib.sha256()
    for plan in sorted((plan for plan in plans if plan.certificate or plan.ca), key=lambda plan: plan.name):
        for namespace in plan.namespaces:
            held = _texts(cluster.get("v1", "Secret", plan.name, namespace))
            total.update(f"{namespace}/{plan.name} {fingerprint(held)}\n".encode())
    return total.hexdigest()[:16]


def fingerprint(values: Mapping[str, str]) -> str:
    """A short name of the certificates in a Secret's data (base64, as the API has it); its key goes with them."""
    texts = (values.get(key, "") for key in ("tls.crt", "ca.crt"))
    return hashlib.sha256("|".join(texts).encode()).hexdigest()[:16]


def secrets_of(pod_spec: Mapping[str, Any]) -> set[str]:
    """The names of the Secrets that a pod mounts or reads into its environment."""
    found = set()
    for volume in pod_spec.get("volumes") or []:
        found.add((volume.get("secret") or {}).get("secretName"))
        for source in (volume.get("projected") or {}).get("sources") or []:
            found.add((source.get("secret") or {}).get("name"))
    for container in [*(pod_spec.get("initContainers") or []), *(pod_spec.get("containers") or [])]:
        for variable in container.get("env") or []:
            found.add(((variable.get("valueFrom") or {}).get("secretKeyRef") or {}).get("name"))
        for source in container.get("envFrom") or []:
            found.add((source.get("secretRef") or {}).get("name"))
    return {str(name) for name in found if name}


def _await(cluster: Cluster, wave: Iterable[Object], stop: Event) -> None:
    waiting = list(wave)
    patience = Patience(cluster, _WAIT_SECONDS, waiting)
    said = ""
    while waiting:
        try:
            obstacles = [(live, _obstacle(cluster, live)) for live in waiting]
        except (ClusterUnreachable, ClusterRefused) as fault:
            obstacles = [(live, fault.message) for live in waiting]
        waiting = [live for live, obstacle in obstacles if obstacle]
        said = next((obstacle for _, obstacle in obstacles if obstacle), "")
        if waiting and (stop.is_set() or patience.ended()):
            names = ", ".join(sorted({live["metadata"]["name"] for live in waiting}))
            raise ReleaseNotReady(release=names, seconds=round(patience.waited_seconds()), detail=said)
        if waiting:
            stop.wait(_POLL_SECONDS)


def _obstacle(cluster: Cluster, live: Object) -> str:
    metadata = live["metadata"]
    found = cluster.get("apps/v1", live["kind"], metadata["name"], metadata["namespace"])
    if found is None:
        return ""
    if found["kind"] == "DaemonSet":
        status = found.get("status") or {}
        wanted = status.get("desiredNumberScheduled", 0)
        if status.get("observedGeneration", 0) < found["metadata"]["generation"]:
            return f"daemonset {metadata['name']}: its change was not looked at yet"
        done = min(status.get("updatedNumberScheduled", 0), status.get("numberAvailable", 0))
        return "" if done >= wanted else f"daemonset {metadata['name']}: {done} of {wanted} restarted"
    return workload_obstacle(found, "all")


def _has(plan: SecretPlan, secret: Object | None) -> bool:
    data = (secret or {}).get("data") or {}
    return {"tls.crt", "tls.key"} <= set(data) if plan.certificate else "ca.crt" in data


def _mark_of(secret: Object | None) -> str:
    return str(((secret or {}).get("metadata", {}).get("annotations") or {}).get(RENEWED) or "")


def _texts(secret: Object | None) -> dict[str, str]:
    """What of a Secret's data is made from the site's CA, as the API has it."""
    data = (secret or {}).get("data") or {}
    return {key: str(data[key]) for key in ("tls.crt", "tls.key", "ca.crt") if key in data}


def _trusting(plan: SecretPlan, held: Mapping[str, str], known: Authorities) -> dict[str, str]:
    """The CAs as a Secret should hold them, beside the certificate of its own that it has."""
    if plan.certificate is None or not plan.certificate.chain:
        return {"ca.crt": trusting(plan, known)["ca.crt"]}
    return trusting(plan, known, first_of(base64.b64decode(held["tls.crt"]).decode()))


def _key(secret: str) -> str:
    """An annotation's name may have 63 characters after the slash."""
    return f"{RENEWED}.{secret}"[: len("mxbundle.io/") + 63]


def _identity(live: Object) -> tuple[str, str, str]:
    return (live["kind"], live["metadata"]["namespace"], live["metadata"]["name"])

"""Renewing the certificates of the site's secrets, and seeing to it that whoever uses one takes the new one.

A renewed Secret carries the new certificate's fingerprint; a workload that must be restarted for it carries the
fingerprint that its pods have. So a run that was killed in between is finished by the next.
Not here: making certificates (`authority`), what else a Secret holds (`secrets`).
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any

from mxinstall.cluster import Cluster, Object
from mxinstall.deploy.authority import expiry, names
from mxinstall.deploy.ready import Patience, workload_obstacle
from mxinstall.deploy.rollout import in_waves
from mxinstall.deploy.secrets import fresh_values, known_authority
from sitebundle.errors import ClusterRefused, ClusterUnreachable, ReleaseNotReady
from sitebundle.events import Sink, Step
from sitebundle.stack import SecretPlan

RENEW_DAYS = 30
"""An ordinary run renews what ends within this many days, and nothing else."""
RENEWED = "mxbundle.io/renewed"
"""On a renewed Secret: its certificate's fingerprint. On a pod template, with the Secret's name: what its pods have."""

_KINDS = ("StatefulSet", "Deployment", "DaemonSet")
_WAIT_SECONDS = 900.0
"""For the first pod of each workload of a wave; `Patience` adds what the others need."""
_POLL_SECONDS = 1.5


@dataclass(frozen=True)
class Due:
    """A certificate that is to be renewed, and why."""

    plan: SecretPlan
    reason: str

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
) -> list[Due]:
    """The certificates named in `forced`, those that end within `within_days`, those that lack a name that site.yaml
    gives, and those that are unlike in two namespaces. `plans` are the site's, every name written out.

    One that would end no later than it does now, because the CA ends then, is not renewed for its age. Reads only.
    """
    authority, moment, found = known_authority(cluster), now or datetime.now(UTC), []
    if authority is None:
        return []
    for plan in plans:
        if plan.certificate is None:
            continue
        texts = [_certificate(cluster.get("v1", "Secret", plan.name, ns)) for ns in plan.namespaces]
        first = texts[0] if texts else None
        if first is None:
            continue  # It is missing, and will be made.
        ends = expiry(first)
        later = expiry(authority.certificate) - ends > timedelta(days=1)
        if plan.name in forced:
            found.append(Due(plan, "asked for"))
        elif later and ends - moment < timedelta(days=within_days):
            found.append(Due(plan, f"ends {ends:%Y-%m-%d}"))
        elif lacking := sorted(set(plan.certificate.dns) - names(first)):
            found.append(Due(plan, f"is not for {', '.join(lacking)}"))
        elif any(text is not None and text != first for text in texts):
            found.append(Due(plan, _UNLIKE))
    return found


_UNLIKE = "a renewal was not finished in each of its namespaces"


def renew(cluster: Cluster, entries: Iterable[Due]) -> list[str]:
    """Write new certificates (or finish writing one), the first namespace of each before the others; `ns/name` of all.

    Whoever finds two namespaces unlike can so tell which one is the newer.
    """
    authority, written = known_authority(cluster), []
    assert authority is not None, "what is due was signed by an authority"
    for entry in entries:
        plan = entry.plan
        values = _values_of(cluster, plan) if entry.reason == _UNLIKE else fresh_values(plan, authority)
        mark = {"metadata": {"annotations": {RENEWED: fingerprint(values["tls.crt"])}}}
        for namespace in plan.namespaces:
            if cluster.get("v1", "Secret", plan.name, namespace) is not None:
                cluster.patch("v1", "Secret", plan.name, {**mark, "data": values}, namespace)
                written.append(f"{namespace}/{plan.name}")
    return written


def behind(cluster: Cluster, plans: Iterable[SecretPlan]) -> list[Behind]:
    """The workloads that mount a renewed certificate, need a restart to take it, and had none yet. Reads only."""
    wanted: dict[str, dict[str, str]] = {}
    for plan in plans:
        if plan.certificate is None or plan.taken == "reload":
            continue
        for namespace in plan.namespaces:
            secret = cluster.get("v1", "Secret", plan.name, namespace)
            mark = ((secret or {}).get("metadata", {}).get("annotations") or {}).get(RENEWED)
            if mark:
                wanted.setdefault(namespace, {})[plan.name] = str(mark)
    found = []
    for namespace, marks in sorted(wanted.items()):
        for kind in _KINDS:
            for live in cluster.list("apps/v1", kind, namespace):
                template = live["spec"]["template"]
                has = (template.get("metadata") or {}).get("annotations") or {}
                used = secrets_of(template["spec"])
                lacking = {name: mark for name, mark in marks.items() if name in used and has.get(_key(name)) != mark}
                if lacking:
                    found.append(Behind(live, lacking))
    return found


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


def fingerprint(certificate: str) -> str:
    """A short name of a certificate (base64 of its PEM text, as a Secret holds it)."""
    return hashlib.sha256(base64.b64decode(certificate)).hexdigest()[:16]


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


def _values_of(cluster: Cluster, plan: SecretPlan) -> dict[str, str]:
    data = (cluster.get("v1", "Secret", plan.name, plan.namespaces[0]) or {}).get("data") or {}
    return {key: str(data[key]) for key in ("tls.crt", "tls.key", "ca.crt")}


def _certificate(secret: Object | None) -> str | None:
    data = (secret or {}).get("data") or {}
    return base64.b64decode(data["tls.crt"]).decode() if "tls.crt" in data and "tls.key" in data else None


def _key(secret: str) -> str:
    """An annotation's name may have 63 characters after the slash."""
    return f"{RENEWED}.{secret}"[: len("mxbundle.io/") + 63]


def _identity(live: Object) -> tuple[str, str, str]:
    return (live["kind"], live["metadata"]["namespace"], live["metadata"]["name"])

"""Which members of a replicated part are missing, by name: PostgreSQL's instances, every workload's pods. Reads only.

Not here: whether a release counts as ready (`ready`), which node took them away (`nodes`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mxinstall.cluster import Cluster, Object

_CNPG = "postgresql.cnpg.io/v1"


@dataclass(frozen=True)
class Members:
    """A part with fewer members than it should have. `missing` are names; `note` says what else is to be known.

    `majority`: whether more than half of the wanted ones are there; without it, what votes cannot decide.
    """

    part: str
    wanted: int
    ready: int
    missing: tuple[str, ...]
    note: str = ""

    @property
    def majority(self) -> bool:
        """Whether more than half are there."""
        return self.ready > self.wanted // 2

    def as_json(self) -> dict[str, Any]:
        """The part as plain values."""
        return {
            "part": self.part,
            "wanted": self.wanted,
            "ready": self.ready,
            "missing": list(self.missing),
            "majority": self.majority,
            "note": self.note,
        }

    def __str__(self) -> str:
        lacking = f"missing {', '.join(self.missing)}" if self.missing else ""
        quorum = "" if self.majority else "NO MAJORITY"
        return ", ".join(
            filter(None, (f"{self.part}: {self.ready} of {self.wanted} members", lacking, quorum, self.note))
        )


def degraded(cluster: Cluster, namespaces: Iterable[str], pods: Iterable[Object]) -> list[Members]:
    """Every part of `namespaces` that lacks a member; `pods` are all of the pods there."""
    by_name = {(pod["metadata"]["namespace"], pod["metadata"]["name"]): pod for pod in pods}
    found = []
    for namespace in namespaces:
        found += [of_postgres(obj) for obj in cluster.list(_CNPG, "Cluster", namespace)]
        for kind in ("StatefulSet", "Deployment"):
            found += [of_workload(obj, by_name) for obj in cluster.list("apps/v1", kind, namespace)]
    return [members for members in found if members.ready < members.wanted]


def of_postgres(obj: Mapping[str, Any]) -> Members:
    """The members of a CloudNativePG Cluster, by what its operator says of each instance."""
    status, wanted = obj.get("status") or {}, int(obj["spec"].get("instances", 1))
    known = [str(name) for name in status.get("instanceNames") or []]
    healthy = {str(name) for name in (status.get("instancesStatus") or {}).get("healthy") or []}
    missing = [name for name in known if name not in healthy]
    not_made = wanted - len(known)
    notes = [f"primary {status['currentPrimary']}"] if status.get("currentPrimary") else ["no primary"]
    if not_made > 0:
        notes.append(f"{not_made} not made yet")
    if status.get("targetPrimary") not in (None, status.get("currentPrimary")):
        notes.append(f"changing to {status['targetPrimary']}")
    part = f"postgresql {obj['metadata']['namespace']}/{obj['metadata']['name']}"
    return Members(part, wanted, min(len(healthy), wanted), tuple(sorted(missing)), ", ".join(notes))


def of_workload(obj: Mapping[str, Any], pods: Mapping[tuple[str, str], Object]) -> Members:
    """The members of a StatefulSet, whose pods have names of their own, or of a Deployment, where numbers count."""
    metadata, wanted = obj["metadata"], int(obj["spec"].get("replicas", 1))
    part = f"{obj['kind'].lower()} {metadata['namespace']}/{metadata['name']}"
    if obj["kind"] == "Deployment":
        return Members(part, wanted, int((obj.get("status") or {}).get("readyReplicas", 0)), ())
    first = int((obj["spec"].get("ordinals") or {}).get("start", 0))
    names = [f"{metadata['name']}-{ordinal}" for ordinal in range(first, first + wanted)]
    missing = [name for name in names if not _is_ready(pods.get((metadata["namespace"], name)))]
    return Members(part, wanted, wanted - len(missing), tuple(missing))


def _is_ready(pod: Object | None) -> bool:
    conditions = ((pod or {}).get("status") or {}).get("conditions") or []
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)

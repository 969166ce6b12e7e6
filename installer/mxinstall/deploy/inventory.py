"""What was put on the cluster, per release: the objects with their uids, and the hash of what was rendered.

Pruning, drift and "nothing to do" are decided from it. Not here: applying or deleting anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from mxinstall.cluster import Cluster, Object
from mxinstall.deploy.names import NAMESPACE, document_of, document_secret
from sitebundle.errors import ClusterRefused, ClusterUnreachable, JournalUnwritable

_KEY = "inventory.json"
_PART = "inventory"


@dataclass(frozen=True, order=True)
class Deployed:
    """One object of a release; `uid` is what the API server gave it."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str = ""

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """Group, kind, namespace and name: the same object whatever version or uid."""
        return (self.api_version.rpartition("/")[0], self.kind, self.namespace, self.name)

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}" if self.namespace else f"{self.kind}/{self.name}"


@dataclass(frozen=True)
class ReleaseRecord:
    """One release as it was last put on the cluster. `references`: every image it names."""

    release: str
    namespace: str
    source: str
    generation: int
    rendered_hash: str
    objects: tuple[Deployed, ...]
    references: tuple[str, ...]

    @property
    def is_chart(self) -> bool:
        """Whether helm keeps it."""
        return self.source == "chart"

    @property
    def finished(self) -> bool:
        """Whether its apply came to an end."""
        return self.rendered_hash != UNFINISHED


UNFINISHED = "unfinished"
"""The rendered hash of a release whose apply was begun and not ended: it never equals a real one."""


def rendered_hash(objects: Iterable[Object]) -> str:
    """One hash over rendered objects, whatever their order."""
    texts = sorted(json.dumps(obj, sort_keys=True, separators=(",", ":")) for obj in objects)
    return "sha256:" + hashlib.sha256("\n".join(texts).encode()).hexdigest()


def deployed(obj: Object, uid: str = "") -> Deployed:
    """The inventory's entry for an object."""
    metadata = obj["metadata"]
    return Deployed(obj["apiVersion"], obj["kind"], metadata.get("namespace") or "", metadata["name"], uid)


def read_inventory(cluster: Cluster) -> dict[str, ReleaseRecord]:
    """Every release that this site has, by name. Raises JournalUnwritable for an unreadable record."""
    secrets = cluster.list("v1", "Secret", NAMESPACE, labels=f"mxbundle.io/part={_PART}")
    records = [_record(secret) for secret in secrets]
    return {record.release: record for record in sorted(records, key=lambda record: record.release)}


def write_record(cluster: Cluster, record: ReleaseRecord) -> None:
    """Keep a release's record. Raises JournalUnwritable."""
    try:
        cluster.apply(document_secret(f"inventory-{record.release}", _PART, _KEY, asdict(record)))
    except (ClusterRefused, ClusterUnreachable) as fault:
        raise JournalUnwritable(detail=fault.message) from fault


def forget_record(cluster: Cluster, release: str) -> None:
    """Drop the record of a release that is gone."""
    cluster.delete("v1", "Secret", f"inventory-{release}", NAMESPACE)


def _record(secret: dict[str, Any]) -> ReleaseRecord:
    try:
        document = document_of(secret, _KEY)
        objects = tuple(Deployed(**entry) for entry in document["objects"])
        return ReleaseRecord(**{**document, "objects": objects, "references": tuple(document["references"])})
    except (KeyError, TypeError, ValueError) as fault:
        raise JournalUnwritable(detail=f"{secret['metadata']['name']} is not an inventory: {fault}") from fault

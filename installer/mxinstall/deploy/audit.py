"""Does every container run what the lock says? Pure over pods and digests; reading the pods is one list per namespace.

Both sides are compared: what the pod asks for (spec.image) and what the runtime says it runs (imageID), of
containers, init containers and ephemeral ones, completed too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mxinstall.cluster import Cluster, Object
from sitebundle.errors import AuditFailed
from sitebundle.manifest import BundleManifest

_HEX = re.compile(r"([0-9a-f]{64})$")
_KINDS = (
    ("containers", "containerStatuses"),
    ("initContainers", "initContainerStatuses"),
    ("ephemeralContainers", "ephemeralContainerStatuses"),
)

_LEFT_OVER = "; the pod has ended: if it is of an earlier generation, delete it"

Locked = Mapping[str, tuple[str, ...]]
"""Per upstream reference, the digests that mean it: index (or manifest), platform manifests, configs."""


@dataclass(frozen=True)
class Audited:
    """One container. `problem` is empty when it runs what it should."""

    namespace: str
    pod: str
    container: str
    image: str
    image_id: str
    reference: str
    problem: str

    @property
    def name(self) -> str:
        """`namespace/pod/container`."""
        return f"{self.namespace}/{self.pod}/{self.container}"


@dataclass(frozen=True)
class AuditReport:
    """Every container of the stack."""

    containers: tuple[Audited, ...]

    @property
    def running(self) -> int:
        """How many containers were looked at."""
        return len(self.containers)

    @property
    def mismatched(self) -> tuple[Audited, ...]:
        """Those with a problem."""
        return tuple(entry for entry in self.containers if entry.problem)

    @property
    def matched(self) -> int:
        """How many run what the lock says."""
        return self.running - len(self.mismatched)

    @property
    def passed(self) -> bool:
        """Whether all match; nothing at all is no pass."""
        return self.running > 0 and not self.mismatched

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "running": self.running,
            "matched": self.matched,
            "mismatched": len(self.mismatched),
            "containers": [asdict(entry) for entry in self.containers],
        }

    def check(self) -> None:
        """Raise AuditFailed, naming each, unless all match."""
        if not self.passed:
            named = [f"{entry.name} ({entry.problem})" for entry in self.mismatched]
            raise AuditFailed(
                mismatched=len(named), running=self.running, names="; ".join(named) or "no container was found at all"
            )


def locked_digests(manifest: BundleManifest) -> dict[str, tuple[str, ...]]:
    """What the bundle's manifest says about each image."""
    return {
        image.reference: tuple(
            dict.fromkeys([image.digest, *(d for entry in image.carried for d in (entry.digest, entry.config))])
        )
        for image in manifest.images
    }


def audit(cluster: Cluster, namespaces: Iterable[str], locked: Locked) -> AuditReport:
    """Compare every container of `namespaces` with the lock."""
    return AuditReport(
        tuple(entry for ns in sorted(set(namespaces)) for entry in audit_pods(cluster.list("v1", "Pod", ns), locked))
    )


def audit_pods(pods: Iterable[Object], locked: Locked) -> Iterator[Audited]:
    """Judge each container of `pods`."""
    for pod in pods:
        for spec_key, status_key in _KINDS:
            statuses = {entry["name"]: entry for entry in (pod.get("status") or {}).get(status_key) or []}
            for container in pod["spec"].get(spec_key) or []:
                image_id = str((statuses.get(container["name"]) or {}).get("imageID") or "")
                reference, problem = _judge(str(container.get("image") or ""), image_id, _ended(pod), locked)
                metadata = pod["metadata"]
                yield Audited(
                    metadata["namespace"],
                    metadata["name"],
                    container["name"],
                    str(container.get("image") or ""),
                    image_id,
                    reference,
                    problem,
                )


def _judge(image: str, image_id: str, ended: bool, locked: Locked) -> tuple[str, str]:
    asked = _digest(image)
    if asked is None:
        return "", f"asks for {image} without a digest"
    reference = next((name for name, digests in locked.items() if asked in digests), None)
    if reference is None:
        return "", f"asks for {image}, which is not in the lock" + (_LEFT_OVER if ended else "")
    if not image_id:
        # An evicted pod has no statuses any more; a pending one has none yet.
        return reference, "" if ended else "has not started"
    runs = _digest(image_id)
    if runs not in locked[reference]:
        return reference, f"runs {image_id}, not {reference}"
    return reference, ""


def _ended(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")


def _digest(text: str) -> str | None:
    match = _HEX.search(text)
    return f"sha256:{match[1]}" if match else None

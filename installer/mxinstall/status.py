"""What runs at a site, since when, and what expires: read from the cluster and this host alone, without a bundle.

Changes nothing. A failed audit is told, not raised: `status` is what one looks at when things are wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mxinstall.cluster import Cluster
from mxinstall.deploy.audit import AuditReport, audit
from mxinstall.deploy.fencing import current_holder
from mxinstall.deploy.inventory import ReleaseRecord, read_inventory
from mxinstall.deploy.journal import Account, read_accounts
from mxinstall.deploy.ready import on_record, pod_trouble, unmet
from mxinstall.deploy.secrets import Expiry, expiries
from mxinstall.helm_release import revisions
from sitebundle.stack import Stack

if TYPE_CHECKING:
    from mxinstall.registry import ServiceStatus
    from mxinstall.site import Site


@dataclass(frozen=True)
class ReleaseStatus:
    """A release: what is on record, helm's revision (0 for a published manifest), what keeps it from being ready."""

    name: str
    namespace: str
    generation: int
    objects: int
    revision: int
    finished: bool
    obstacles: tuple[str, ...]


@dataclass(frozen=True)
class PodStatus:
    """A pod of the stack; `trouble` is empty when it is ready or has done its work."""

    namespace: str
    name: str
    node: str
    restarts: int
    trouble: str


@dataclass(frozen=True)
class Status:
    """All of it. `account` is the newest generation; None: nothing was ever installed here."""

    account: Account | None
    holder: tuple[str, float] | None
    releases: tuple[ReleaseStatus, ...] = ()
    pods: tuple[PodStatus, ...] = ()
    certificates: tuple[Expiry, ...] = ()
    audit: AuditReport | None = None
    registry: ServiceStatus | None = None

    @property
    def healthy(self) -> bool:
        """Whether everything is as it should be."""
        return (
            self.account is not None
            and self.account.state == "committed"
            and all(release.finished and not release.obstacles for release in self.releases)
            and not any(pod.trouble for pod in self.pods)
            and self.audit is not None
            and self.audit.passed
            and (self.registry is None or self.registry.answers)
        )

    def as_json(self) -> dict[str, Any]:
        """The status as plain values."""
        account = self.account
        return {
            "healthy": self.healthy,
            "generation": account.generation if account else None,
            "bundle": account.bundle if account else None,
            "manifest": account.manifest_digest if account else None,
            "state": account.state if account else "not-installed",
            "committed_at": account.committed_at if account else None,
            "holder": self.holder[0] if self.holder else None,
            "releases": [vars(release) | {"obstacles": list(release.obstacles)} for release in self.releases],
            "pods": [vars(pod) for pod in self.pods],
            "certificates": [
                {"secret": f"{entry.namespace}/{entry.secret}", "ends": entry.ends.isoformat()}
                for entry in self.certificates
            ],
            "audit": self.audit.as_json() if self.audit else None,
            "registry": vars(self.registry) if self.registry else None,
        }


def read_status(cluster: Cluster) -> Status:
    """Look at everything once. Raises ClusterUnreachable, JournalUnwritable for records that cannot be read."""
    accounts = read_accounts(cluster)
    holder = current_holder(cluster)
    if not accounts:
        return Status(None, holder)
    account = accounts[-1]
    stack = Stack.model_validate(account.stack)
    inventory = read_inventory(cluster)
    namespaces = sorted({*account.namespaces})
    return Status(
        account=account,
        holder=holder,
        releases=tuple(_release(cluster, stack, record) for record in inventory.values()),
        pods=tuple(_pod(pod) for namespace in namespaces for pod in cluster.list("v1", "Pod", namespace)),
        certificates=tuple(expiries(cluster, stack.secrets)),
        audit=audit(cluster, namespaces, {name: tuple(digests) for name, digests in account.images.items()}),
        registry=_registry(account.site),
    )


def status_text(status: Status, now: datetime | None = None) -> str:
    """The status for people."""
    account = status.account
    if account is None:
        return "nothing is installed at this cluster"
    since = (
        datetime.fromtimestamp(account.committed_at, UTC).strftime("%Y-%m-%d %H:%M UTC") if account.committed_at else ""
    )
    state = f"installed {since}" if account.state == "committed" else "not finished: run mxinstall again to go on"
    lines = [f"generation {account.generation} of {account.bundle}, {state}"]
    if status.holder:
        lines.append(f"held by {status.holder[0]}, renewed {status.holder[1]:.0f} s ago")
    for release in status.releases:
        verdict = "ready" if release.finished and not release.obstacles else "NOT READY"
        why = "; ".join(release.obstacles) or ("" if release.finished else "its apply was not finished")
        revision = f"revision {release.revision}, " if release.revision else ""
        lines.append(f"  {release.name:<12} {verdict:<10} {revision}{release.objects} objects {why}".rstrip())
    troubled = [pod for pod in status.pods if pod.trouble]
    lines.append(f"pods: {len(status.pods)}, {len(troubled)} in trouble")
    lines += [f"  {pod.namespace}/{pod.name} on {pod.node or 'no node'}: {pod.trouble}" for pod in troubled]
    if status.audit:
        lines.append(f"audit: {status.audit.matched} of {status.audit.running} containers run what the lock says")
        lines += [f"  {entry.name}: {entry.problem}" for entry in status.audit.mismatched]
    if status.registry:
        verdict = "answers" if status.registry.answers else "DOES NOT ANSWER"
        lines.append(f"registry {status.registry.address}: {verdict}, restarted {status.registry.restarts} times")
    moment = now or datetime.now(UTC)
    lines += [
        f"certificate {entry.namespace}/{entry.secret} ends {entry.ends:%Y-%m-%d}, in {(entry.ends - moment).days} days"
        for entry in status.certificates
    ]
    return "\n".join(lines)


def _release(cluster: Cluster, stack: Stack, record: ReleaseRecord) -> ReleaseStatus:
    known = next((release for release in stack.releases if release.name == record.release), None)
    obstacles: list[str] = ["the stack knows no such release any more"]
    if known is not None:
        obstacles = unmet(cluster, on_record(known, record))
    newest = revisions(cluster, record.release, record.namespace)[-1:] if record.is_chart else []
    return ReleaseStatus(
        name=record.release,
        namespace=record.namespace,
        generation=record.generation,
        objects=len(record.objects),
        revision=newest[0].number if newest else 0,
        finished=record.finished,
        obstacles=tuple(obstacles),
    )


def _pod(pod: Mapping[str, Any]) -> PodStatus:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return PodStatus(
        namespace=pod["metadata"]["namespace"],
        name=pod["metadata"]["name"],
        node=pod["spec"].get("nodeName") or "",
        restarts=sum(entry.get("restartCount", 0) for entry in statuses),
        trouble=pod_trouble(dict(pod), lambda container: f"see kubectl logs of {container}"),
    )


def _registry(site_mapping: Mapping[str, Any]) -> ServiceStatus | None:
    from mxinstall.registry import plan_for, status
    from mxinstall.site import Site as SiteModel

    site: Site = SiteModel.model_validate(site_mapping)
    return status(plan_for(site)) if site.spec.registry.mode == "host" else None

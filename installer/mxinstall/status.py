"""What runs at a site, since when, and what expires: read from the cluster and this host alone, without a bundle.

Changes nothing. What cannot be looked at is told, not raised, and nothing is waited for long: `status` is what one
looks at when things are wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from mxinstall.cluster import Cluster, Object
from mxinstall.deploy.audit import AuditReport, audit
from mxinstall.deploy.fencing import current_holder
from mxinstall.deploy.inventory import ReleaseRecord, read_inventory
from mxinstall.deploy.journal import Account, read_accounts
from mxinstall.deploy.members import Members, degraded
from mxinstall.deploy.nodes import LostNode, lost_nodes
from mxinstall.deploy.ready import on_record, pod_trouble, unmet
from mxinstall.deploy.rollout import left_behind
from mxinstall.expiries import SITE_CA, Expiry, expiry_lines, of_this_host, soonest_first, sources
from mxinstall.helm_release import revisions
from mxinstall.installed import site_of
from sitebundle.errors import ClusterRefused, ClusterUnreachable, MxError
from sitebundle.stack import Release, Stack
from sitebundle.version import program_version

if TYPE_CHECKING:
    from mxinstall.registry import ServiceStatus
    from mxinstall.site import Site

PATIENCE_SECONDS = 4.0
"""How long `status` waits for an API server that does not answer."""
ANSWER_SECONDS = 10.0
T = TypeVar("T")


@dataclass(frozen=True)
class ReleaseStatus:
    """A release: what is on record, helm's revision (0 for a published manifest), what keeps it from being ready.

    `images` are what it names, by upstream's name and tag.
    """

    name: str
    namespace: str
    generation: int
    objects: int
    revision: int
    finished: bool
    obstacles: tuple[str, ...]
    images: tuple[str, ...] = ()


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
    """All of it. `account` is the newest generation; None: nothing was ever installed here, or nobody answers.

    `away` says what could not be looked at, and why; `notes` what of it is no fault of the system's.
    """

    account: Account | None
    holder: tuple[str, float] | None
    releases: tuple[ReleaseStatus, ...] = ()
    pods: tuple[PodStatus, ...] = ()
    certificates: tuple[Expiry, ...] = ()
    audit: AuditReport | None = None
    registry: ServiceStatus | None = None
    kubernetes: str = ""
    nodes: tuple[LostNode, ...] = ()
    degraded: tuple[Members, ...] = ()
    away: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

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
            and not self.nodes
            and not self.degraded
            and not self.away
            and not self.ended()
        )

    def ended(self, now: datetime | None = None) -> list[Expiry]:
        """What has ended and is missed: certificates and the site's CA. Another CA, or a key, may be left over."""
        return [
            entry
            for entry in self.certificates
            if (entry.kind == "certificate" or entry.name == SITE_CA) and entry.level(now) == "ended"
        ]

    def as_json(self) -> dict[str, Any]:
        """The status as plain values."""
        account = self.account
        return {
            "healthy": self.healthy,
            "generation": account.generation if account else None,
            "bundle": account.bundle if account else None,
            "manifest": account.manifest_digest if account else None,
            "state": account.state if account else "unknown" if self.away else "not-installed",
            "committed_at": account.committed_at if account else None,
            "holder": self.holder[0] if self.holder else None,
            "kubernetes": self.kubernetes,
            "mxinstall": program_version(),
            "away": list(self.away),
            "notes": list(self.notes),
            "nodes": [node.as_json() for node in self.nodes],
            "degraded": [members.as_json() for members in self.degraded],
            "releases": [
                vars(release) | {"obstacles": list(release.obstacles), "images": list(release.images)}
                for release in self.releases
            ],
            "pods": [vars(pod) for pod in self.pods],
            "certificates": [entry.as_json() for entry in self.certificates],
            "ended": [entry.name for entry in self.ended()],
            "audit": self.audit.as_json() if self.audit else None,
            "registry": vars(self.registry) if self.registry else None,
        }


def read_status(cluster: Cluster) -> Status:
    """Look at everything once; what does not answer is in `away`. Use a cluster with PATIENCE_SECONDS."""
    look = _Looking()
    accounts = look("the journal", lambda: read_accounts(cluster), list[Account]())
    holder = look("who holds the site", lambda: current_holder(cluster), None)
    kubernetes = look("Kubernetes' version", cluster.version, "")
    nodes = tuple(look("the nodes", lambda: lost_nodes(cluster), list[LostNode]()))
    if not accounts:
        registry = look("the registry", _registry_of_this_host, None) if look.away else None
        return Status(None, holder, kubernetes=kubernetes, nodes=nodes, registry=registry, away=tuple(look.away))
    account = accounts[-1]
    stack = Stack.model_validate(account.stack)
    namespaces = sorted({*account.namespaces})
    inventory = look("the inventory", lambda: read_inventory(cluster), dict[str, ReleaseRecord]())
    pods = look("the pods", lambda: [pod for ns in namespaces for pod in cluster.list("v1", "Pod", ns)], list[Object]())
    releases = [look(name, partial(_release, cluster, stack, record), None) for name, record in inventory.items()]
    ends = look("what ends", lambda: sources(cluster, account), dict[str, Callable[[], list[Expiry]]]())
    host = of_this_host(account)
    locked = {name: tuple(digests) for name, digests in account.images.items()}
    return Status(
        account=account,
        holder=holder,
        releases=tuple(release for release in releases if release is not None),
        pods=tuple(_pod(pod) for pod in pods),
        certificates=tuple(
            soonest_first(
                [*host.found, *(entry for what, read in ends.items() for entry in look(what, read, list[Expiry]()))]
            )
        ),
        audit=look("the containers", lambda: audit(cluster, namespaces, locked), None),
        registry=look("the registry", lambda: _registry(site_of(account)), None),
        kubernetes=kubernetes,
        nodes=nodes,
        degraded=tuple(look("the members", lambda: degraded(cluster, namespaces, pods), list[Members]())),
        away=tuple(look.away),
        notes=host.notes,
    )


@dataclass
class _Looking:
    """Looks at one thing after another. Once the API server did not answer, nothing more is asked of it."""

    away: list[str] = field(default_factory=list)
    _gone: bool = False

    def __call__(self, what: str, look: Callable[[], T], instead: T) -> T:
        if self._gone and what != "the registry":
            return instead
        try:
            return look()
        except ClusterUnreachable as fault:
            self._gone = True
            self.away.append(fault.message)
        except MxError as fault:
            self.away.append(f"{what}: {fault.message}")
        return instead


def status_text(status: Status, now: datetime | None = None) -> str:
    """The status for people."""
    account = status.account
    if account is None and not status.away:
        return "nothing is installed at this cluster"
    away = [f"AWAY: {text}" for text in status.away]
    if account is None:
        return "\n".join([*away, *_registry_text(status)])
    since = (
        datetime.fromtimestamp(account.committed_at, UTC).strftime("%Y-%m-%d %H:%M UTC") if account.committed_at else ""
    )
    state = f"installed {since}" if account.state == "committed" else "not finished: run mxinstall again to go on"
    where = f" on Kubernetes {status.kubernetes}" if status.kubernetes else ""
    lines = [f"generation {account.generation} of {account.bundle}, {state}{where}", *away]
    lines += [
        f"ENDED: {entry.name} on {entry.ends:%Y-%m-%d}; renewed by {entry.renewed_by}" for entry in status.ended(now)
    ]
    if status.holder:
        lines.append(f"held by {status.holder[0]}, renewed {status.holder[1]:.0f} s ago")
    for release in status.releases:
        verdict = "ready" if release.finished and not release.obstacles else "NOT READY"
        why = "; ".join(release.obstacles) or ("" if release.finished else "its apply was not finished")
        revision = f"revision {release.revision}, " if release.revision else ""
        images = " ".join(image.rpartition("/")[2] for image in release.images)
        lines.append(f"  {release.name:<12} {verdict:<10} {revision}{release.objects} objects {why}".rstrip())
        lines += [f"  {'':<12} {images}"] if images else []
    troubled = [pod for pod in status.pods if pod.trouble]
    lines += [line for node in status.nodes for line in node.text()]
    lines += [f"degraded: {members}" for members in status.degraded]
    lines.append(f"pods: {len(status.pods)}, {len(troubled)} in trouble")
    lines += [f"  {pod.namespace}/{pod.name} on {pod.node or 'no node'}: {pod.trouble}" for pod in troubled]
    if status.audit:
        lines.append(f"audit: {status.audit.matched} of {status.audit.running} containers run what the lock says")
        lines += [f"  {entry.name}: {entry.problem}" for entry in status.audit.mismatched]
    lines += _registry_text(status)
    if status.certificates:
        lines.append("certificates, CAs and keys, soonest first:")
        lines += [f"  {line}" for line in expiry_lines(status.certificates, now)]
    lines += [f"note: {note}" for note in status.notes]
    return "\n".join(lines)


def _registry_text(status: Status) -> list[str]:
    if status.registry is None:
        return []
    verdict = "answers" if status.registry.answers else "DOES NOT ANSWER"
    return [f"registry {status.registry.address}: {verdict}, restarted {status.registry.restarts} times"]


def _release(cluster: Cluster, stack: Stack, record: ReleaseRecord) -> ReleaseStatus:
    known = next((release for release in stack.releases if release.name == record.release), None)
    obstacles: list[str] = ["the stack knows no such release any more"]
    if known is not None:
        obstacles = _obstacles(cluster, known, record)
    newest = revisions(cluster, record.release, record.namespace)[-1:] if record.is_chart else []
    return ReleaseStatus(
        name=record.release,
        namespace=record.namespace,
        generation=record.generation,
        objects=len(record.objects),
        revision=newest[0].number if newest else 0,
        finished=record.finished,
        obstacles=tuple(obstacles),
        images=tuple(sorted({_upstream(reference) for reference in record.references})),
    )


def _obstacles(cluster: Cluster, release: Release, record: ReleaseRecord) -> list[str]:
    try:
        found = unmet(cluster, on_record(release, record))
    except ClusterRefused as refusal:
        found = [refusal.message]
    kinds = {entry.kind for entry in record.objects} & {"StatefulSet", "Deployment"}
    names = {(entry.kind, entry.name) for entry in record.objects}
    lives = [live for kind in sorted(kinds) for live in cluster.list("apps/v1", kind, release.namespace)]
    return found + left_behind(live for live in lives if (live["kind"], live["metadata"]["name"]) in names)


def _upstream(reference: str) -> str:
    """A site's reference without the registry's address and the digest."""
    return re.sub(r"@sha256:[0-9a-f]+$", "", reference).partition("/")[2] or reference


def _pod(pod: Mapping[str, Any]) -> PodStatus:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return PodStatus(
        namespace=pod["metadata"]["namespace"],
        name=pod["metadata"]["name"],
        node=pod["spec"].get("nodeName") or "",
        restarts=sum(entry.get("restartCount", 0) for entry in statuses),
        trouble=pod_trouble(dict(pod), lambda container: f"see kubectl logs of {container}"),
    )


def _registry(site: Site) -> ServiceStatus | None:
    from mxinstall.registry import plan_for, status

    return status(plan_for(site)) if site.spec.registry.mode == "host" else None


def _registry_of_this_host() -> ServiceStatus | None:
    """When the cluster cannot say which site this is: the one that this host keeps, if it is one."""
    from mxinstall.site import known_site

    return _registry(known_site(None))

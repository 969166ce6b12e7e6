"""Which pods end when objects change: Kubernetes' own workloads, and CloudNativePG's resources. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mxinstall.deploy.inventory import deployed
from mxinstall.outlook.model import Restart

Object = Mapping[str, Any]

_CNPG = "postgresql.cnpg.io/"
_POD_FIELDS = (
    *("imageName", "imageCatalogRef", "resources", "affinity", "topologySpreadConstraints", "schedulerName", "env"),
    *("envFrom", "projectedVolumeTemplate", "priorityClassName", "ephemeralVolumesSizeLimit", "seccompProfile"),
    *("postgresUID", "postgresGID", "podSecurityContext", "securityContext"),
)
"""Fields of a Cluster that are in its pods: another value and the operator replaces the instances, the primary last.

Source: cloudnative-pg, internal/controller/cluster_upgrade.go (checkPodSpecIsOutdated and its neighbours).
"""
_RESTART_PARAMETERS = frozenset(
    (
        *("max_connections", "shared_buffers", "wal_level", "wal_buffers", "max_wal_senders", "max_replication_slots"),
        *("max_worker_processes", "max_prepared_transactions", "max_locks_per_transaction", "huge_pages"),
        *("shared_preload_libraries", "track_commit_timestamp", "superuser_reserved_connections"),
        *("autovacuum_max_workers", "autovacuum_freeze_max_age", "max_files_per_process", "hot_standby"),
    )
)
"""PostgreSQL parameters of context `postmaster` that this stack could name: they need a restart of each instance."""


def restart_of(live: Object, after: Object) -> Restart | None:
    """What a change of one workload does to its pods; None when they stay."""
    kind, name = str(live.get("kind")), str(deployed(dict(live)))
    before_spec, after_spec = live.get("spec") or {}, after.get("spec") or {}
    if kind in ("Deployment", "StatefulSet", "DaemonSet"):
        return _of_workload(kind, name, live, before_spec, after_spec)
    if kind == "Cluster" and str(live.get("apiVersion", "")).startswith(_CNPG):
        return _of_cluster(name, before_spec, after_spec)
    if kind == "Pooler" and str(live.get("apiVersion", "")).startswith(_CNPG):
        return _of_pooler(name, before_spec, after_spec)
    return None


def stopped(live: Object) -> Restart | None:
    """The pods of a workload that is deleted."""
    if live.get("kind") in ("Deployment", "StatefulSet", "DaemonSet"):
        pods = _pods(str(live["kind"]), live)
        return Restart(str(deployed(dict(live))), pods, "stop for good") if pods else None
    return None


def _of_workload(kind: str, name: str, live: Object, before: Object, after: Object) -> Restart | None:
    pods = _pods(kind, live)
    wanted = int(after.get("replicas", 1)) if kind != "DaemonSet" else pods
    if pods and before.get("template") != after.get("template"):
        strategy = (after.get("updateStrategy") or after.get("strategy") or {}).get("type", "RollingUpdate")
        how = {"Recreate": "all at once", "OnDelete": "when somebody deletes them"}.get(strategy, "one after the other")
        return Restart(name, pods, how)
    if wanted < pods:
        return Restart(name, pods - wanted, f"scaled down from {pods} to {wanted}")
    return None


def _pods(kind: str, live: Object) -> int:
    status = live.get("status") or {}
    return int(status.get("currentNumberScheduled" if kind == "DaemonSet" else "replicas") or 0)


def _of_cluster(name: str, before: Object, after: Object) -> Restart | None:
    instances, wanted = int(before.get("instances", 1)), int(after.get("instances", 1))
    causes = [field for field in _POD_FIELDS if before.get(field) != after.get(field)]
    old, new = (((spec.get("postgresql") or {}).get("parameters") or {}) for spec in (before, after))
    causes += sorted(key for key in {*old, *new} & _RESTART_PARAMETERS if old.get(key) != new.get(key))
    if causes:
        how = f"one after the other, the primary last (writes pause for seconds): {', '.join(causes)}"
        return Restart(name, instances, how)
    if wanted < instances:
        return Restart(name, instances - wanted, f"scaled down from {instances} to {wanted}")
    return None


def _of_pooler(name: str, before: Object, after: Object) -> Restart | None:
    if any(before.get(field) != after.get(field) for field in ("template", "pgbouncer", "type")):
        return Restart(name, int(before.get("instances", 1)), "one after the other, connections end with them")
    return None


def total_pods(restarts: Iterable[Restart]) -> int:
    """How many pods end."""
    return sum(restart.pods for restart in restarts)

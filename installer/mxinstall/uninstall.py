"""Takes the system off a cluster. Data (claims, databases, secrets, the site's CA) stays unless told otherwise.

CRDs are never deleted: whatever else uses them would lose its objects. Fenced like an install.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxinstall.cluster import Cluster
from mxinstall.deploy.fencing import hold
from mxinstall.deploy.inventory import ReleaseRecord, read_inventory
from mxinstall.deploy.journal import Account, name_of, read_accounts
from mxinstall.deploy.names import NAMESPACE, SERVICE_ACCOUNT
from mxinstall.deploy.releases import STACK_LABEL, remove_release
from mxinstall.deploy.workdir import work_dir
from mxinstall.helm_release import HelmReleases
from mxinstall.installed import site_of
from mxinstall.site import state_root
from sitebundle.errors import ReleaseNotReady, ToolMissing
from sitebundle.events import Note, Sink, Step, stage
from sitebundle.stack import Stack

_REMOVE_SECONDS = 300
_GONE_SECONDS = 180.0


@dataclass(frozen=True)
class Removal:
    """What was taken away and what was kept."""

    releases: tuple[str, ...]
    namespaces: tuple[str, ...]
    kept: tuple[str, ...]
    registry_stopped: bool

    def as_json(self) -> dict[str, Any]:
        """The removal as plain values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}


def uninstall(
    operator: Cluster, sink: Sink, *, delete_data: bool, keep_registry: bool, take_over: bool = False
) -> Removal:
    """Remove the releases in reverse order, then what may go of the namespaces, `mx-system` last.

    Raises AnotherInstaller, FencedOff, ReleaseFailed, ReleaseNotReady when something does not go away.
    """
    if operator.get("v1", "Namespace", NAMESPACE) is None:
        return Removal((), (), (), False)
    with work_dir() as work, stage(sink, "uninstall", "Take the system off the cluster"):
        with hold(operator, work, sink, take_over=take_over) as held:
            accounts, inventory = read_accounts(held.cluster), read_inventory(held.cluster)
            account = accounts[-1] if accounts else None
            helm = HelmReleases(_helm(account, inventory), held.kubeconfig, work)
            if not delete_data:
                _detach_claims(held.cluster)
            for record in _in_reverse(account, inventory):
                remove_release(held.cluster, helm, record, _REMOVE_SECONDS)
                sink(Step("uninstall", record.release, "ok", "removed"))
            namespaces, kept = _remove_namespaces(held.cluster, delete_data)
            for known in accounts:
                held.cluster.delete("v1", "Secret", name_of(known.generation), NAMESPACE)
            if delete_data:
                # While the site is held: whoever begins after us must not lose what is new.
                held.cluster.delete("v1", "Namespace", NAMESPACE)
                operator.delete("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", SERVICE_ACCOUNT)
        if delete_data:
            _await_gone(operator, [NAMESPACE])
            namespaces.append(NAMESPACE)
        for name in kept:
            sink(Note("info", f"kept: {name}"))
        stopped = False if keep_registry or account is None else _stop_registry(account)
    removed = tuple(record.release for record in _in_reverse(account, inventory))
    return Removal(removed, tuple(namespaces), tuple(kept), stopped)


def _helm(account: Account | None, inventory: Mapping[str, ReleaseRecord]) -> Path:
    """The carried helm, which the install left on this host. Raises ToolMissing when a release needs it."""
    name = str((account.site if account else {}).get("metadata", {}).get("name", ""))
    path = state_root() / name / "bin" / "helm"
    if any(record.is_chart for record in inventory.values()) and not path.is_file():
        raise ToolMissing(tool="helm", detail=f"there is none at {path}; uninstall from the host that installed")
    return path


def _in_reverse(account: Account | None, inventory: Mapping[str, ReleaseRecord]) -> list[ReleaseRecord]:
    """What needs others goes first; releases that the stack no longer knows go before all."""
    ordered: list[str] = []
    if account is not None:
        levels = Stack.model_validate(account.stack).levels(account.profile)
        ordered = [release.name for level in levels for release in level]
    known = [inventory[name] for name in reversed(ordered) if name in inventory]
    return [record for name, record in inventory.items() if name not in ordered] + known


def _detach_claims(cluster: Cluster) -> None:
    """Claims owned by an operator's object (CNPG's Cluster) would be collected with it: take the owner off.

    CNPG takes orphaned claims of the same cluster name over when the Cluster comes back
    (cloudnative-pg, internal/controller/cluster_restore.go).
    """
    for namespace in _payload_namespaces(cluster):
        for claim in cluster.list("v1", "PersistentVolumeClaim", namespace):
            if claim["metadata"].get("ownerReferences"):
                change = {"metadata": {"ownerReferences": None}}
                cluster.patch("v1", "PersistentVolumeClaim", claim["metadata"]["name"], change, namespace)


def _remove_namespaces(cluster: Cluster, delete_data: bool) -> tuple[list[str], list[str]]:
    """Delete the payload namespaces that hold no data, or all. Returns the deleted ones and what was kept."""
    gone, kept = [], []
    for namespace in _payload_namespaces(cluster):
        claims = cluster.list("v1", "PersistentVolumeClaim", namespace)
        made = cluster.list("v1", "Secret", namespace, labels="mxbundle.io/part=secret")
        # The CA, which stays, makes certificates again.
        ours = [secret for secret in made if secret.get("type") != "kubernetes.io/tls"]
        if (claims or ours) and not delete_data:
            kept += [f"PersistentVolumeClaim {namespace}/{claim['metadata']['name']}" for claim in claims]
            kept += [f"Secret {namespace}/{secret['metadata']['name']}" for secret in ours]
            continue
        if cluster.delete("v1", "Namespace", namespace):
            gone.append(namespace)
    _await_gone(cluster, gone)
    return gone, kept


def _payload_namespaces(cluster: Cluster) -> list[str]:
    """By their label: an earlier uninstall that kept the data has left no journal that could name them."""
    found = [entry["metadata"]["name"] for entry in cluster.list("v1", "Namespace", labels=STACK_LABEL)]
    return [name for name in found if name != NAMESPACE]


def _await_gone(cluster: Cluster, namespaces: list[str]) -> None:
    deadline = time.monotonic() + _GONE_SECONDS
    while waiting := [name for name in namespaces if cluster.get("v1", "Namespace", name) is not None]:
        if time.monotonic() > deadline:
            raise ReleaseNotReady(
                release="uninstall", seconds=round(_GONE_SECONDS), detail=f"still terminating: {', '.join(waiting)}"
            )
        time.sleep(1.0)


def _stop_registry(account: Account) -> bool:
    from mxinstall.registry import plan_for, stop

    site = site_of(account)
    return stop(plan_for(site)) if site.spec.registry.mode == "host" else False

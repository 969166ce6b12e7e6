"""The cases of docs/reference/failures.md about who runs the database: the operator and its backup plugin."""

from __future__ import annotations

import time

from mxinstall.proof.reach import is_ready

from darksite import power
from darksite.site import Node
from sitebundle.errors import MxError
from tests.matrix.failures import ALL, move_away
from tests.matrix.registry import Row, Wrong, case
from tests.matrix.trial import Pod, Trial

COVERS = (*ALL, "tests/matrix/operators.py", "sitebundle/pods_override.py")
NAMESPACE = "cnpg-system"
OPERATOR = "app.kubernetes.io/name=cloudnative-pg"
PLUGIN = "app=barman-cloud"
LEASE = "db9c8771.cnpg.io"
"""LeaderElectionID of the operator (internal/cmd/manager/controller/controller.go)."""
LOST_SECONDS = 200.0
BACK_SECONDS = 180.0
"""40 to 50 s until Kubernetes notices, 10 s until it gives the plugin up, its start and 10 s until it is asked, then
the promotion. The node is back only after this: what took longer would have waited for it."""


@case(
    "failures",
    "operator-and-primary-lost",
    "The node with PostgreSQL's primary, the active operator and the backup plugin is unplugged",
    COVERS,
)
def operator_and_primary_lost(trial: Trial) -> Row:
    node = trial.site.node(trial.primary()["spec"]["nodeName"])
    move_away(trial, node, ("main", "event-persister", "event-creator"))
    _gather(trial, node)
    old = _current_primary(trial)
    if trial.primary()["spec"]["nodeName"] != node.name:
        raise Wrong(f"the primary has left {node.name}")
    with trial.people(avoid=node) as people:
        lost = f"{node.name} with primary {old}, {_leader(trial)} and {_plugin(trial)['metadata']['name']}"

        def cut() -> str:
            power.unplug(trial.site, node)
            try:
                time.sleep(LOST_SECONDS)
            finally:
                power.plug(trial.site, node)
            return lost

        wanted = len(trial.ready())
        row = trial.across(
            people,
            cut,
            patience_seconds=LOST_SECONDS + 60.0,
            whole_seconds=600.0,
            until_whole=lambda: trial.all_ready(wanted),
            per_second=5.2,
            fault_after=52,
        )
    new = _current_primary(trial)
    if new == old:
        raise Wrong(f"{old} is primary still: nobody took over in {LOST_SECONDS:.0f} s", row)
    if row["seconds"] > BACK_SECONDS:
        raise Wrong(f"writes work again, but only after {row['seconds']} s", row)
    return {**row, "what": f"{row['what']}; {new} took over"}


def _gather(trial: Trial, node: Node) -> None:
    """Bring the active operator and the plugin onto `node`: while no other takes pods, both are started anew."""
    others = [other.name for other in trial.site.nodes if other != node]
    try:
        for name in others:
            trial.operator("kubectl", "cordon", name)
        for pod in (*trial.pods(NAMESPACE, OPERATOR), *trial.pods(NAMESPACE, PLUGIN)):
            trial.kill_pod(pod)
        _until_gathered(trial, node, 1)
    finally:
        for name in others:
            trial.operator("kubectl", "uncordon", name)
    # The one that has to take over.
    _until_gathered(trial, node, 2)


def _until_gathered(trial: Trial, node: Node, operators: int) -> None:
    deadline = time.monotonic() + 180.0
    seen = ""
    while time.monotonic() < deadline:
        try:
            ready = {str(pod["metadata"]["name"]): pod for pod in trial.pods(NAMESPACE, OPERATOR) if is_ready(pod)}
            plugins = [pod for pod in trial.pods(NAMESPACE, PLUGIN) if is_ready(pod)]
            leader = ready.get(_leader(trial))
        except MxError as fault:
            seen = str(fault)
        else:
            there = [pod for pod in (leader, *plugins[:1]) if pod and pod["spec"]["nodeName"] == node.name]
            if len(ready) >= operators and len(there) == 2:
                return
            seen = f"{len(ready)} operators, leader {_leader(trial)}, {len(plugins)} plugins"
        time.sleep(2.0)
    raise Wrong(f"not the active operator and the plugin on {node.name} after 180 s: {seen}")


def _leader(trial: Trial) -> str:
    """The name of the operator's pod that holds the lease."""
    lease = trial.cluster.get("coordination.k8s.io/v1", "Lease", LEASE, NAMESPACE) or {}
    return str((lease.get("spec") or {}).get("holderIdentity", "")).rpartition("_")[0]


def _plugin(trial: Trial) -> Pod:
    return trial.pods(NAMESPACE, PLUGIN)[0]


def _current_primary(trial: Trial) -> str:
    cluster = trial.cluster.get("postgresql.cnpg.io/v1", "Cluster", "postgres", "matrix-data") or {}
    return str((cluster.get("status") or {}).get("currentPrimary", ""))

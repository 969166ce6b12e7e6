"""The cases of docs/reference/failures.md: each part of the messaging core is broken once, with messages flowing."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from mxinstall.proof.metrics import counter
from mxinstall.proof.reach import is_ready

from darksite import lifecycle, nodes, power
from darksite.site import Node
from sitebundle.errors import MxError
from tests.matrix import writes
from tests.matrix.registry import Row, Wrong, case
from tests.matrix.trial import People, Pod, Trial, first

SYNAPSE = ("manifests/charts/synapse", "manifests/values/synapse.yaml", "manifests/profiles/demo.yaml")
POSTGRES = ("manifests/charts/postgres", "manifests/values/postgres.yaml", "manifests/profiles/demo.yaml")
VALKEY = ("manifests/charts/valkey", "manifests/values/valkey.yaml", "manifests/profiles/demo.yaml")
ALL = ("manifests/charts", "manifests/values", "manifests/profiles/demo.yaml", "manifests/stack.yaml")
CUT_SECONDS = 120.0
SITE_BACK_SECONDS = 600.0
BOOT_SECONDS = 5.0


@case("failures", "postgres-primary-deleted", "PostgreSQL: the primary's pod is deleted", POSTGRES)
def postgres_primary_deleted(trial: Trial) -> Row:
    with trial.people() as people:
        return trial.across(people, lambda: trial.kill_pod(trial.primary()))


@case("failures", "postgres-primary-cut-off", "PostgreSQL: the primary's node is cut off for two minutes", ALL)
def postgres_primary_cut_off(trial: Trial) -> Row:
    node = trial.site.node(trial.primary()["spec"]["nodeName"])
    _move_away(trial, node, ("main", "event-persister", "event-creator"))
    old = str(trial.primary()["metadata"]["name"])
    with trial.people() as people:

        def cut() -> str:
            power.unplug(trial.site, node)
            try:
                deadline = time.monotonic() + CUT_SECONDS
                while time.monotonic() < deadline:
                    time.sleep(1.0)
            finally:
                power.plug(trial.site, node)
            return f"{node.name} with primary {old}"

        before = trial.ready()

        def whole() -> bool:
            try:
                now = trial.ready()
            except MxError:
                return False
            return len(now) >= len(before)

        row = trial.across(people, cut, patience_seconds=240.0, whole_seconds=420.0, until_whole=whole)
    new = str(trial.primary()["metadata"]["name"])
    if new == old:
        raise Wrong(f"{old} is primary still: nobody took over in {CUT_SECONDS:.0f} s", row)
    return {**row, "what": f"{row['what']}; {new} took over"}


@case("failures", "valkey-master-killed", "Valkey: the master's pod is deleted", VALKEY)
def valkey_master_killed(trial: Trial) -> Row:
    with trial.people() as people:
        row = trial.across(people, lambda: trial.kill_pod(_valkey_master(trial)), pulse=writes.heard(people))
    _one_master(trial, row)
    return row


@case("failures", "valkey-master-empty", "Valkey: the master is killed and starts again at once, empty", VALKEY)
def valkey_master_empty(trial: Trial) -> Row:
    with trial.people() as people:

        def kill() -> str:
            pod = _valkey_master(trial)
            _kill_process(trial, pod, "valkey-server")
            return f"the server process in pod {pod['metadata']['name']}"

        before = {key for key in trial.ready() if "valkey" in key}
        row = trial.across(
            people,
            kill,
            pulse=writes.heard(people),
            until_whole=lambda: {key for key in trial.ready() if "valkey" in key} >= before,
        )
    _one_master(trial, row)
    return row


@case("failures", "haproxy-deleted", "HAProxy: one of two pods is deleted", SYNAPSE)
def haproxy_deleted(trial: Trial) -> Row:
    with trial.people() as people:
        return trial.across(people, lambda: trial.kill_pod(trial.routing()))


@case("failures", "main-deleted", "Synapse: main is deleted", SYNAPSE)
def main_deleted(trial: Trial) -> Row:
    with trial.people() as people:
        return trial.across(people, lambda: trial.kill_pod(trial.worker("main")))


@case("failures", "synchrotron-deleted", "Synapse: a synchrotron is deleted", SYNAPSE)
def synchrotron_deleted(trial: Trial) -> Row:
    with trial.people() as people:
        return trial.across(people, lambda: trial.kill_pod(trial.worker("synchrotron")))


@case("failures", "writer-events", "Synapse: the event persister of the room is deleted", SYNAPSE)
def writer_events(trial: Trial) -> Row:
    with trial.people() as people:
        return trial.across(people, lambda: trial.kill_pod(_persister_of(trial, people)))


def _writer(kind: str, what: str, write: Callable[[People], writes.Write]) -> None:
    @case("failures", f"writer-{kind}", f"Synapse: the writer of {what} is deleted", SYNAPSE)
    def act(trial: Trial) -> Row:
        with trial.people() as people:
            return trial.across(people, lambda: trial.kill_pod(trial.worker(kind)), pulse=write(people))


_writer("typing", "typing notifications", writes.typing)
_writer("to-device", "messages to devices", writes.to_device)
_writer("account-data", "account data", writes.account_data)
_writer("receipts", "receipts", writes.receipts)
_writer("presence", "presence", writes.presence)
_writer("push-rules", "push rules", writes.push_rules)
_writer("device-lists", "device lists", writes.device_lists)


@case("failures", "node-lost", "A node with a stream writer is lost for good, and is released by the operator", ALL)
def node_lost(trial: Trial) -> Row:
    with trial.people() as people:
        persister = _persister_of(trial, people)
        node = trial.site.node(persister["spec"]["nodeName"])
        before = trial.ready()

        def lose() -> str:
            power.off(trial.site, node)
            _stuck(trial, node)
            trial.operator("mxinstall", "node", "release", node.name, "--yes")
            return f"{node.name} with {persister['metadata']['name']}"

        def moved() -> bool:
            try:
                now = trial.ready()
            except MxError:
                return False
            return f"matrix/{persister['metadata']['name']}" in now and "matrix/synapse-main-0" in now

        try:
            row = trial.across(people, lose, patience_seconds=420.0, whole_seconds=600.0, until_whole=moved)
        finally:
            power.on(trial.site, node)
            _until(lambda: node.name in lifecycle.status(trial.site).nodes_ready, 120.0, f"{node.name} ready again")
            trial.operator("mxinstall", "node", "return", node.name)
        _until(lambda: len(trial.ready()) >= len(before), 400.0, "everything ready again")
    return row


@case(
    "failures",
    "site-power-cut",
    "The whole site loses its power and starts in random order",
    (*ALL, "installer/mxinstall/registry"),
)
def site_power_cut(trial: Trial) -> Row:
    before = set(trial.ready())
    machines = [trial.site.control_plane, *trial.site.nodes]
    order = random.sample(machines, len(machines))
    with ThreadPoolExecutor(len(machines) + 1) as at_once:
        cut = [at_once.submit(power.off, trial.site, machine) for machine in machines]
        cut.append(at_once.submit(trial.operator, "mxinstall", "registry", "stop"))
        for gone in cut:
            gone.result()
        began = time.monotonic()
        # A node that is there before the control plane waits for it: each boots by itself.
        boots = [
            at_once.submit(_after, BOOT_SECONDS * place, power.on, trial.site, machine)
            for place, machine in enumerate(order)
        ]
        registry = random.uniform(0.0, BOOT_SECONDS * len(order))
        boots.append(at_once.submit(_after, registry, trial.operator, "mxinstall", "registry", "start"))
        for booted in boots:
            booted.result()
    said = ""
    while time.monotonic() - began < SITE_BACK_SECONDS:
        done = trial.operator("mxinstall", "verify", "--live", check=False)
        if done.returncode == 0:
            took = time.monotonic() - began
            names = " ".join(machine.name for machine in order)
            return {
                "what": f"order {names}",
                "seconds": round(took, 1),
                "whole_seconds": _whole_after(trial, before, began),
            }
        said = (done.stdout + done.stderr)[-600:]
        time.sleep(3.0)
    raise Wrong(f"the proof does not pass {SITE_BACK_SECONDS:.0f} s after the power came back: {said}")


def _after(seconds: float, act: Callable[..., object], *arguments: object) -> None:
    time.sleep(seconds)
    act(*arguments)


def _whole_after(trial: Trial, before: set[str], began: float) -> float:
    stable = {name for name in before if not name.startswith(("matrix/routing-", "matrix-data/valkey-proxy"))}
    _until(lambda: stable <= set(trial.ready()), SITE_BACK_SECONDS, "every pod of before")
    return round(time.monotonic() - began, 1)


def _stuck(trial: Trial, node: Node) -> None:
    """Wait until Kubernetes has given the node up, and `status` says by name which pods are stuck there."""
    deadline = time.monotonic() + 300
    said = ""
    while time.monotonic() < deadline:
        said = trial.operator("mxinstall", "status", check=False).stdout
        if "out-of-service" in said and node.name in said:
            return
        time.sleep(5.0)
    raise Wrong(f"status never told of pods that are stuck on {node.name}: {said[-800:]}")


def _until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except MxError as fault:
            last = str(fault)
        else:
            last = ""
        if time.monotonic() > deadline:
            raise Wrong(f"not {what} after {seconds:.0f} s {last}")
        time.sleep(1.0)


def _move_away(trial: Trial, node: Node, kinds: tuple[str, ...]) -> None:
    """Let other nodes have the workers of these kinds: the case is about the database that stays."""
    trial.operator("kubectl", "cordon", node.name)
    try:
        for kind in kinds:
            labels = f"app.kubernetes.io/name=synapse,app.kubernetes.io/component={kind}"
            for pod in trial.pods("matrix", labels):
                if pod["spec"].get("nodeName") == node.name:
                    trial.kill_pod(pod)
        time.sleep(3.0)
        selected = "app.kubernetes.io/name=synapse,app.kubernetes.io/component in (" + ",".join(kinds) + ")"
        _until(lambda: all(map(is_ready, trial.pods("matrix", selected))), 240.0, "the moved workers ready")
    finally:
        trial.operator("kubectl", "uncordon", node.name)


def _persister_of(trial: Trial, people: People) -> Pod:
    """The event persister that writes this room: the one whose own counter grows with its messages."""
    labels = "app.kubernetes.io/name=synapse,app.kubernetes.io/component=event-persister"
    pods = [pod for pod in trial.pods("matrix", labels) if is_ready(pod)]
    before = {pod["metadata"]["name"]: _written(trial, pod) for pod in pods}
    for number in range(5):
        people.alice.send(people.room, f"who writes this? {number}", secrets.token_hex(8))
    time.sleep(1.0)
    grown = [pod for pod in pods if _written(trial, pod) - before[pod["metadata"]["name"]] >= 5]
    return first(grown, "event persister that counted the room's messages")


def _written(trial: Trial, pod: Pod) -> float:
    name = str(pod["metadata"]["name"])
    status, body = trial.cluster.pod_proxy("matrix", name, 9001, "_synapse/metrics")
    if status != 200:
        raise Wrong(f"{name} does not tell its metrics: {status}")
    return counter(body.decode(), "synapse_storage_events_persisted_events_total")


def _valkey_servers(trial: Trial) -> list[Pod]:
    pods = trial.pods("matrix-data", "app.kubernetes.io/name=valkey,app.kubernetes.io/component=server")
    return [pod for pod in pods if is_ready(pod)]


def _in_server(trial: Trial, pod: Pod, *command: str) -> str:
    inside = ["exec", "-n", "matrix-data", str(pod["metadata"]["name"]), "-c", "server", "--", *command]
    return trial.operator("kubectl", *inside, check=False).stdout.strip()


def _valkey_masters(trial: Trial) -> list[Pod]:
    """The servers that call themselves master: after a failover there is one again."""
    role = ". /etc/valkey/common.sh; ask 127.0.0.1 6379 INFO replication | field role"
    return [pod for pod in _valkey_servers(trial) if _in_server(trial, pod, "/bin/sh", "-c", role) == "master"]


def _valkey_master(trial: Trial) -> Pod:
    """The server that two sentinels name."""
    servers = _valkey_servers(trial)
    named = _in_server(trial, first(servers, "ready Valkey server"), "/bin/sh", "/etc/valkey/master.sh")
    return first([pod for pod in servers if pod["metadata"]["name"] == named], f"Valkey master (named: {named!r})")


def _one_master(trial: Trial, row: Row) -> None:
    _until(lambda: len(_valkey_masters(trial)) == 1, 90.0, "one Valkey master alone")
    row["what"] = f"{row['what']}; {_valkey_master(trial)['metadata']['name']} is master"


def _kill_process(trial: Trial, pod: Pod, name: str) -> None:
    """SIGKILL to the first process of a container, from its node: nobody can say goodbye."""
    container = first(
        [one for one in pod["status"]["containerStatuses"] if one["name"] == "server"], f"container of {name}"
    )
    node = trial.site.node(pod["spec"]["nodeName"])
    identity = str(container["containerID"]).rpartition("/")[2]
    nodes.ctr(trial.site, node, "tasks", "kill", "--signal", "SIGKILL", identity)

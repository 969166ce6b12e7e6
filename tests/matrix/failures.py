"""The cases of docs/reference/failures.md: each part of the messaging core is broken once, with messages flowing."""

from __future__ import annotations

import json
import os
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from mxinstall.proof.metrics import counter
from mxinstall.proof.reach import is_ready
from mxinstall.supervision import supervisor

from darksite import cluster, nodes, power, processes
from darksite.site import Machine, Node
from sitebundle.errors import MxError
from tests.matrix import writes
from tests.matrix.registry import AVOIDED, Row, Wrong, case
from tests.matrix.trial import MESSAGES, People, Pod, Trial, first

HARNESS = (
    "tests/matrix/failures.py",
    "tests/matrix/trial.py",
    "tests/matrix/writes.py",
    "installer/mxinstall/proof/load.py",
)
"""What decides whether a row is true stands beside what it is about."""
SYNAPSE = (*HARNESS, "manifests/charts/synapse", "manifests/values/synapse.yaml", "manifests/profiles/demo.yaml")
POSTGRES = (*HARNESS, "manifests/charts/postgres", "manifests/values/postgres.yaml", "manifests/profiles/demo.yaml")
VALKEY = (*HARNESS, "manifests/charts/valkey", "manifests/values/valkey.yaml", "manifests/profiles/demo.yaml")
ALL = (*HARNESS, "manifests/charts", "manifests/values", "manifests/profiles/demo.yaml", "manifests/stack.yaml")
CUT_SECONDS = 180.0
SITE_BACK_SECONDS = 600.0
BOOT_SECONDS = 5.0
SEED = "MXMATRIX_SEED"
"""Names the seed of a random order again; each row has its own."""
STUCK_SECONDS = 600.0
"""Kubernetes takes 40 to 50 s to notice, by default 300 s more to give a pod up, and then its 30 s of grace pass."""
ROOMS_AT_MOST = 12
"""A room's writer follows from its name: of two writers, one in 4096 tries would miss the one that is wanted."""
REQUESTS = "synapse_http_server_requests_received_total"
WRITTEN = "synapse_storage_events_persisted_events_total"


@case("failures", "postgres-primary-deleted", "PostgreSQL: the primary's pod is deleted", POSTGRES)
def postgres_primary_deleted(trial: Trial) -> Row:
    with trial.people() as people:
        return trial.across(people, lambda: trial.kill_pod(trial.primary()))


@case(
    "failures",
    "postgres-primary-cut-off",
    "PostgreSQL: the primary's node is cut off for three minutes",
    ALL,
    seconds=330,
)
def postgres_primary_cut_off(trial: Trial) -> Row:
    node = trial.site.node(trial.primary()["spec"]["nodeName"])
    move_away(trial, node, ("main", "event-persister", "event-creator"))
    primary = trial.primary()
    old = str(primary["metadata"]["name"])
    if primary["spec"]["nodeName"] != node.name:
        raise Wrong(f"the primary has left {node.name} before it was cut off")
    with trial.people(avoid=node) as people:

        def cut() -> str:
            with power.unplugged(trial.site, node):
                time.sleep(CUT_SECONDS)
            return f"{node.name} with primary {old}"

        wanted = len(trial.ready())
        # So many that messages still cross the moment at which the old primary is back.
        pace = {"count": 1040, "per_second": 5.2, "fault_after": 52}
        row = trial.across(
            people,
            cut,
            patience_seconds=240.0,
            whole_seconds=420.0,
            until_whole=lambda: trial.all_ready(wanted),
            **pace,
        )
    new = str(trial.primary()["metadata"]["name"])
    if new == old:
        raise Wrong(f"{old} is primary still: nobody took over in {CUT_SECONDS:.0f} s", row)
    if row["seconds"] >= CUT_SECONDS:
        raise Wrong(f"{new} took over, and nothing was written before {node.name} was back", row)
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
        master = _valkey_master(trial)
        name = str(master["metadata"]["name"])
        kept = secrets.token_hex(8)
        # Only what a replica has can outlive an empty master.
        written = "SET mxtrial " + kept + " && ask 127.0.0.1 6379 WAIT 2 2000"
        _in_server(trial, master, "/bin/sh", "-c", f". /etc/valkey/common.sh; ask 127.0.0.1 6379 {written}")

        def kill() -> str:
            _kill_process(trial, master, "valkey-server")
            return f"the server process in pod {name}"

        def again() -> bool:
            now = [pod for pod in _valkey_servers(trial) if pod["metadata"]["name"] == name]
            return bool(now) and _container_id(now[0]) != _container_id(master)

        row = trial.across(people, kill, pulse=writes.heard(people), until_whole=again)
    _one_master(trial, row)
    now = _valkey_master(trial)
    if now["metadata"]["name"] == name:
        raise Wrong(f"{name} came back empty and is the master", row)
    read = ". /etc/valkey/common.sh; ask 127.0.0.1 6379 GET mxtrial"
    if _in_server(trial, now, "/bin/sh", "-c", read) != kept:
        raise Wrong("what the replicas had is gone", row)
    return row


@case("failures", "haproxy-deleted", "HAProxy: one of two pods is deleted", SYNAPSE)
def haproxy_deleted(trial: Trial) -> Row:
    with trial.people() as people:
        return trial.across(people, lambda: trial.kill_pod(trial.routing()))


@case("failures", "main-deleted", "Synapse: main is deleted", SYNAPSE)
def main_deleted(trial: Trial) -> Row:
    with trial.people() as people:
        return trial.across(people, lambda: trial.kill_pod(trial.worker("main")), pulse=writes.asked_of_main(people))


@case("failures", "synchrotron-deleted", "Synapse: the synchrotron of a syncing client is deleted", SYNAPSE)
def synchrotron_deleted(trial: Trial) -> Row:
    with trial.people() as people:
        sync = writes.synced(people)
        one = _which_counts(trial, "synchrotron", REQUESTS, sync)
        return trial.across(people, lambda: trial.kill_pod(one), pulse=sync)


@case("failures", "writer-events", "Synapse: the event persister of the room is deleted", SYNAPSE)
def writer_events(trial: Trial) -> Row:
    with trial.people() as people:
        return trial.across(people, lambda: trial.kill_pod(_persister_of(trial, people)))


def _writer(kind: str, what: str, write: Callable[[People], writes.Write]) -> None:
    @case("failures", f"writer-{kind}", f"Synapse: the writer of {what} is deleted", SYNAPSE)
    def act(trial: Trial) -> Row:
        with trial.people() as people:
            pulse = write(people)
            # Only the fall of who really serves these writes says anything of them.
            one = _which_counts(trial, kind, REQUESTS, pulse)
            return trial.across(people, lambda: trial.kill_pod(one), pulse=pulse)


_writer("typing", "typing notifications", writes.typing)
_writer("to-device", "messages to devices", writes.to_device)
_writer("account-data", "account data", writes.account_data)
_writer("receipts", "receipts", writes.receipts)
_writer("presence", "presence", writes.presence)
_writer("push-rules", "push rules", writes.push_rules)
_writer("device-lists", "device lists", writes.device_lists)


@case(
    "failures",
    "node-lost",
    "A node with a stream writer is lost for good, and is released by the operator",
    (*ALL, "darksite/power.py", "installer/mxinstall/node_loss.py", "installer/mxinstall/deploy/nodes.py"),
    seconds=900,
)
def node_lost(trial: Trial) -> Row:
    # Any persister's node will do, but not the one at which the users reach the edge.
    persister = trial.worker("event-persister")
    node = trial.site.node(persister["spec"]["nodeName"])
    with trial.people(avoid=node) as found:
        people = _written_by(trial, found, persister)
        wanted = len(trial.ready())
        named = {_name_of(pod): pod["metadata"]["uid"] for pod in trial.pods("matrix") if _is_named(pod, node)}
        seconds: dict[str, float] = {}

        def lose() -> str:
            began = time.monotonic()
            power.off(trial.site, node)
            _stuck(trial, node, sorted(named))
            seconds["told_seconds"] = round(time.monotonic() - began, 1)
            ahead = trial.operator("mxinstall", "node", "release", node.name, "--dry-run").stdout
            if missing := [name for name in named if name not in ahead]:
                raise Wrong(f"the release does not say that {', '.join(missing)} will move: {ahead[-600:]}")
            trial.operator("mxinstall", "node", "release", node.name, "--yes")
            seconds["released_seconds"] = round(time.monotonic() - began, 1)
            return f"{node.name} with {', '.join(sorted(name.partition('/')[2] for name in named))}"

        def moved() -> bool:
            # Volumes on the lost node's disk keep their pods there; those that store nothing must run again.
            try:
                now = trial.ready()
            except MxError:
                return False
            return all(now.get(name) not in (None, uid) for name, uid in named.items())

        # Nothing is written until somebody speaks for the node, so the messages are spread over all of that time.
        pace = {"count": 600, "per_second": 1.0, "least_per_second": 0.9, "fault_after": 30}
        try:
            row = trial.across(people, lose, patience_seconds=960.0, whole_seconds=900.0, until_whole=moved, **pace)
        finally:
            power.on(trial.site, node)
            _tended(trial, lambda: node.name in cluster.ready_nodes(trial.site), 240.0, f"{node.name} ready again")
            trial.operator("mxinstall", "node", "return", node.name)
        row |= {"writer": str(persister["metadata"]["name"]), **seconds}
        _until(lambda: trial.all_ready(wanted), 400.0, "everything ready again", row)
        _until(lambda: _is_content(trial), 300.0, "`mxinstall status` content after the node's return", row)
    return row


def _written_by(trial: Trial, people: People, persister: Pod) -> People:
    """The same people in a room that this event persister writes. Raises Wrong when no room is its."""
    name = persister["metadata"]["name"]
    for _ in range(ROOMS_AT_MOST):
        if _persister_of(trial, people)["metadata"]["name"] == name:
            return people
        room = people.alice.create_room(people.scene.name, people.bob.account.user_id)
        people.scene.rooms.append(room)
        people.bob.join(room)
        people = replace(people, room=room)
    raise Wrong(f"{name} writes none of {ROOMS_AT_MOST} rooms")


def _name_of(pod: Pod) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def _is_named(pod: Pod, node: Node) -> bool:
    """A Synapse process of a StatefulSet on this node that keeps nothing on a volume."""
    if pod["spec"].get("nodeName") != node.name:
        return False
    claims = [volume for volume in pod["spec"].get("volumes", []) if "persistentVolumeClaim" in volume]
    return pod["metadata"]["labels"].get("app.kubernetes.io/name") == "synapse" and not claims


@case(
    "failures",
    "site-power-cut",
    "The whole site loses its power and starts in random order",
    (*ALL, "darksite/power.py", "installer/mxinstall/registry", "installer/mxinstall/supervision"),
    seconds=420,
)
def site_power_cut(trial: Trial) -> Row:
    seed = int(os.environ.get(SEED) or secrets.randbelow(1_000_000))
    delays = boot_delays(random.Random(seed), [*(one.name for one in _machines(trial)), "registry"])
    seen: Row = {"seed": seed}
    with trial.people() as people:
        before = trial.ready()
        stable = {name for name in before if not name.startswith(REPLACED)}

        def cut() -> str:
            try:
                _cut_all(trial)
            finally:
                began = time.monotonic()
                _power_on(trial, delays)
            seen["booted_seconds"] = round(time.monotonic() - began, 1)
            seen["proved_seconds"], seen["tries"] = _proved(trial, began, seen)
            return "order " + ", ".join(
                f"{name} at {delays[name]:.0f} s" for name in sorted(delays, key=delays.__getitem__)
            )

        def whole() -> bool:
            now = trial.ready_or_none()
            return len(now) >= len(before) and stable <= set(now)

        # A quarter of the messages is still to come when the power goes, and is tried until the site is back.
        pace = {"fault_after": 3 * MESSAGES // 4, "patience_seconds": SITE_BACK_SECONDS + 200.0}
        row = {**trial.across(people, cut, whole_seconds=SITE_BACK_SECONDS + 60.0, until_whole=whole, **pace), **seen}
    if row["proved_seconds"] is None:
        raise Wrong(f"the proof does not pass {SITE_BACK_SECONDS:.0f} s after the power came back: {row['said']}", row)
    if row["proved_seconds"] > SITE_BACK_SECONDS:
        raise Wrong(f"the proof passes, but only after {row['proved_seconds']} s", row)
    _until(lambda: _is_content(trial), 180.0, "`mxinstall status` content", row)
    return row


REPLACED = ("matrix/routing-", "matrix-data/valkey-proxy", "matrix-data/postgres-pooler")
"""Pods of Deployments: one that Kubernetes gave up meanwhile comes back under another name."""


def boot_delays(dice: random.Random, names: Sequence[str]) -> dict[str, float]:
    """Seconds after which each is started: in an order by chance, one BOOT_SECONDS after the other."""
    return {name: BOOT_SECONDS * place for place, name in enumerate(dice.sample(sorted(names), len(names)))}


def _machines(trial: Trial) -> list[Machine]:
    return [trial.site.control_plane, *trial.site.nodes]


def _cut_all(trial: Trial) -> None:
    """Every machine of the cluster and the registry at once."""
    machines = _machines(trial)
    with ThreadPoolExecutor(len(machines) + 1) as at_once:
        cut = [at_once.submit(power.off, trial.site, machine) for machine in machines]
        cut.append(at_once.submit(_kill_registry, trial))
        for gone in cut:
            gone.result()


def _power_on(trial: Trial, delays: Mapping[str, float]) -> None:
    """Each machine boots by itself: a node that is there before the control plane waits for it."""

    def boot(name: str) -> None:
        time.sleep(delays[name])
        if name == "registry":
            # Where there is no systemd, this command belongs into the host's own start.
            trial.operator("mxinstall", "registry", "start")
        else:
            power.on(trial.site, next(one for one in _machines(trial) if one.name == name))

    with ThreadPoolExecutor(len(delays)) as at_once:
        for booted in [at_once.submit(boot, name) for name in delays]:
            booted.result()


def _proved(trial: Trial, began: float, seen: Row) -> tuple[float | None, int]:
    """Seconds until the whole proof passed, None when it did not in time, and how often it was tried.

    Nobody helps: daemons that ended are started again as a real machine does, and nothing else is touched.
    """
    tries = 0
    while time.monotonic() - began < SITE_BACK_SECONDS:
        for machine in _machines(trial):
            power.tend(trial.site, machine)
        tries += 1
        done = trial.operator("mxinstall", "verify", "--live", check=False)
        if done.returncode == 0:
            seen.pop("said", None)
            return round(time.monotonic() - began, 1), tries
        seen["said"] = (done.stdout + done.stderr)[-600:]
        time.sleep(3.0)
    return None, tries


def _kill_registry(trial: Trial) -> None:
    """Registry and supervisor at once, as a host that loses its power."""
    record = json.loads((trial.site.installer_state / trial.answers.name / "registry" / supervisor.RECORD).read_text())
    pids = [int(record[part]["pid"]) for part in ("supervisor", "registry")]
    found = [process for pid in pids if (process := processes.identify(pid))]
    if len(found) != len(pids):
        raise Wrong("the registry does not run: its death would prove nothing")
    processes.end(found)


def _stuck(trial: Trial, node: Node, named: Sequence[str]) -> None:
    """Wait until Kubernetes has given the node up, and `status` names all of these pods as stuck and the way out."""
    deadline = time.monotonic() + STUCK_SECONDS
    said = ""
    while time.monotonic() < deadline:
        said = trial.operator("mxinstall", "status", check=False).stdout
        stuck = next((line for line in said.splitlines() if "told to end, and nobody knows" in line), "")
        told = set(stuck.partition(": ")[2].split(", "))
        explained = "at most once" in said and f"mxinstall node release {node.name}" in said
        if told.issuperset(named) and explained:
            return
        time.sleep(5.0)
    raise Wrong(f"status never told of {', '.join(named)}, stuck on {node.name}: {said[-800:]}")


def _is_content(trial: Trial) -> bool:
    return trial.operator("mxinstall", "status", check=False).returncode == 0


def _tended(trial: Trial, condition: Callable[[], bool], seconds: float, what: str) -> None:
    """As `_until`, while daemons that ended are started again."""

    def look() -> bool:
        for machine in _machines(trial):
            power.tend(trial.site, machine)
        return condition()

    _until(look, seconds, what)


def _until(condition: Callable[[], bool], seconds: float, what: str, row: Row | None = None) -> None:
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
            raise Wrong(f"not {what} after {seconds:.0f} s {last}", row)
        time.sleep(1.0)


def move_away(trial: Trial, node: Node, kinds: tuple[str, ...]) -> None:
    """Let other nodes have the workers of these kinds, and the operator: the case is about the database that stays.

    The node is not cordoned: from a cordoned one the operator moves the primary away.
    """
    workers = "app.kubernetes.io/name=synapse,app.kubernetes.io/component in (" + ",".join(kinds) + ")"
    chosen = (("matrix", workers), ("cnpg-system", ""))
    trial.operator("kubectl", "taint", "node", node.name, f"{AVOIDED}=true:NoSchedule", "--overwrite")
    try:
        for namespace, labels in chosen:
            for pod in trial.pods(namespace, labels):
                if pod["spec"].get("nodeName") == node.name:
                    trial.kill_pod(pod)
        time.sleep(3.0)
        _until(lambda: all(is_ready(pod) for one in chosen for pod in trial.pods(*one)), 240.0, "what was moved ready")
    finally:
        trial.operator("kubectl", "taint", "node", node.name, f"{AVOIDED}-")


def _persister_of(trial: Trial, people: People) -> Pod:
    """The event persister that writes this room."""

    def send() -> object:
        return people.alice.send(people.room, "who writes this?", secrets.token_hex(8))

    return _which_counts(trial, "event-persister", WRITTEN, send)


def _which_counts(trial: Trial, kind: str, counter_name: str, act: Callable[[], object]) -> Pod:
    """The worker of this kind whose own counter grows with `act`. Raises Wrong when none does."""
    labels = f"app.kubernetes.io/name=synapse,app.kubernetes.io/component={kind}"
    pods = [pod for pod in trial.pods("matrix", labels) if is_ready(pod)]
    before = {pod["metadata"]["name"]: _counted(trial, pod, counter_name) for pod in pods}
    for _ in range(5):
        act()
    time.sleep(1.0)
    grown = [pod for pod in pods if _counted(trial, pod, counter_name) - before[pod["metadata"]["name"]] >= 5]
    return first(grown, f"{kind} that counted what was asked of it")


def _counted(trial: Trial, pod: Pod, counter_name: str) -> float:
    name = str(pod["metadata"]["name"])
    status, body = trial.cluster.pod_proxy("matrix", name, 9001, "_synapse/metrics")
    if status != 200:
        raise Wrong(f"{name} does not tell its metrics: {status}")
    return counter(body.decode(), counter_name)


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


def _container_id(pod: Pod) -> str:
    return next((str(one.get("containerID")) for one in pod["status"].get("containerStatuses", [])), "")


def _kill_process(trial: Trial, pod: Pod, name: str) -> None:
    """SIGKILL to the first process of a container, from its node: nobody can say goodbye."""
    container = first(
        [one for one in pod["status"]["containerStatuses"] if one["name"] == "server"], f"container of {name}"
    )
    node = trial.site.node(pod["spec"]["nodeName"])
    identity = str(container["containerID"]).rpartition("/")[2]
    nodes.ctr(trial.site, node, "tasks", "kill", "--signal", "SIGKILL", identity)

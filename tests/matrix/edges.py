"""The cases of docs/reference/edges.md: each rule of each edge is taken away alone, and a named step must fail then.

What must fail is data beside the edge: `proof` in `files/edges.yaml` of its chart. A rule is taken away by letting it
select no pod, so that nothing else of it changes; connections that stand are forgotten by the nodes, so that none
outlives the rule that allowed it.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mxinstall.cluster import Object
from mxinstall.proof import STEPS
from mxinstall.proof.matrix import Homeserver, MatrixError
from mxinstall.proof.reach import context_of, is_ready
from mxinstall.proof.steps import Disproved, scene_of
from mxinstall.status import read_status

from darksite import network_policy, pods
from darksite.site import Node
from sitebundle.errors import MxError
from tests.matrix.brought import BROUGHT, brought
from tests.matrix.failures import _kill_process
from tests.matrix.names import resolved
from tests.matrix.registry import Row, Wrong, case
from tests.matrix.trial import People, Pod, Trial, first

CHARTS = Path(__file__).parents[2] / "manifests/charts"
EDGE = "mxbundle.io/edge"
FAILS_WITHIN_SECONDS = 180.0
PASSES_WITHIN_SECONDS = 240.0
FAILURES = 3
FAILING_SECONDS = 5.0
TRIES = 60
ENFORCED_WITHIN_SECONDS = 60.0
ANSWER_SECONDS = 8.0
"""How long a client waits for one answer: without sentinels there is no master for a minute, and then an empty one."""
PATIENCE_SECONDS = 2.0
"""How long a client tries again what failed: a proof that waits for better times would take minutes to fail."""
ARCHIVED_WITHIN_SECONDS = 20.0
LOOKED_WITHIN_SECONDS = 12.0
"""How long PostgreSQL's operator is given to ask every instance, and to write what it saw."""
SENTINELS_SECONDS = 15.0
LOOK_SECONDS = 3.0
"""Between two looks at what it wrote: one that gets no answer at all takes it a minute and a half."""
POSTGRES = "postgres"
VALKEY_MASTER = "valkey-master"
NOBODY = {"matchLabels": {"mxbundle.io/taken-away": "true"}}


@dataclass(frozen=True)
class Proof:
    """What shows that an edge is needed.

    step: what must fail without it. cut: ports of further connections to forget, beside the rule's own. restart: one
    pod of these labels (`NAMESPACE LABELS`, or `valkey-master`) starts anew without the edge, since only a start needs
    it. without: another edge, taken away beforehand, after which the step must still pass.
    """

    edge: str
    chart: str
    why: str
    step: str
    cut: tuple[int, ...] = ()
    restart: str = ""
    without: str = ""


def declared() -> list[Proof]:
    """Every edge with a proof, in the order of charts and files, each once."""
    found: dict[str, Proof] = {}
    for path in sorted(CHARTS.glob("*/files/edges.yaml")):
        for entry in yaml.safe_load(path.read_text())["edges"]:
            if "proof" in entry and entry["edge"] not in found:
                proof = {
                    key: tuple(value) if isinstance(value, list) else value for key, value in entry["proof"].items()
                }
                found[entry["edge"]] = Proof(entry["edge"], path.parts[-3], entry["for"], **proof)
    return list(found.values())


def _names_edge(path: Path, edge: str) -> bool:
    return any(entry["edge"] == edge for entry in yaml.safe_load(path.read_text())["edges"])


def _declare(proof: Proof) -> None:
    ends = [path.parts[-3] for path in sorted(CHARTS.glob("*/files/edges.yaml")) if _names_edge(path, proof.edge)]
    parts = ("files/edges.yaml", "templates/networkpolicies.yaml")
    covers = [f"manifests/charts/{chart}/{part}" for chart in ends for part in parts]
    if proof.edge in BROUGHT:
        covers.append("tests/matrix/brought.py")
    covers += ["manifests/charts/*/templates/_edges.tpl", "manifests/values", "darksite/network_policy.py"]

    @case("edges", proof.edge, f"`{proof.edge}`: {proof.why}", tuple(covers))
    def act(trial: Trial) -> Row:
        return _each_rule_alone(trial, proof)


for _proof in declared():
    _declare(_proof)


Attempt = Callable[[], str]
"""One try of a step: what went wrong, or nothing."""


def _each_rule_alone(trial: Trial, proof: Proof) -> Row:
    """Each end of the edge: the step passes, fails without it and goes on failing, and passes with it again."""
    row: Row = {"step": proof.step, "rules": {}, "seconds": 0.0}
    with _tried(trial, proof) as attempt:
        rules = _rules(trial, proof.edge)
        # What is brought asks anew each time: it holds no connection, and those of others are none of its business.
        ports = [] if proof.edge in BROUGHT else [port for rule in rules for port in _ports(rule)]
        cut = sorted({*proof.cut, *ports})
        with _without(trial, proof.without):
            # The same disturbance with every rule in its place: what fails later than this fails for want of the rule.
            row["mends"] = mends = _disturbed(trial, attempt, proof, cut, row)
        for rule in rules:
            seen = row["rules"][_name(rule)] = {}
            # The other edge comes back with the rule: without the API server no instance can finish a failover.
            with _without(trial, proof.without):
                seen["tries_until_it_passed_before"] = _must_pass(attempt, proof.step, row, f"with {_name(rule)}")
                with _taken_away(trial, rule):
                    _forget_connections(trial, cut)
                    _restart(trial, proof.restart)
                    began = time.monotonic()
                    # Servers that nobody promotes begin empty after a minute: looked at at once, down for longer.
                    passing = proof.restart == VALKEY_MASTER
                    time.sleep(0.0 if passing else mends + 2.0)
                    _remind(trial, proof)
                    lasting = mends + FAILING_SECONDS if passing else FAILING_SECONDS
                    seen.update(_must_fail(attempt, proof.step, rule, row, lasting))
                    row["seconds"] = max(row["seconds"], round(time.monotonic() - began, 1))
            _remind(trial, proof)
            again = f"after {_name(rule)} was put back"
            seen["tries_until_it_passed_after"] = _must_pass(attempt, proof.step, row, again)
    return row


@contextmanager
def _tried(trial: Trial, proof: Proof) -> Iterator[Attempt]:
    """How the edge's step is tried; what it needs is there for the length of the block."""
    if proof.edge in BROUGHT:
        with brought(trial, proof.edge) as ask:
            yield lambda: _fault_of(ask)
        return
    with trial.people() as people:
        _impatient(people)
        step = _STEPS_OF_OURS.get(proof.step.partition(" ")[0], _proof_step)
        yield lambda: _fault_of(lambda: step(trial, people, proof.step))


def _disturbed(trial: Trial, attempt: Attempt, proof: Proof, cut: list[int], row: Row) -> float:
    """Seconds after which the step passes when its connections were forgotten and its pod was started anew."""
    _remind(trial, proof)
    _must_pass(attempt, proof.step, row, "before anything was done")
    _forget_connections(trial, cut)
    _restart(trial, proof.restart)
    began = time.monotonic()
    _remind(trial, proof)
    _must_pass(attempt, proof.step, row, "after its connections were forgotten")
    return round(time.monotonic() - began, 1)


def _rules(trial: Trial, edge: str) -> list[Object]:
    """The policies of an edge, each one end of it. Raises Wrong: an edge that is not there cannot be taken away."""
    found = [
        policy
        for policy in trial.cluster.list("networking.k8s.io/v1", "NetworkPolicy")
        if (policy["metadata"].get("annotations") or {}).get(EDGE) == edge
    ]
    if not found:
        raise Wrong(f"the installed system has no policy of edge {edge}")
    return sorted(found, key=_name)


def _name(policy: Object) -> str:
    return f"{policy['metadata']['namespace']}/{policy['metadata']['name']}"


def _ports(rule: Object) -> list[int]:
    spec = rule["spec"]
    return sorted(
        {int(p["port"]) for part in ("ingress", "egress") for one in spec.get(part, ()) for p in one["ports"]}
    )


@contextmanager
def _taken_away(trial: Trial, rule: Object) -> Iterator[None]:
    """The policy selects no pod for the length of the block."""
    try:
        _select(trial, rule, NOBODY)
        yield
    finally:
        _select(trial, rule, rule["spec"]["podSelector"])


@contextmanager
def _without(trial: Trial, edge: str) -> Iterator[None]:
    """All rules of another edge are taken away for the length of the block."""
    if not edge:
        yield
        return
    rules = _rules(trial, edge)
    with ExitStack() as stack:
        for rule in rules:
            stack.enter_context(_taken_away(trial, rule))
        _forget_connections(trial, sorted({port for rule in rules for port in _ports(rule)}))
        yield


def _select(trial: Trial, rule: Object, selector: Any) -> None:
    """Change whom a policy selects, and wait until every node that has such a pod enforces it so."""
    meta = rule["metadata"]
    selected = trial.pods(meta["namespace"], _words(rule["spec"]["podSelector"]))
    homes = {pod["spec"]["nodeName"] for pod in selected if pod["status"]["phase"] == "Running"}
    before = {node: _enforced(node) for node in trial.site.nodes if node.name in homes}
    change = [{"op": "replace", "path": "/spec/podSelector", "value": selector}]
    trial.cluster.patch("networking.k8s.io/v1", "NetworkPolicy", meta["name"], change, meta["namespace"], type="json")
    deadline = time.monotonic() + ENFORCED_WITHIN_SECONDS
    while before and time.monotonic() < deadline:
        before = {node: rules for node, rules in before.items() if _enforced(node) == rules}
        time.sleep(0.5)
    if before:
        raise Wrong(f"{_name(rule)} is not in force on {', '.join(sorted(node.name for node in before))}")


def _words(selector: Any) -> str:
    """A label selector as a query takes it."""
    terms = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for term in selector.get("matchExpressions") or ():
        terms.append(f"{term['key']} {term['operator'].lower()} ({','.join(term['values'])})")
    return ",".join(terms)


def _enforced(node: Node) -> str:
    """The rules of a node's packet filter."""
    command = ["nsenter", f"--net={node.namespace_path}", "--", "iptables", "-w", "-S"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def _forget_connections(trial: Trial, ports: Sequence[int]) -> None:
    """Let every node forget the TCP connections to these ports."""
    time.sleep(0.5)
    for node in trial.site.nodes:
        for port in ports:
            # By the port that answers: a connection to a service was opened to another one.
            forget = ["conntrack", "-D", "-p", "tcp", "--reply-port-src", str(port)]
            subprocess.run(
                ["nsenter", f"--net={node.namespace_path}", "--", *forget], capture_output=True, check=False, timeout=30
            )


def _restart(trial: Trial, labels: str) -> None:
    if labels == VALKEY_MASTER:
        # Sentinels whose connections were forgotten a moment ago would need two rounds of half a minute for the next
        # master, as long as an empty one waits for them: let them find out first whom they still reach.
        time.sleep(SENTINELS_SECONDS)
        where = ["exec", "-n", "matrix-data", "valkey-server-0", "--", "sh", "/etc/valkey/master.sh"]
        master = _named(trial, "matrix-data", trial.operator("kubectl", *where).stdout.strip())
        # The process, not the pod: one that is stopped hands over by asking a single sentinel, which needs no vote.
        _kill_process(trial, master, "valkey-server")
    elif labels:
        namespace, _, selected = labels.partition(" ")
        found = [pod for pod in trial.pods(namespace, selected) if is_ready(pod)]
        trial.kill_pod(first(found, f"ready pod with {labels}"))
    if labels:
        time.sleep(3.0)


def _named(trial: Trial, namespace: str, name: str) -> Pod:
    return first([pod for pod in trial.pods(namespace) if pod["metadata"]["name"] == name], f"pod {namespace}/{name}")


def _must_fail(attempt: Attempt, step: str, rule: Object, row: Row, lasting: float = FAILING_SECONDS) -> dict[str, Any]:
    """The step fails FAILURES times one after the other, none of them passing, over `lasting` seconds or longer.

    A pass begins the count anew, within FAILS_WITHIN_SECONDS and TRIES: the row says how many tries there were.
    """
    deadline, tries = time.monotonic() + FAILS_WITHIN_SECONDS, 0
    failed, since = 0, time.monotonic()
    while True:
        tries += 1
        fault = attempt()
        failed, since = (failed + 1, since) if fault else (0, time.monotonic())
        lasted = time.monotonic() - since
        if failed >= FAILURES and lasted >= lasting:
            row_of_it = {"tries_without_it": tries, "failed_in_a_row": failed, "failed_for_seconds": round(lasted, 1)}
            return {**row_of_it, "said": fault[:300]}
        if time.monotonic() > deadline or tries >= TRIES:
            raise Wrong(f"without {_name(rule)}, {step} fails only {failed} times in a row, after {tries} tries", row)
        time.sleep(1.0)


def _must_pass(attempt: Attempt, step: str, row: Row, when: str) -> int:
    """How many tries it took."""
    deadline, tries = time.monotonic() + PASSES_WITHIN_SECONDS, 1
    while fault := attempt():
        if time.monotonic() > deadline:
            raise Wrong(f"{step} does not pass {when}, after {tries} tries: {fault}", row)
        tries += 1
        time.sleep(1.0)
    return tries


def _fault_of(act: Callable[[], None]) -> str:
    """What went wrong in a step of the proof, of `status`, or of an admission; empty when nothing did."""
    try:
        act()
    except (Disproved, MatrixError) as fault:
        return str(fault) or type(fault).__name__
    except MxError as error:
        return f"{error.id}: {error.message}"
    return ""


def _proof_step(trial: Trial, people: People, step: str) -> None:
    """A declared step of the proof, by the two users of the case."""
    STEPS[step].act(people.scene)


def _remind(trial: Trial, proof: Proof) -> None:
    """Give PostgreSQL's operator a reason to look, where its word is the step, and time for it.

    Once for each change, never while it looks: whoever writes to the Cluster then makes it begin anew, and it never
    comes to write what it saw.
    """
    if proof.step in (f"status {POSTGRES}", f"reconciled {POSTGRES}"):
        note = {"metadata": {"annotations": {"mxbundle.io/looked-at": str(time.time_ns())}}}
        trial.cluster.patch("postgresql.cnpg.io/v1", "Cluster", "postgres", note, "matrix-data")
        time.sleep(LOOKED_WITHIN_SECONDS)


def _register(trial: Trial, _people: People, _step: str) -> None:
    """The proof's step `register`: it makes users of its own, whom nobody knows before."""
    scene = scene_of(context_of(trial.cluster, trial.answers))
    STEPS["register"].act(scene)
    for account in scene.accounts.values():
        scene.server.login(account).deactivate()


def _status(trial: Trial, _people: People, step: str) -> None:
    """`status RELEASE`: as `mxinstall status` says it, the release is ready and none of its pods is in trouble.

    What it says of PostgreSQL is what the operator wrote when it last looked: see `_remind`.
    """
    release = step.partition(" ")[2]
    if release == POSTGRES:
        time.sleep(LOOK_SECONDS)
    status = read_status(trial.cluster)
    (found,) = (one for one in status.releases if one.name == release)
    troubles = [
        f"{pod.namespace}/{pod.name}: {pod.trouble}"
        for pod in status.pods
        if pod.trouble and pod.namespace == found.namespace
    ]
    if found.obstacles or troubles:
        raise Disproved("; ".join([*found.obstacles, *troubles]))


def _accepts(trial: Trial, _people: People, _step: str) -> None:
    """`accepts postgres`: as the installer asks an operator whether it is ready, a Cluster is offered for a dry run."""
    path = "/apis/postgresql.cnpg.io/v1/namespaces/matrix-data/clusters/postgres"
    status, body = trial.cluster.request(
        "PATCH",
        path,
        body={"spec": {"description": "PostgreSQL of Synapse, dry run"}},
        query={"dryRun": "All"},
        content_type="application/merge-patch+json",
    )
    if status != 200:
        raise Disproved(json.loads(body).get("message", str(status)))


def _archived(trial: Trial, _people: People, _step: str) -> None:
    """`archived`: a piece of the write-ahead log that is closed now is in the store soon."""
    # Where nothing was written since the last switch, there would be nothing to switch.
    _ask_postgres(trial, "SELECT pg_create_restore_point('edge')")
    name = _ask_postgres(trial, "SELECT pg_walfile_name(pg_switch_wal())")
    deadline = time.monotonic() + ARCHIVED_WITHIN_SECONDS
    look = f"SELECT coalesce(last_archived_wal >= '{name}', false) FROM pg_stat_archiver"
    while _ask_postgres(trial, look) != "t":
        if time.monotonic() > deadline:
            raise Disproved(f"{name} is not archived after {ARCHIVED_WITHIN_SECONDS:.0f} s")
        time.sleep(1.0)


def _names(trial: Trial, _people: People, _step: str) -> None:
    """`names`: a pod of each namespace gets an answer from the cluster's DNS. Who is connected asks for none."""
    resolved(trial, (READER, "matrix-data " + INSTANCE, OPERATOR), "postgres-rw.matrix-data.svc.cluster.local")


def _ask_postgres(trial: Trial, statement: str) -> str:
    inside = ["exec", str(trial.primary()["metadata"]["name"]), "-n", "matrix-data", "-c", "postgres", "--"]
    return trial.operator("kubectl", *inside, "psql", "-d", "postgres", "-Atc", statement).stdout.strip()


_STEPS_OF_OURS: dict[str, Callable[[Trial, People, str], None]] = {
    "register": _register,
    "status": _status,
    "accepts": _accepts,
    "reconciled": _status,
    "archived": _archived,
    "names": _names,
}


class Impatient(Homeserver):
    """A homeserver whose client soon gives up."""

    def call(self, *arguments: Any, **options: Any) -> bytes:
        quick = {"timeout_seconds": ANSWER_SECONDS, **options, "patience_seconds": PATIENCE_SECONDS}
        return super().call(*arguments, **quick)


def _impatient(people: People) -> None:
    server = people.scene.server
    quick = Impatient(server.base_url, people.scene.context.ca, people.scene.context.address)
    people.scene.server = quick
    for device in people.scene.devices.values():
        device.server = quick


# --- what is not listed ---------------------------------------------------------------------------------------

MAIN = "app.kubernetes.io/name=synapse,app.kubernetes.io/component=main"
READER = "matrix app.kubernetes.io/name=synapse,app.kubernetes.io/component=client-reader"
INSTANCE = "cnpg.io/podRole=instance"
OPERATOR = "cnpg-system app.kubernetes.io/name=cloudnative-pg"
UNLISTED: tuple[tuple[str, str, str, int], ...] = (
    (READER, "matrix-data", INSTANCE, 8000),
    (READER, "matrix", MAIN, 8008),
    ("matrix app.kubernetes.io/component=routing", "matrix-data", INSTANCE, 5432),
    ("matrix-data cnpg.io/podRole=instance", "matrix", MAIN, 8008),
    (OPERATOR, "matrix-data", INSTANCE, 5432),
)
"""Connections that no edge allows: from (NAMESPACE LABELS), to (namespace, labels), port."""
LISTED = (READER, "matrix", MAIN, 9093)


@case(
    "edges",
    "unlisted",
    "what no edge lists is blocked, and open where nothing is enforced",
    ("manifests/charts", "manifests/values", "darksite/network_policy.py"),
)
def unlisted(trial: Trial) -> Row:
    """Real packets from inside the pods' networks; with enforcement off the same ones arrive."""
    row: Row = {"step": "connect from the pod", "seconds": 0.0}
    began = time.monotonic()
    row["blocked"] = _connect_all(trial)
    if wrong := [what for what, said in row["blocked"].items() if said == "answered"]:
        raise Wrong(f"not blocked: {', '.join(wrong)}", row)
    if (said := _connect(trial, *LISTED)) != "answered":
        raise Wrong(f"a listed edge is blocked: {said}", row)
    try:
        _enforce(trial, False)
        row["open"] = _connect_all(trial)
    finally:
        _enforce(trial, True)
    if wrong := [what for what, said in row["open"].items() if said != "answered"]:
        raise Wrong(f"not open without enforcement, so that blocked means nothing: {', '.join(wrong)}", row)
    deadline = time.monotonic() + 60.0
    while "answered" in _connect_all(trial).values():
        if time.monotonic() > deadline:
            raise Wrong("still open after enforcement was turned on again", row)
        time.sleep(1.0)
    row["seconds"] = round(time.monotonic() - began, 1)
    return row


def _enforce(trial: Trial, wanted: bool) -> None:
    network_policy.decide(trial.site, wanted)
    for node in trial.site.nodes:
        network_policy.settle(trial.site, node)


def _connect_all(trial: Trial) -> dict[str, str]:
    return {f"{one[0]} -> {one[1]} {one[2]}:{one[3]}": _connect(trial, *one) for one in UNLISTED}


def _connect(trial: Trial, source: str, namespace: str, labels: str, port: int) -> str:
    asking, target = _pod(trial, *source.split(" ", 1)), _pod(trial, namespace, labels)
    network = pods.network_of_object(trial.site, asking)
    return network.connect(str(target["status"]["podIP"]), port)


def _pod(trial: Trial, namespace: str, labels: str) -> Pod:
    return first([pod for pod in trial.pods(namespace, labels) if is_ready(pod)], f"ready pod {namespace} {labels}")

"""Releases of the real stack put on a real API server by the real helm: again, changed, pruned, killed at any moment.

There are no nodes: what pods do is the business of the tests of the whole demo.
"""

from __future__ import annotations

import base64
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apiserver import ApiServer, breakable_api_server
from carried_stack import carried_stack, loopback_site
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from mxinstall.cluster import Cluster, Object
from mxinstall.deploy import secrets
from mxinstall.deploy.crds import apply_crds
from mxinstall.deploy.fencing import hold
from mxinstall.deploy.inventory import read_inventory
from mxinstall.deploy.journal import Account, Journal, read_account
from mxinstall.deploy.names import NAMESPACE
from mxinstall.deploy.releases import Deployment, deploy_levels, ensure_namespaces, remove_release
from mxinstall.deploy.workdir import work_dir
from mxinstall.helm_release import HelmReleases, revisions
from mxinstall.plan import Plan, make_plan

from darksite import binaries
from sitebundle.errors import ClusterRefused, JournalUnwritable, MxError, ReleaseFailed, SiteInvalid
from sitebundle.events import silent
from sitebundle.stack import Certificate, Generated, SecretPlan

RELEASES = ("cnpg", "valkey")
AWAY_SECONDS = 10.0
KINDS = (
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
    ("v1", "Namespace"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("policy/v1", "PodDisruptionBudget"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
    ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with breakable_api_server(tmp_path_factory.mktemp("apiserver")) as running:
        yield running


@pytest.fixture(scope="module")
def kubeconfig(server: ApiServer) -> Path:
    return server.kubeconfig


@pytest.fixture(scope="module")
def operator(kubeconfig: Path) -> Cluster:
    return Cluster.connect(kubeconfig)


def deploy(
    operator: Cluster, folder: Path, releases: tuple[str, ...] = RELEASES, **change: Any
) -> tuple[Plan, list[str]]:
    """What an install does between seed and audit; the plan it had and the names of what it changed."""
    carried, site = carried_stack(folder, releases, **change), loopback_site()
    helm = binaries.ensure("helm")
    with work_dir() as work, hold(operator, work, silent) as held:
        cluster = held.cluster
        ensure_namespaces(cluster, carried.stack.namespaces)
        secrets.ensure_secrets(cluster, carried.stack.secrets_at(site.spec_mapping()), site.name)
        apply_crds(cluster, carried.crds)
        inventory = read_inventory(cluster)
        plan = make_plan(cluster, carried, site, helm, inventory)
        account = Account(plan.generation, plan.manifest_digest, "matrix", "demo")
        journal = Journal.open(cluster, account, held.epoch)
        helm_releases = HelmReleases(helm, held.kubeconfig, work)
        deployment = Deployment(cluster, helm_releases, journal, plan.generation, inventory, silent)
        changed = deploy_levels(deployment, plan.levels)
        for name in plan.removed:
            remove_release(cluster, helm_releases, inventory[name], 60)
        journal.commit()
    return plan, changed


def plan_of(operator: Cluster, folder: Path, **change: Any) -> Plan:
    carried = carried_stack(folder, RELEASES, **change)
    return make_plan(operator, carried, loopback_site(), binaries.ensure("helm"), read_inventory(operator))


def state_of(operator: Cluster) -> dict[str, Any]:
    """Generation and content of every object, the lease and what names this run aside."""
    found = {}
    for api_version, kind in KINDS:
        for obj in operator.list(api_version, kind):
            metadata = obj["metadata"]
            name = f"{kind}/{metadata.get('namespace', '')}/{metadata['name']}"
            if metadata.get("namespace") == "kube-system" or metadata["name"].startswith(("epoch-", "generation-")):
                continue
            content = {key: value for key, value in obj.items() if key not in ("metadata", "status")}
            found[name] = (metadata.get("generation"), metadata["uid"], json.dumps(content, sort_keys=True))
    return found


def workload_of(operator: Cluster) -> Object:
    found = operator.get("apps/v1", "StatefulSet", "valkey-server", "matrix-data")
    assert found is not None
    return found


def test_a_second_run_changes_nothing_at_all(operator: Cluster, tmp_path: Path) -> None:
    plan, changed = deploy(operator, tmp_path)
    assert sorted(changed) == sorted(RELEASES)
    assert not plan.nothing_to_do
    before = state_of(operator)
    again, changed = deploy(operator, tmp_path)
    assert again.nothing_to_do
    assert changed == []
    assert state_of(operator) == before


def test_another_digest_of_one_image_changes_its_release_alone(operator: Cluster, tmp_path: Path) -> None:
    deploy(operator, tmp_path)
    before, operators_before = workload_of(operator), read_inventory(operator)["cnpg"]
    plan, changed = deploy(operator, tmp_path, generation=2, renewed="valkey")
    assert {planned.name: planned.change for planned in plan.releases} == {"cnpg": "unchanged", "valkey": "changed"}
    assert changed == ["valkey"]
    after = workload_of(operator)
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert read_inventory(operator)["cnpg"] == operators_before


def test_drift_is_found_and_put_right(operator: Cluster, tmp_path: Path) -> None:
    deploy(operator, tmp_path)
    operator.patch("apps/v1", "StatefulSet", "valkey-server", {"spec": {"replicas": 4}}, "matrix-data")
    operator.delete("v1", "ServiceAccount", "cnpg-manager", "cnpg-system")
    plan = plan_of(operator, tmp_path)
    drift = {planned.name: planned.drift for planned in plan.releases}
    assert drift == {
        "cnpg": ("ServiceAccount/cnpg-system/cnpg-manager",),
        "valkey": ("StatefulSet/matrix-data/valkey-server",),
    }
    deploy(operator, tmp_path)
    assert workload_of(operator)["spec"]["replicas"] == 3
    assert operator.get("v1", "ServiceAccount", "cnpg-manager", "cnpg-system") is not None
    assert plan_of(operator, tmp_path).nothing_to_do


def test_a_release_that_is_gone_from_the_stack_is_removed_and_its_crds_stay(operator: Cluster, tmp_path: Path) -> None:
    deploy(operator, tmp_path)
    plan, _ = deploy(operator, tmp_path, ("valkey",))
    assert plan.removed == ("cnpg",)
    assert operator.get("apps/v1", "Deployment", "cnpg-controller-manager", "cnpg-system") is None
    crd = "clusters.postgresql.cnpg.io"
    assert operator.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", crd) is not None
    assert "cnpg" not in read_inventory(operator)


def test_a_run_killed_at_any_moment_is_finished_by_the_next(
    operator: Cluster, kubeconfig: Path, tmp_path: Path
) -> None:
    """Every round begins with another digest, is killed after another time, and must end as if nothing had been."""
    deploy(operator, tmp_path)
    script = (
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[4:]\n"
        "from test_deploy_releases import deploy; from mxinstall.cluster import Cluster\n"
        "print('begins', flush=True)\n"
        "deploy(Cluster.connect(Path(sys.argv[1])), Path(sys.argv[2]), renewed=sys.argv[3])\n"
    )
    chance = random.Random(7)
    killed = 0
    for round_number in range(6):
        renewed = ("valkey", "cloudnative-pg")[round_number % 2]
        command = [sys.executable, "-c", script, str(kubeconfig), str(tmp_path), renewed]
        command += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout is not None
            assert run.stdout.readline() == "begins\n"
            time.sleep(chance.uniform(0.2, 4.0))
            run.kill()
        killed += run.returncode == -9
        deploy(operator, tmp_path, renewed=renewed)
        assert plan_of(operator, tmp_path, renewed=renewed).nothing_to_do
        assert [r.status for r in revisions(operator, "valkey", "matrix-data")][-1:] == ["deployed"]
        assert all(record.finished for record in read_inventory(operator).values())
    assert killed >= 3


def test_an_upgrade_that_fails_says_that_there_is_no_way_back(operator: Cluster, tmp_path: Path) -> None:
    deploy(operator, tmp_path)
    place = ("apps/v1", "Deployment", "cnpg-controller-manager", "cnpg-system")
    live = operator.get(*place)
    assert live is not None
    # Its selector cannot be changed: from now on the API server itself refuses the apply.
    operator.delete(*place)
    spec = json.loads(json.dumps(live["spec"]).replace("cloudnative-pg", "somebody-else"))
    names = {"name": place[2], "namespace": place[3]}
    operator.create({"apiVersion": place[0], "kind": place[1], "metadata": names, "spec": spec})
    try:
        with pytest.raises(ReleaseFailed, match=r"(?s)Release cnpg .*immutable.*forward only.*never rolled back"):
            deploy(operator, tmp_path, renewed="cloudnative-pg")
        assert not read_inventory(operator)["cnpg"].finished
    finally:
        operator.delete(*place)
    deploy(operator, tmp_path)
    assert all(record.finished for record in read_inventory(operator).values())


def test_an_api_server_that_goes_away_for_a_while_is_waited_for(
    server: ApiServer, operator: Cluster, tmp_path: Path
) -> None:
    """It stops in the middle of a release: the run survives, or ends in one error, and the next one finishes."""
    deploy(operator, tmp_path)
    ended: list[MxError | None] = []

    def run() -> None:
        try:
            deploy(operator, tmp_path, renewed="valkey")
        except MxError as fault:
            ended.append(fault)
        else:
            ended.append(None)

    def in_the_release() -> bool:
        account = read_account(operator, 1)
        return account is not None and account.state == "running" and bool(account.entries)

    running = threading.Thread(target=run)
    running.start()
    while not in_the_release():
        assert running.is_alive(), ended
        time.sleep(0.02)
    server.stop("kube-apiserver")
    again = threading.Timer(AWAY_SECONDS, server.start, ["kube-apiserver"])
    again.start()
    began = time.monotonic()
    # A request that meets the gap waits for its end.
    assert operator.get("v1", "Namespace", NAMESPACE) is not None
    assert time.monotonic() - began >= AWAY_SECONDS
    running.join(timeout=120)
    (fault,) = ended
    # Helm has no patience of its own: only its failure may end the run, and it names the release.
    assert fault is None or (fault.id == "release-failed" and "Release valkey" in fault.message), fault
    deploy(operator, tmp_path, renewed="valkey")
    assert plan_of(operator, tmp_path, renewed="valkey").nothing_to_do


def test_the_journal_says_what_began_and_ended(operator: Cluster, tmp_path: Path) -> None:
    deploy(operator, tmp_path, renewed="valkey")
    deploy(operator, tmp_path)
    account = read_account(operator, 1)
    assert account is not None
    assert account.state == "committed"
    assert [entry.name for entry in account.entries] == ["release/valkey"]
    assert all(entry.ended for entry in account.entries)


def test_a_journal_that_cannot_be_written_stops_the_run_before_the_change(operator: Cluster, tmp_path: Path) -> None:
    deploy(operator, tmp_path)
    before = workload_of(operator)["metadata"]["generation"]
    # A Secret's type cannot be changed: from now on the journal's apply is refused by the API server itself.
    operator.delete("v1", "Secret", "generation-1", NAMESPACE)
    operator.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "generation-1", "namespace": NAMESPACE},
            "type": "Opaque",
            "data": {"journal.json": base64.b64encode(b"{}").decode()},
        }
    )
    try:
        with pytest.raises(JournalUnwritable):
            deploy(operator, tmp_path, renewed="valkey")
        assert workload_of(operator)["metadata"]["generation"] == before
    finally:
        operator.delete("v1", "Secret", "generation-1", NAMESPACE)


def test_no_secret_value_is_in_journal_or_inventory(operator: Cluster, tmp_path: Path) -> None:
    deploy(operator, tmp_path)
    generated = operator.get("v1", "Secret", "valkey-auth", "matrix-data")
    assert generated is not None
    password = base64.b64decode(generated["data"]["password"])
    kept = operator.list("v1", "Secret", NAMESPACE, labels="mxbundle.io/part in (journal,inventory,admission)")
    assert len(kept) >= 3
    for secret in kept:
        for value in secret["data"].values():
            assert password not in base64.b64decode(value)


def test_secrets_are_made_once_and_are_the_same_in_every_namespace(operator: Cluster) -> None:
    for name in ("secrets-a", "secrets-b"):
        operator.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    plan = SecretPlan(name="shared", namespaces=("secrets-a", "secrets-b"), data={"k": Generated(generate="random")})
    with work_dir() as work, hold(operator, work, silent) as held:
        assert secrets.missing(held.cluster, [plan]) == ["secrets-a/shared", "secrets-b/shared"]
        assert secrets.ensure_secrets(held.cluster, [plan], "t") == ["secrets-a/shared", "secrets-b/shared"]
        first = operator.get("v1", "Secret", "shared", "secrets-a")
        # As if the first run had been ended between the two namespaces.
        operator.delete("v1", "Secret", "shared", "secrets-b")
        assert secrets.ensure_secrets(held.cluster, [plan], "t") == ["secrets-b/shared"]
        # A later stack wants one more key: what is there stays.
        wider = plan.model_copy(update={"data": {**plan.data, "more": Generated(value="x")}})
        assert secrets.ensure_secrets(held.cluster, [wider], "t") == ["secrets-a/shared", "secrets-b/shared"]
        assert secrets.ensure_secrets(held.cluster, [wider], "t") == []
    one, two = (operator.get("v1", "Secret", "shared", namespace) for namespace in plan.namespaces)
    assert first is not None
    assert one is not None
    assert two is not None
    assert one["data"] == two["data"]
    assert one["data"]["k"] == first["data"]["k"]


def test_a_certificate_that_lost_its_key_comes_back_as_a_pair(operator: Cluster) -> None:
    operator.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "secrets-a"}})
    wanted = Certificate(commonName="db.secrets-a.svc", dns=("db.secrets-a.svc",))
    plan = SecretPlan(name="pair", namespaces=("secrets-a",), certificate=wanted)

    def pair() -> dict[str, bytes]:
        found = operator.get("v1", "Secret", "pair", "secrets-a")
        assert found is not None
        return {key: base64.b64decode(value) for key, value in found["data"].items()}

    with work_dir() as work, hold(operator, work, silent) as held:
        secrets.ensure_secrets(held.cluster, [plan], "t")
        first = pair()
        operator.patch("v1", "Secret", "pair", {"data": {"tls.key": None}}, "secrets-a")
        assert secrets.ensure_secrets(held.cluster, [plan], "t") == ["secrets-a/pair"]
    now = pair()
    assert now["tls.crt"] != first["tls.crt"]
    key = serialization.load_pem_private_key(now["tls.key"], None)
    assert x509.load_pem_x509_certificate(now["tls.crt"]).public_key() == key.public_key()


def test_a_refusal_of_the_api_server_says_what_it_refused(operator: Cluster) -> None:
    with pytest.raises(ClusterRefused, match="404"):
        operator.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "nowhere"}})


def test_the_registrys_pull_secret_is_taken_from_the_system_namespace_into_every_other(operator: Cluster) -> None:
    def secret(text: str) -> Object:
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "registry-login", "namespace": NAMESPACE},
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": base64.b64encode(text.encode()).decode()},
        }

    operator.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "secrets-a"}})
    copies = secrets.pull_secret_copies("registry-login", (NAMESPACE, "secrets-a"))
    with work_dir() as work, hold(operator, work, silent) as held:
        with pytest.raises(SiteInvalid, match="no Secret mx-system/registry-login"):
            secrets.copy_gaps(held.cluster, copies)
        for login in ('{"auths": {}}', '{"auths": {"10.0.0.1:5000": {}}}'):
            operator.apply(secret(login))
            assert secrets.copy_gaps(held.cluster, copies) == ["secrets-a/registry-login"]
            secrets.spread(held.cluster, copies)
            assert secrets.copy_gaps(held.cluster, copies) == []
    copy = operator.get("v1", "Secret", "registry-login", "secrets-a")
    assert copy is not None
    assert copy["data"] == secret(login)["data"]

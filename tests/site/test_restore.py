"""The database goes through a pooler, is backed up outside the cluster, and comes back to a moment.

As docs/guide/restore.md says it: one rehearsal in its order, by the operator's own commands. Each test looks at one
thing that it left.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from darksite import backup_host
from darksite.demo import ROOT, SITE_NAME, Places, operator_environment
from darksite.site import Site

pytestmark = pytest.mark.site
PLACES = Places(ROOT / "build")
PROGRAMS = Path(sys.executable).parent
REHEARSAL = Path(__file__).with_name("rehearsal.py")
RESTORED = "postgres-restored"
KEPT = ".before-rehearsal"
WAIT_SECONDS = 300
INSTALL_SECONDS = 1500
Operator = Callable[..., str]


@dataclass
class Told:
    """What the rehearsal saw on its way; `seconds` of each part of it."""

    pools: list[dict[str, str]] = field(default_factory=list)
    connections: dict[str, int] = field(default_factory=dict)
    server_version: str = ""
    first_backup: dict[str, Any] = field(default_factory=dict)
    backup: dict[str, Any] = field(default_factory=dict)
    archived: dict[str, Any] = field(default_factory=dict)
    stored: tuple[str, ...] = ()
    keys_before: int = 0
    keys_after: int = -1
    installed: dict[str, Any] = field(default_factory=dict)
    clusters: dict[str, Any] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    history_of_the_old_one: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


class Rehearsal:
    """The operator's commands."""

    def __init__(self, operator: Operator, site: Site, users: Path) -> None:
        self.operator = operator
        self.site = site
        self.users = users
        self.site_file = site.installer_state / SITE_NAME / "site.yaml"

    def kubectl(self, *words: str) -> str:
        return self.operator("kubectl", *words)

    def objects(self, *words: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", *words, "-o", "json"))["items"]
        return found

    def write(self, *phrases: str) -> None:
        self.operator(sys.executable, str(REHEARSAL), "write", str(self.users), *phrases)

    def read(self) -> list[str]:
        found: list[str] = json.loads(self.operator(sys.executable, str(REHEARSAL), "read", str(self.users)))
        return found

    def primary(self, cluster: str) -> str:
        labels = f"cnpg.io/cluster={cluster},cnpg.io/instanceRole=primary"
        (pod,) = self.objects("pods", "-n", "matrix-data", "-l", labels)
        return str(pod["metadata"]["name"])

    def query(self, cluster: str, statement: str, database: str = "synapse") -> str:
        psql = ["psql", "-d", database, "-Atc", statement]
        inside = ["exec", self.primary(cluster), "-n", "matrix-data", "-c", "postgres", "--", *psql]
        return self.kubectl(*inside).strip()

    def until(self, what: str, look: Callable[[], bool], seconds: float = WAIT_SECONDS) -> float:
        began = time.monotonic()
        while not look():
            assert time.monotonic() - began < seconds, f"after {seconds} s: {what}"
            time.sleep(1)
        return round(time.monotonic() - began, 1)

    def install(self) -> dict[str, Any]:
        signers, bundle = PLACES.dark / "allowed_signers", PLACES.stick / "site.tar.zst"
        command = [sys.executable, "-m", "darksite", "shell", "--", str(PROGRAMS / "mxinstall"), "--json", "--yes"]
        command += ["--bundle", str(bundle), "--allowed-signers", str(signers)]
        environment = {**os.environ, **operator_environment(self.site)}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]} {done.stderr[-2000:]}"
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    def set_values(self, values: dict[str, Any]) -> None:
        """Say in site.yaml what is to be restored; `forget_the_restore` takes it back."""
        kept = self.site_file.with_suffix(KEPT)
        if not kept.exists():
            kept.write_text(self.site_file.read_text())
        site = yaml.safe_load(kept.read_text())
        site["spec"]["values"] = {**(site["spec"].get("values") or {}), **values}
        self.site_file.write_text(yaml.safe_dump(site, sort_keys=False))

    def back_up(self) -> dict[str, Any]:
        """A base backup that is asked for."""
        name = f"rehearsed-{int(time.time())}"
        wanted = {
            "apiVersion": "postgresql.cnpg.io/v1",
            "kind": "Backup",
            "metadata": {"name": name, "namespace": "matrix-data"},
            "spec": {
                "cluster": {"name": "postgres"},
                "method": "plugin",
                "pluginConfiguration": {"name": "barman-cloud.cloudnative-pg.io"},
            },
        }
        place = self.users.with_name("backup.json")
        place.write_text(json.dumps(wanted))
        self.kubectl("apply", "-f", str(place))
        status: dict[str, Any] = {}

        def completed() -> bool:
            (found,) = (one for one in self.objects("backups", "-n", "matrix-data") if _named(one, name))
            status.update(found.get("status", {}))
            assert status.get("phase") != "failed", status
            return status.get("phase") == "completed"

        self.until(f"the backup is not completed: {status}", completed)
        return status

    def first_backup(self) -> dict[str, Any]:
        """The base backup that a new Cluster takes by itself."""
        found: dict[str, Any] = {}

        def completed() -> bool:
            scheduled = self.objects("backups", "-n", "matrix-data", "-l", "cnpg.io/scheduled-backup=postgres")
            done = [one["status"] for one in scheduled if one.get("status", {}).get("phase") == "completed"]
            found.update(done[0] if done else {})
            return bool(done)

        self.until("no scheduled backup is completed", completed)
        return found

    def send_the_log(self) -> dict[str, Any]:
        """Ends the log's current file and waits until the store has it."""
        name = self.query("postgres", "SELECT pg_walfile_name(pg_switch_wal())", "postgres")
        look = "SELECT coalesce(last_archived_wal >= '{}', false) FROM pg_stat_archiver"
        self.until(f"{name} was not sent", lambda: self.query("postgres", look.format(name), "postgres") == "t")
        row = self.query("postgres", "SELECT row_to_json(a) FROM pg_stat_archiver a", "postgres")
        return {**json.loads(row), "switched": name}


def _named(obj: dict[str, Any], name: str) -> bool:
    return bool(obj["metadata"]["name"] == name)


def forget_the_restore(site: Site) -> bool:
    """Give site.yaml back what it said before the rehearsal; False when it says nothing else."""
    site_file = site.installer_state / SITE_NAME / "site.yaml"
    kept = site_file.with_suffix(KEPT)
    if not kept.exists():
        return False
    # Written anew, not moved: mxinstall refuses a kept file that is older than the install from another one.
    site_file.write_text(kept.read_text())
    kept.unlink()
    return True


@pytest.fixture(scope="module")
def told(request: pytest.FixtureRequest, operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Told:
    # A rehearsal that was killed leaves its wishes in site.yaml, and the demo would fulfil them.
    forget_the_restore(Site.from_environment())
    demo: dict[str, Any] = request.getfixturevalue("demo")
    site: Site = request.getfixturevalue("site")
    assert demo["passed"], demo["failure"]
    _remove_restored(operator)
    act = Rehearsal(operator, site, tmp_path_factory.mktemp("rehearsal") / "users.json")
    found = Told()
    _look_at_the_pooler(act, found)
    act.write("before the backup")
    found.first_backup = act.first_backup()
    found.keys_before = int(act.query("postgres", "SELECT count(*) FROM e2e_one_time_keys_json"))
    began = time.monotonic()
    found.backup = act.back_up()
    found.seconds["base backup"] = round(time.monotonic() - began, 1)
    act.write("after the backup")
    time.sleep(2)
    target = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    time.sleep(2)
    act.write("after the moment")
    found.archived = act.send_the_log()
    found.stored = backup_host.stored(site)
    act.kubectl("-n", "matrix", "scale", "statefulset", "--all", "--replicas=0")
    gone = ["pod", "-l", "app.kubernetes.io/name=synapse", "--for=delete", "--timeout=180s"]
    act.kubectl("-n", "matrix", "wait", *gone)
    host = f"{RESTORED}-pooler.matrix-data.svc.cluster.local"
    # No two Clusters write into one archive, and the one of a rehearsal before this one stays in the store.
    archive = {"serverName": f"{RESTORED}-{int(time.time())}"}
    recovery = {"name": RESTORED, "recovery": {"source": "postgres", "targetTime": target}, "backup": archive}
    try:
        act.set_values({"postgres": recovery, "synapse": {"database": {"host": host}}})
        began = time.monotonic()
        found.installed = act.install()
        found.seconds["restore: Synapse stopped until it was proved on the restored database"] = round(
            time.monotonic() - began, 1
        )
        found.keys_after = int(act.query(RESTORED, "SELECT count(*) FROM e2e_one_time_keys_json"))
        found.history = act.read()
        for cluster in act.objects("clusters.postgresql.cnpg.io", "-n", "matrix-data"):
            found.clusters[cluster["metadata"]["name"]] = cluster
    finally:
        # The other tests want the system that the demo made: it was not touched. The install stops and starts Synapse.
        forget_the_restore(site)
        act.install()
        _remove_restored(operator)
    found.history_of_the_old_one = act.read()
    (PLACES.build / "restore-report.json").write_text(json.dumps(vars(found), indent=1) + "\n")
    return found


def _remove_restored(operator: Operator) -> None:
    operator("kubectl", "delete", "cluster", RESTORED, "-n", "matrix-data", "--ignore-not-found", "--wait")


def _look_at_the_pooler(act: Rehearsal, found: Told) -> None:
    pods = act.objects("pods", "-n", "matrix-data", "-l", "cnpg.io/poolerName=postgres-pooler")
    for pod in pods:
        name = pod["metadata"]["name"]
        psql = ["psql", "-U", "pgbouncer", "pgbouncer", "--csv", "-c", "SHOW POOLS"]
        said = act.kubectl("exec", name, "-n", "matrix-data", "-c", "pgbouncer", "--", *psql)
        head, *rows = (line.split(",") for line in said.strip().splitlines())
        found.pools += [{"pod": name, **dict(zip(head, row, strict=True))} for row in rows]
    addresses = {pod["status"]["podIP"]: pod["metadata"]["name"] for pod in pods}
    statement = "SELECT host(client_addr), count(*) FROM pg_stat_activity WHERE usename = 'synapse' GROUP BY 1"
    for line in act.query("postgres", statement).splitlines():
        address, count = line.split("|")
        found.connections[addresses.get(address, address)] = int(count)


def test_every_connection_of_synapse_goes_through_the_pooler(told: Told) -> None:
    assert sum(told.connections.values()) > 5
    assert all(name.startswith("postgres-pooler-") for name in told.connections), told.connections
    mine = [pool for pool in told.pools if (pool["database"], pool["user"]) == ("synapse", "synapse")]
    assert {pool["pool_mode"] for pool in mine} == {"session"}
    assert sum(int(pool["sv_active"]) for pool in mine) >= 5
    assert sum(int(pool["cl_waiting"]) for pool in mine) == 0


def test_a_new_cluster_backs_itself_up_at_once(told: Told) -> None:
    assert told.first_backup["phase"] == "completed"
    assert told.first_backup["method"] == "plugin"


def test_a_base_backup_and_the_log_are_on_a_machine_outside_the_cluster(told: Told) -> None:
    assert told.backup["phase"] == "completed"
    assert told.backup["method"] == "plugin"
    assert any(name.startswith("postgres/postgres/base/") and name.endswith("data.tar.gz") for name in told.stored)
    assert any(f"/{told.archived['switched']}" in name for name in told.stored), told.stored
    assert told.archived["archived_count"] > 0


def test_a_new_cluster_has_what_was_there_at_the_moment_and_nothing_later(told: Told) -> None:
    assert told.installed["outcome"] == "installed"
    assert set(told.history) == {"before the backup", "after the backup"}
    assert told.clusters[RESTORED]["status"]["phase"] == "Cluster in healthy state"
    assert told.clusters[RESTORED]["status"]["readyInstances"] == 3


def test_keys_that_were_handed_out_are_not_handed_out_again(told: Told) -> None:
    assert told.keys_before >= 1
    assert told.keys_after == 0


def test_the_restored_system_was_proved_by_the_install(told: Told) -> None:
    assert told.installed["proof"]
    assert all(step["ok"] for step in told.installed["proof"])
    assert told.installed["audit"]["mismatched"] == 0


def test_the_old_database_was_not_touched(told: Told) -> None:
    assert set(told.history_of_the_old_one) == {"before the backup", "after the backup", "after the moment"}

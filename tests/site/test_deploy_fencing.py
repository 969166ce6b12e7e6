"""Two installers at once, on a real API server: the one that was fenced off changes nothing any more.

The first installer is a process of its own that drives the real helm through a hook that waits, so that it is
stopped in the very middle of a release.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from apiserver import api_server
from mxinstall.cluster import Cluster
from mxinstall.deploy import fencing
from mxinstall.deploy.fencing import TOKEN_CACHE_SECONDS, current_holder, hold
from mxinstall.deploy.names import LEASE, NAMESPACE, SERVICE_ACCOUNT
from mxinstall.deploy.workdir import work_dir
from mxinstall.helm_release import HelmReleases, recover, revisions
from mxinstall.uninstall import uninstall

from darksite import binaries
from sitebundle.errors import AnotherInstaller, FencedOff, ReleaseFailed
from sitebundle.events import silent

INSTALLER = """
import sys
from pathlib import Path
from mxinstall.cluster import Cluster
from mxinstall.deploy.fencing import hold
from mxinstall.deploy.workdir import work_dir
from mxinstall.helm_release import HelmReleases, still_ours
from sitebundle.errors import MxError
from sitebundle.events import silent

kubeconfig, helm, chart = map(Path, sys.argv[1:])
try:
    with work_dir() as work, hold(Cluster.connect(kubeconfig), work, silent) as held:
        print("held", held.epoch, flush=True)
        try:
            HelmReleases(helm, held.kubeconfig, work).upgrade("slow", "default", chart, {"text": "first"}, 120)
        except MxError as fault:
            print("helm", fault.message, flush=True)
            still_ours(held.cluster)
            raise
except MxError as fault:
    print(fault.id, flush=True)
    sys.exit(fault.exit_code)
"""

HOOK = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {
        "name": "wait",
        "annotations": {
            "helm.sh/hook": "pre-install,pre-upgrade",
            "helm.sh/hook-delete-policy": "before-hook-creation",
        },
    },
    "spec": {
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "wait", "image": "local.test/wait:1"}]}}
    },
}
CONTENT = """apiVersion: v1
kind: ConfigMap
metadata: {name: content}
data: {text: "{{ .Values.text }}"}
"""


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with api_server(tmp_path_factory.mktemp("apiserver")) as path:
        yield path


@pytest.fixture(scope="module")
def helm() -> Path:
    return binaries.ensure("helm")


@pytest.fixture
def operator(kubeconfig: Path) -> Iterator[Cluster]:
    """The operator's access; nothing of an earlier test is left."""
    cluster = Cluster.connect(kubeconfig)
    for kind, name in (("ConfigMap", "content"),):
        cluster.delete("v1", kind, name, "default")
    cluster.delete("batch/v1", "Job", "wait", "default")
    for revision in revisions(cluster, "slow", "default"):
        cluster.delete("v1", "Secret", revision.secret, "default")
    return cluster


def chart(folder: Path, *, waits: bool) -> Path:
    """A chart with one ConfigMap and, when it `waits`, a hook that nobody ends."""
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text("apiVersion: v2\nname: slow\nversion: 0.1.0\n")
    (folder / "templates" / "content.yaml").write_text(CONTENT)
    if waits:
        (folder / "templates" / "hook.yaml").write_text(yaml.safe_dump(HOOK))
    return folder


def until(what: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for it; fail when it does not come."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.1)


def content_of(cluster: Cluster) -> str:
    """One hash over everything that a fenced-off installer could have changed, the lease and epochs aside."""
    found = []
    for api_version, kind in (
        ("v1", "ConfigMap"),
        ("v1", "Secret"),
        ("batch/v1", "Job"),
        ("v1", "Namespace"),
        ("v1", "ServiceAccount"),
    ):
        for obj in cluster.list(api_version, kind):
            if (
                obj["metadata"]["name"].startswith("epoch-")
                or obj["metadata"]["namespace" if kind != "Namespace" else "name"] == "kube-system"
            ):
                continue
            found.append(json.dumps({k: v for k, v in obj.items() if k != "status"}, sort_keys=True))
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that still run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


def start_installer(kubeconfig: Path, helm: Path, folder: Path) -> subprocess.Popen[str]:
    """An installer that is in the middle of a release when this returns."""
    return subprocess.Popen(
        [sys.executable, "-c", INSTALLER, str(kubeconfig), str(helm), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def finish_hook(cluster: Cluster) -> None:
    """Say that the hook's Job is complete, as its controller would."""
    now = "2026-01-01T00:00:00Z"
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": now, "reason": "x", "message": "x"}
        for kind in ("SuccessCriteriaMet", "Complete")
    ]
    status = {"startTime": now, "completionTime": now, "succeeded": 1, "conditions": conditions}
    cluster.patch("batch/v1", "Job", "wait", {"status": status}, "default", subresource="status")


def test_a_second_installer_is_refused_while_the_first_lives(operator: Cluster) -> None:
    with work_dir() as work, hold(operator, work, silent) as held:
        with pytest.raises(AnotherInstaller) as refusal, hold(operator, work, silent):
            pass
        assert str(os.getpid()) in refusal.value.message
        # The first was not disturbed.
        assert held.cluster.get("v1", "Namespace", NAMESPACE) is not None
    assert current_holder(operator) is None


def test_a_living_installer_whose_clock_is_behind_is_not_taken_for_dead(
    operator: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fencing, "RENEW_SECONDS", 2.0)
    long_ago = {"spec": {"renewTime": "2020-01-01T00:00:00.000000Z"}}
    with work_dir() as work, hold(operator, work, silent) as held:
        operator.patch("coordination.k8s.io/v1", "Lease", LEASE, long_ago, NAMESPACE)
        with pytest.raises(AnotherInstaller), hold(operator, work, silent):
            pass
        assert held.cluster.get("v1", "Namespace", NAMESPACE) is not None


def test_the_epoch_ends_with_the_hold_and_the_next_one_is_higher(operator: Cluster) -> None:
    with work_dir() as work:
        with hold(operator, work, silent) as first:
            names = [s["metadata"]["name"] for s in operator.list("v1", "Secret", NAMESPACE)]
            assert f"epoch-{first.epoch}" in names
        began = time.monotonic()
        with hold(operator, work, silent) as second:
            assert second.epoch == first.epoch + 1
        # Nobody had to be fenced off: a clean end costs no waiting.
        assert time.monotonic() - began < TOKEN_CACHE_SECONDS / 2


def test_helm_and_installer_that_were_stopped_change_nothing_after_a_takeover(
    operator: Cluster, kubeconfig: Path, helm: Path, tmp_path: Path
) -> None:
    first = start_installer(kubeconfig, helm, chart(tmp_path / "chart", waits=True))
    try:
        until(lambda: operator.get("batch/v1", "Job", "wait", "default"))
        (running,) = children(first.pid)
        os.kill(running, signal.SIGSTOP)
        os.kill(first.pid, signal.SIGSTOP)
        with work_dir() as work, hold(operator, work, silent, take_over=True) as held:
            # What the stopped helm waits for comes about: with its token it would go on and write the ConfigMap.
            finish_hook(operator)
            before = content_of(operator)
            os.kill(running, signal.SIGCONT)
            os.kill(first.pid, signal.SIGCONT)
            assert first.wait(timeout=60) == FencedOff.exit_code
            assert content_of(operator) == before
            assert operator.get("v1", "ConfigMap", "content", "default") is None
            # The second one is not harmed by the first one's end.
            assert held.cluster.get("v1", "Namespace", NAMESPACE) is not None
            assert current_holder(operator) is not None
        assert first.stdout is not None
        assert "fenced-off" in first.stdout.read()
    finally:
        first.kill()
        first.communicate()


def test_helm_dies_with_a_killed_installer_and_the_next_one_goes_on(
    operator: Cluster, kubeconfig: Path, helm: Path, tmp_path: Path
) -> None:
    with start_installer(kubeconfig, helm, chart(tmp_path / "chart", waits=True)) as first:
        until(lambda: operator.get("batch/v1", "Job", "wait", "default"))
        (running,) = children(first.pid)
        first.kill()
    until(lambda: not Path(f"/proc/{running}").exists(), 5)
    assert [revision.status for revision in revisions(operator, "slow", "default")] == ["pending-install"]

    began = time.monotonic()
    with work_dir() as work, hold(operator, work, silent) as held:
        # A holder on this host that is provably dead needs neither --take-over nor waiting.
        assert time.monotonic() - began < TOKEN_CACHE_SECONDS / 2
        assert [revision.number for revision in recover(held.cluster, "slow", "default")] == [1]
        releases = HelmReleases(helm, held.kubeconfig, work)
        releases.upgrade("slow", "default", chart(tmp_path / "quick", waits=False), {"text": "second"}, 60)
    content = operator.get("v1", "ConfigMap", "content", "default")
    assert content is not None
    assert content["data"] == {"text": "second"}
    assert [revision.status for revision in revisions(operator, "slow", "default")] == ["deployed"]


def test_an_install_goes_on_over_an_uninstall_that_was_killed(operator: Cluster, helm: Path, tmp_path: Path) -> None:
    def upgrade(text: str) -> None:
        assert [r.status for r in recover(held.cluster, "slow", "default")] == (["uninstalling"] * (text == "second"))
        releases.upgrade("slow", "default", quick, {"text": text}, 60)

    quick = chart(tmp_path / "quick", waits=False)
    with work_dir() as work, hold(operator, work, silent) as held:
        releases = HelmReleases(helm, held.kubeconfig, work)
        upgrade("first")
        # There is no garbage collector here, so that an uninstall in the foreground does not come to its end by itself.
        threading.Timer(2.0, releases.stop.set).start()
        with pytest.raises(ReleaseFailed, match="interrupted"):
            releases.uninstall("slow", "default", 60)
        releases.stop.clear()
        upgrade("second")
    assert [revision.status for revision in revisions(operator, "slow", "default")] == ["deployed"]


def test_a_takeover_that_was_killed_while_it_waited_does_not_count_as_done(operator: Cluster, kubeconfig: Path) -> None:
    """The token that it took away may still be believed, so the next installer waits in full."""
    script = (
        "import sys; from pathlib import Path; from mxinstall.cluster import Cluster\n"
        "from mxinstall.deploy.fencing import hold; from mxinstall.deploy.workdir import work_dir\n"
        "with work_dir() as work, hold(Cluster.connect(Path(sys.argv[1])), work, print, take_over=True): pass\n"
    )
    with work_dir() as work, hold(operator, work, silent) as held:
        second = subprocess.Popen([sys.executable, "-uc", script, str(kubeconfig)], stdout=subprocess.PIPE)
        with second:
            assert second.stdout is not None
            assert b"fencing off" in second.stdout.readline()
            second.kill()
        began = time.monotonic()
        with hold(operator, work, silent) as third:
            assert time.monotonic() - began >= TOKEN_CACHE_SECONDS
            assert third.epoch == held.epoch + 2
            with pytest.raises(FencedOff):
                held.cluster.get("v1", "Namespace", NAMESPACE)
    began = time.monotonic()
    with work_dir() as work, hold(operator, work, silent):
        assert time.monotonic() - began < TOKEN_CACHE_SECONDS / 2, "a wait that was made is not made again"


def test_without_a_takeover_the_same_installer_goes_on_and_ends_well(
    operator: Cluster, kubeconfig: Path, helm: Path, tmp_path: Path
) -> None:
    """What the takeover prevents does happen without it: the test above could fail."""
    with start_installer(kubeconfig, helm, chart(tmp_path / "chart", waits=True)) as first:
        until(lambda: operator.get("batch/v1", "Job", "wait", "default"))
        (running,) = children(first.pid)
        os.kill(running, signal.SIGSTOP)
        finish_hook(operator)
        os.kill(running, signal.SIGCONT)
        assert first.wait(timeout=60) == 0
    assert operator.get("v1", "ConfigMap", "content", "default") is not None


def test_an_uninstall_with_its_data_takes_the_installers_own_namespace_and_rights_too(operator: Cluster) -> None:
    """Last here: there is no namespace controller; the test ends the namespace, and what was in it stays."""
    with work_dir() as work, hold(operator, work, silent):
        pass
    ended: list[int] = []

    def finalize() -> None:
        until(lambda: (operator.get("v1", "Namespace", NAMESPACE) or {})["status"]["phase"] == "Terminating")
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}, "spec": {"finalizers": []}}
        ended.append(operator.request("PUT", f"/api/v1/namespaces/{NAMESPACE}/finalize", body=body)[0])

    controller = threading.Thread(target=finalize)
    controller.start()
    removal = uninstall(operator, silent, delete_data=True, keep_registry=True)
    controller.join()
    assert ended == [200]
    assert removal.namespaces == (NAMESPACE,)
    assert operator.get("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", SERVICE_ACCOUNT) is None

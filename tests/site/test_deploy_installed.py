"""The installed demo system: run again, upgraded, downgraded, killed, stopped and taken over, by the real commands.

The tests build on each other in this order: each generation is higher than all before it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from darksite import binaries, upstream
from darksite.demo import operator_environment
from darksite.site import Site

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
NAMESPACES = ("mx-system", "matrix", "matrix-data", "cnpg-system")
NAMESPACED = (
    "deployments,statefulsets,pods,services,configmaps,secrets,serviceaccounts,poddisruptionbudgets,networkpolicies,"
    "roles,rolebindings,persistentvolumeclaims,clusters.postgresql.cnpg.io"
)
CLUSTER_WIDE = "namespaces,crds,clusterroles,clusterrolebindings,validatingwebhookconfigurations"
NOTHING_TO_DO_SECONDS = 15
FENCED_OFF, ANOTHER_INSTALLER, OLDER_GENERATION = 56, 55, 25

pytestmark = pytest.mark.site


@dataclass
class Builder:
    """The connected side: bundles of the demo's stack with something changed, each a generation higher."""

    folder: Path
    site: Site
    generation: int

    @property
    def home(self) -> Path:
        return ROOT / "build/demo"

    def build(self) -> Path:
        """A signed bundle with another digest of Valkey's image and another value of Valkey, new in each generation."""
        self.generation += 1
        changes = {
            "stack.yaml": ("valkey/valkey:9.1.2-alpine", "valkey/valkey:9.1.3-alpine"),
            "profiles/demo.yaml": ("maxMemory: 32mb", f"maxMemory: {32 + self.generation}mb"),
        }
        manifests, lock = self.folder / f"manifests-{self.generation}", self.folder / f"{self.generation}.lock"
        bundle = self.folder / f"{self.generation}.tar.zst"
        shutil.copytree(ROOT / "manifests", manifests)
        for name, (old, new) in changes.items():
            text = (manifests / name).read_text()
            assert text.count(old) == 1, f"{name} has {text.count(old)} times {old!r}"
            (manifests / name).write_text(text.replace(old, new))
        inputs = ["--manifests", manifests, "--lock", lock, "--mirrors", upstream.mirrors_file(self.site)]
        choice = ["--profile", "demo", "--platform", "linux/amd64"]
        self._run("lock", *inputs, *choice, "--tools", self.home / "tools.yaml")
        signed = ["--generation", self.generation, "--key", self.home / "builder", "--output", bundle]
        self._run("build", *inputs, *choice, *signed)
        return bundle

    def _run(self, *arguments: object) -> None:
        environment = {**os.environ, "MXBUNDLE_HELM": str(binaries.ensure("helm"))}
        command = [str(PROGRAMS / "mxbundle"), *(str(argument) for argument in arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def builder(demo: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Builder:
    assert demo["passed"], demo["failure"]
    known = json.loads((ROOT / "build/demo/generation.json").read_text())[0]
    return Builder(tmp_path_factory.mktemp("builder"), Site.from_environment(), int(known))


@pytest.fixture(scope="module")
def upgraded(builder: Builder) -> Path:
    """Another digest of one image and one other value: what generation 2 is asked to show."""
    return builder.build()


def start(bundle: Path, *options: str) -> subprocess.Popen[str]:
    """`mxinstall --bundle …` on the operator's host. `darksite shell` execs: the process is mxinstall itself."""
    signers = ROOT / "build/site/allowed_signers"
    command = [sys.executable, "-m", "darksite", "shell", "--", str(PROGRAMS / "mxinstall"), "--bundle", str(bundle)]
    command += ["--yes", "--json", "--allowed-signers", str(signers), *options]
    environment = {**os.environ, **operator_environment(Site.from_environment())}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )


def install(bundle: Path, *options: str, code: int = 0) -> list[dict[str, Any]]:
    """Run to the end; every line it said, the result or error last."""
    with start(bundle, *options) as run:
        said, _ = run.communicate(timeout=900)
    assert run.returncode == code, said[-3000:]
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


@pytest.fixture
def state(operator: Callable[..., str]) -> Callable[[], dict[str, Any]]:
    """Generation, uid and hash of the content of every object of the system, leases aside."""

    def read() -> dict[str, Any]:
        found = {}
        listings = [["-n", namespace, NAMESPACED] for namespace in NAMESPACES] + [[CLUSTER_WIDE]]
        for listing in listings:
            for obj in json.loads(operator("kubectl", "get", *listing, "-o", "json"))["items"]:
                metadata = obj["metadata"]
                content = {key: value for key, value in obj.items() if key not in ("metadata", "status")}
                name = f"{obj['kind']}/{metadata.get('namespace', '')}/{metadata['name']}"
                digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
                found[name] = (metadata.get("generation"), metadata["uid"], digest)
        return found

    return read


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Names of what came, went or is otherwise."""
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


def child_of(pid: int, program: str) -> int | None:
    """The process that `pid` started and that now is `program`."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and (entry / "exe").readlink().name == program:
                return int(entry.name)
        except OSError:
            continue
    return None


def await_helm(run: subprocess.Popen[str]) -> int:
    """The helm that an installer drives, as soon as it runs."""
    deadline = time.monotonic() + 300
    while (helm := child_of(run.pid, "helm")) is None or not _upgrades(helm):
        assert run.poll() is None, f"it ended without helm: {run.communicate()[0][-2000:]}"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return helm


def _upgrades(pid: int) -> bool:
    try:
        return b"upgrade" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def of_the_host() -> dict[str, tuple[int, int]]:
    """Size and time of every file that the installer and its registry keep; the registry's log grows by being asked."""
    home = Path(operator_environment(Site.from_environment())["MXINSTALL_STATE"])
    files = [path for path in home.rglob("*") if path.is_file() and path.name != "registry.log"]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def of_every_kind(operator: Callable[..., str]) -> dict[str, Any]:
    """Uid, generation and helm's label of every object that there is in the system's namespaces, moving parts aside."""
    asked = operator("kubectl", "api-resources", "--verbs=list", "--namespaced=true", "-o", "name").split()
    moving = ("events", "events.events.k8s.io", "leases.coordination.k8s.io")
    kinds = ",".join(kind for kind in asked if kind not in moving and "metrics" not in kind)
    found = {}
    for namespace in NAMESPACES:
        for obj in json.loads(operator("kubectl", "get", "-n", namespace, kinds, "-o", "json"))["items"]:
            metadata = obj["metadata"]
            name = f"{obj['apiVersion']}/{obj['kind']}/{namespace}/{metadata['name']}"
            found[name] = (metadata["uid"], metadata.get("generation"), metadata.get("labels"))
    return found


def test_a_third_run_says_that_there_is_nothing_to_do_and_changes_nothing(
    builder: Builder, state: Callable[[], dict[str, Any]], operator: Callable[..., str]
) -> None:
    before, kinds_before, host_before = state(), of_every_kind(operator), of_the_host()
    assert len(host_before) > 20
    began = time.monotonic()
    result = install(ROOT / "build/stick/site.tar.zst")[-1]
    assert time.monotonic() - began < NOTHING_TO_DO_SECONDS
    assert result["outcome"] == "nothing-to-do"
    assert changed(before, state()) == set()
    assert changed(kinds_before, of_every_kind(operator)) == set()
    # Neither the registry's store (no blob, no tag) nor anything else that the host keeps.
    assert changed(host_before, of_the_host()) == set()


def test_generation_2_changes_only_the_release_that_it_names(
    upgraded: Path, builder: Builder, state: Callable[[], dict[str, Any]], operator: Callable[..., str]
) -> None:
    before = state()
    result = install(upgraded)[-1]
    assert result["outcome"] == "installed"
    plan = {release["name"]: release["change"] for release in result["plan"]["releases"]}
    assert {name for name, change in plan.items() if change != "unchanged"} == {"valkey"}
    assert len(plan) > 4
    assert all(step["ok"] for step in result["proof"])
    assert result["audit"]["mismatched"] == 0
    names = {name for name in changed(before, state()) if not name.startswith("Secret/mx-system/")}
    assert names
    assert all("valkey" in name for name in names), names
    status = json.loads(operator(str(PROGRAMS / "mxinstall"), "status", "--json"))
    assert (status["generation"], status["healthy"]) == (builder.generation, True)
    image = operator("kubectl", "-n", "matrix-data", "get", "statefulset", "valkey-server", "-o", "jsonpath={..image}")
    assert "valkey:9.1.3-alpine@sha256:" in image


def test_the_older_generation_is_refused_and_nothing_changes(
    upgraded: Path, state: Callable[[], dict[str, Any]]
) -> None:
    before = state()
    error = install(ROOT / "build/stick/site.tar.zst", code=OLDER_GENERATION)[-1]
    assert error["error"] == "trust-older-generation"
    assert changed(before, state()) == set()


def test_a_run_killed_while_seeding_is_finished_by_the_next(
    builder: Builder, upgraded: Path, operator: Callable[..., str], state: Callable[[], dict[str, Any]]
) -> None:
    """The registry has lost everything: the first run is killed in the middle of filling it again."""
    before = state()
    store = Path(operator_environment(Site.from_environment())["MXINSTALL_STATE"]) / "site-1/registry/store"
    operator(str(PROGRAMS / "mxinstall"), "registry", "stop")
    assert store.is_dir()
    shutil.rmtree(store)
    with start(upgraded) as run:
        assert run.stdout is not None
        for line in run.stdout:
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "progress" and 0.2 < event["done_bytes"] / event["total_bytes"] < 0.9:
                run.kill()
                break
    assert run.returncode == -signal.SIGKILL
    install(upgraded)
    assert install(upgraded)[-1]["outcome"] == "nothing-to-do"
    assert changed(before, state()) == set()


def test_a_run_killed_while_deploying_is_finished_by_the_next(builder: Builder, upgraded: Path) -> None:
    bundle = builder.build()
    with start(bundle, "--no-proof") as run:
        helm = await_helm(run)
        run.kill()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{helm}").exists():
        assert time.monotonic() < deadline, "helm outlived its installer"
        time.sleep(0.05)
    # Whether the system does its work is asked once for all of it, further down.
    assert install(bundle, "--no-proof")[-1]["outcome"] == "installed"
    began = time.monotonic()
    assert install(bundle)[-1]["outcome"] == "nothing-to-do"
    assert time.monotonic() - began < NOTHING_TO_DO_SECONDS


@pytest.fixture
def stopped(builder: Builder, upgraded: Path) -> Iterator[tuple[Path, subprocess.Popen[str], int]]:
    """An installer and its helm, stopped in the middle of a release; both are gone at the end."""
    bundle = builder.build()
    run = start(bundle, "--no-proof")
    try:
        helm = await_helm(run)
        os.kill(helm, signal.SIGSTOP)
        os.kill(run.pid, signal.SIGSTOP)
        yield bundle, run, helm
    finally:
        run.kill()
        run.wait()
        assert run.stdout is not None
        run.stdout.close()


def test_an_installer_that_was_stopped_and_taken_over_changes_nothing_any_more(
    stopped: tuple[Path, subprocess.Popen[str], int], state: Callable[[], dict[str, Any]]
) -> None:
    bundle, first, helm = stopped
    error = install(bundle, "--no-proof", code=ANOTHER_INSTALLER)[-1]
    assert error["error"] == "another-installer"
    result = install(bundle, "--take-over", "--no-proof")[-1]
    assert result["outcome"] == "installed"
    before = state()
    os.kill(helm, signal.SIGCONT)
    os.kill(first.pid, signal.SIGCONT)
    said, _ = first.communicate(timeout=120)
    assert first.returncode == FENCED_OFF, said[-2000:]
    assert json.loads(said.splitlines()[-1])["error"] == "fenced-off"
    assert changed(before, state()) == set()


def test_after_all_of_it_the_system_is_whole(
    stopped: tuple[Path, subprocess.Popen[str], int], operator: Callable[..., str]
) -> None:
    """A dead installer holds the site now: the next one goes on without being told, and proves the system."""
    bundle, first, _ = stopped
    first.kill()
    first.wait()
    result = install(bundle)[-1]
    assert result["outcome"] == "installed"
    assert all(step["ok"] for step in result["proof"])
    assert json.loads(operator(str(PROGRAMS / "mxinstall"), "status", "--json"))["healthy"] is True


def test_uninstall_keeps_the_data_and_the_next_install_takes_it_up_again(
    builder: Builder, upgraded: Path, operator: Callable[..., str]
) -> None:
    def accounts() -> str:
        query = ["psql", "-d", "synapse", "-Atc", "select name from users order by name"]
        return operator("kubectl", "-n", "matrix-data", "exec", "postgres-1", "-c", "postgres", "--", *query)

    def namespaces() -> set[str]:
        return set(operator("kubectl", "get", "namespaces", "-o", "name").split())

    before = accounts()
    assert before.count("\n") >= 2
    operator(str(PROGRAMS / "mxinstall"), "uninstall", "--yes")
    assert operator("kubectl", "get", "pods", "-A", "-l", "app.kubernetes.io/instance=synapse", "-o", "name") == ""
    assert "namespace/cnpg-system" not in namespaces()
    assert {"namespace/matrix", "namespace/matrix-data", "namespace/mx-system"} <= namespaces()
    result = install(builder.build())[-1]
    assert result["outcome"] == "installed"
    assert set(before.split()) <= set(accounts().split())

"""Synapse's processes on the running site are changed by site.yaml while two users write: nothing acknowledged is lost.

The order itself is taken apart in test_rollout_order; here real processes, real messages and the real command.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from darksite.demo import operator_environment
from darksite.site import Site

ROOT = Path(__file__).parents[2]
ACROSS = ("-m", "tests.support.across_change")
MXINSTALL = str(Path(sys.executable).parent / "mxinstall")
BUNDLE = ROOT / "build/stick/site.tar.zst"
SIGNERS = ROOT / "build/site/allowed_signers"
Report = dict[str, Any]

pytestmark = pytest.mark.site


@pytest.fixture(scope="module")
def kept(demo: dict[str, Any]) -> Path:
    """The site.yaml that the demo installed with."""
    assert demo["failure"] == ""
    return Path(operator_environment(Site.from_environment())["MXINSTALL_STATE"]) / "site-1/site.yaml"


@pytest.fixture(scope="module")
def change(
    kept: Path, operator: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., list[str]]]:
    """Overrides of `workers`, Synapse's values and `spec` → the arguments of a command; as it was at the end."""
    folder, answers = tmp_path_factory.mktemp("answers"), yaml.safe_load(kept.read_text())

    def arguments(site: Path) -> list[str]:
        return ["--bundle", str(BUNDLE), "--site", str(site), "--allowed-signers", str(SIGNERS)]

    def written(workers: dict[str, Any], values: dict[str, Any] | None = None, **fields: Any) -> list[str]:
        spec = {**answers["spec"], **fields, "workers": workers, "values": {"synapse": values} if values else {}}
        path = folder / f"{len(list(folder.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump({**answers, "spec": spec}))
        return arguments(path)

    yield written
    operator(MXINSTALL, *arguments(kept), "--yes", "--no-proof")


def install_under_load(operator: Callable[..., str], arguments: list[str], count: int) -> tuple[Report, Report]:
    """Counts of the load, and what the installer said last."""
    command = [MXINSTALL, *arguments, "--yes", "--no-proof", "--json"]
    told: Report = json.loads(operator(sys.executable, *ACROSS, str(count), "4", "400", *command))
    assert told["code"] == 0, (told["stderr"], told["stdout"][-2000:])
    said = [json.loads(line) for line in told["stdout"].splitlines() if line.startswith("{")]
    print(json.dumps({key: value for key, value in told.items() if key not in ("stdout", "stderr")}))
    return told, said[-1]


def sets(operator: Callable[..., str]) -> dict[str, int]:
    """StatefulSet → ready pods."""
    found = json.loads(operator("kubectl", "-n", "matrix", "get", "statefulsets", "-o", "json"))["items"]
    return {one["metadata"]["name"]: one["status"].get("readyReplicas", 0) for one in found}


def begun(operator: Callable[..., str]) -> dict[str, list[tuple[str, str]]]:
    """Wave → creation times and names of Synapse's pods and those of the tier."""
    found: dict[str, list[tuple[str, str]]] = {}
    waves = {}
    for kind in ("statefulsets", "deployments"):
        for one in json.loads(operator("kubectl", "-n", "matrix", "get", kind, "-o", "json"))["items"]:
            waves[one["metadata"]["name"]] = one["metadata"]["annotations"]["mxbundle.io/wave"]
    for pod in json.loads(operator("kubectl", "-n", "matrix", "get", "pods", "-o", "json"))["items"]:
        name = pod["metadata"]["name"]
        wave = next((wave for owner, wave in sorted(waves.items(), reverse=True) if name.startswith(f"{owner}-")), None)
        if wave is not None:
            found.setdefault(wave, []).append((pod["metadata"]["creationTimestamp"], name))
    return found


def test_a_change_of_all_processes_rolls_in_waves_and_loses_nothing(
    change: Callable[..., list[str]], operator: Callable[..., str]
) -> None:
    arguments = change({}, {"cacheFactor": 0.3})
    before = begun(operator)
    plan = json.loads(operator(MXINSTALL, "plan", *arguments, "--json"))
    rollout = next(release["rollout"] for release in plan["releases"] if release["name"] == "synapse")
    assert rollout["stops"] == []
    assert sorted(rollout["waves"])[:3] == ["0", "1", "2"]
    assert begun(operator) == before
    told, result = install_under_load(operator, arguments, 500)
    assert result["outcome"] == "installed"
    assert told["lost"] == 0
    assert told["acknowledged"] == told["sent"] == 500
    after = begun(operator)
    newest = {wave: max(at for at, _ in pods) for wave, pods in after.items()}
    oldest = {wave: min(at for at, _ in pods) for wave, pods in after.items()}
    for earlier, later in (("0", "1"), ("1", "2")):
        assert newest[earlier] <= oldest[later], after
    assert not set(before["0"]) & set(after["0"])


def senders(operator: Callable[..., str]) -> set[str]:
    """Which processes Synapse's configuration, as it is in the cluster, lets send to other servers."""
    main = json.loads(operator("kubectl", "-n", "matrix", "get", "statefulset", "synapse-main", "-o", "json"))
    mounted = (
        source["configMap"]["name"]
        for volume in main["spec"]["template"]["spec"]["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
        if "configMap" in source
    )
    # Named after its content; the one that every process reads is not a type's own.
    name = next(name for name in mounted if name.startswith("synapse-config-"))
    config = json.loads(operator("kubectl", "-n", "matrix", "get", "configmap", name, "-o", "json"))
    return set(yaml.safe_load(config["data"]["homeserver.yaml"])["federation_sender_instances"])


def test_a_persister_more_and_a_federation_sender_less_stop_all_and_lose_nothing(
    change: Callable[..., list[str]], operator: Callable[..., str]
) -> None:
    # Two senders in the place of two processes that main can stand in for: the demo's nodes have room for one pod more.
    federating: dict[str, Any] = {"federation": {"enabled": True, "allow": ["other.example.site"]}}
    fewer: dict[str, Any] = {"synchrotron": {"replicas": 1}, "sliding-sync": {"replicas": 0}}
    two = change({**fewer, "federation-sender": {"replicas": 2}}, **federating)
    operator(MXINSTALL, *two, "--yes", "--no-proof")
    assert sets(operator)["synapse-federation-sender"] == 2
    assert senders(operator) == {"synapse-federation-sender-0", "synapse-federation-sender-1"}
    changed = change({**fewer, "event-persister": {"replicas": 3}, "federation-sender": {"replicas": 1}}, **federating)
    plan = json.loads(operator(MXINSTALL, "plan", *changed, "--json"))
    stops = next(release["rollout"]["stops"] for release in plan["releases"] if release["name"] == "synapse")
    assert {"synapse-main", "synapse-event-persister", "synapse-federation-sender"} <= set(stops)
    told, result = install_under_load(operator, changed, 600)
    assert (result["outcome"], told["lost"]) == ("installed", 0)
    assert told["acknowledged"] == told["sent"] == 600
    assert min(told["before"], told["during"], told["after"]) > 0
    after = sets(operator)
    assert (after["synapse-event-persister"], after["synapse-federation-sender"]) == (3, 1)
    assert senders(operator) == {"synapse-federation-sender-0"}
    again = json.loads(operator(MXINSTALL, *changed, "--yes", "--no-proof", "--json").splitlines()[-1])
    assert again["outcome"] == "nothing-to-do"
    status = json.loads(operator(MXINSTALL, "status", "--json"))
    assert (status["healthy"], status["degraded"], status["nodes"], status["away"]) == (True, [], [], [])

"""Synapse connects straight to the primary, past the pooler: two values of site.yaml, the proof, and the way back."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from darksite.demo import operator_environment
from darksite.site import Site

ROOT = Path(__file__).parents[2]
MXINSTALL = str(Path(sys.executable).parent / "mxinstall")
BUNDLE = ROOT / "build/stick/site.tar.zst"
SIGNERS = ROOT / "build/site/allowed_signers"
DIRECT = {
    "postgres": {"pooler": {"enabled": False}},
    "synapse": {"database": {"host": "postgres-rw.matrix-data.svc.cluster.local"}},
}
WHO = "SELECT DISTINCT host(client_addr) FROM pg_stat_activity WHERE datname = 'synapse' AND client_addr IS NOT NULL"

# Two whole roll-outs and two proofs: a case of the matrix, not part of `make test`.
pytestmark = [pytest.mark.site, pytest.mark.long]


@pytest.fixture
def kept(demo: dict[str, Any]) -> Path:
    """The site.yaml that the demo installed with."""
    assert demo["failure"] == ""
    return Path(operator_environment(Site.from_environment())["MXINSTALL_STATE"]) / "site-1/site.yaml"


def install(operator: Callable[..., str], site: Path) -> list[dict[str, Any]]:
    """Install with the proof; the verdicts of its steps."""
    command = ["--bundle", str(BUNDLE), "--site", str(site), "--allowed-signers", str(SIGNERS), "--yes", "--json"]
    said = [json.loads(line) for line in operator(MXINSTALL, *command).splitlines() if line.startswith("{")]
    assert said[-1]["outcome"] == "installed"
    proof: list[dict[str, Any]] = said[-1]["proof"]
    return proof


def addresses(operator: Callable[..., str], namespace: str, labels: str) -> dict[str, str]:
    """Address → name of the running pods."""
    command = ("kubectl", "-n", namespace, "get", "pods", "-l", labels, "-o", "json")
    pods = json.loads(operator(*command))["items"]
    return {pod["status"]["podIP"]: pod["metadata"]["name"] for pod in pods if pod["status"].get("podIP")}


def connected(operator: Callable[..., str]) -> set[str]:
    """From where Synapse's database has connections, as the primary sees it."""
    primary = "cnpg.io/cluster=postgres,cnpg.io/instanceRole=primary"
    (name,) = addresses(operator, "matrix-data", primary).values()
    asked = (
        "kubectl",
        "-n",
        "matrix-data",
        "exec",
        name,
        "-c",
        "postgres",
        "--",
        "psql",
        "-d",
        "postgres",
        "-Atc",
        WHO,
    )
    return set(operator(*asked).split())


def test_synapse_goes_straight_to_the_primary_and_back(
    kept: Path, operator: Callable[..., str], tmp_path: Path
) -> None:
    poolers, synapse = "cnpg.io/poolerName=postgres-pooler", "app.kubernetes.io/name=synapse"
    assert connected(operator) <= set(addresses(operator, "matrix-data", poolers))
    answers = yaml.safe_load(kept.read_text())
    direct = tmp_path / "direct.yaml"
    direct.write_text(yaml.safe_dump({**answers, "spec": {**answers["spec"], "values": DIRECT}}))
    try:
        proof = install(operator, direct)
        assert proof
        assert all(step["ok"] for step in proof), proof
        assert addresses(operator, "matrix-data", poolers) == {}
        seen, processes = connected(operator), addresses(operator, "matrix", synapse)
        assert len(seen) > 10, seen
        assert seen <= set(processes), (seen, processes)
    finally:
        back = install(operator, kept)
    assert all(step["ok"] for step in back), back
    assert connected(operator) <= set(addresses(operator, "matrix-data", poolers))

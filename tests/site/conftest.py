"""The running dark site that the tests in this folder share, and the system that the demo installs on it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from darksite import lifecycle, power
from darksite.demo import operator_environment
from darksite.site import Site

ROOT = Path(__file__).parents[2]
Operator = Callable[..., str]


LAST = "test_deploy_installed"
"""Raises the site's generation, after which the demo's own bundle is refused: every other module comes before it."""


LONG = frozenset(
    f"test_{name}"
    for name in (
        "certificates_live",
        "certificates_renewed",
        "network_policies",
        "node_loss",
        "outlook",
        "plain_helm",
        "restore",
        "rollout_live",
        "rollout_order",
    )
)
"""What takes minutes each: `make matrix` runs these, and docs/reference/live.md says when they last passed."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is marked `site`; what takes the site to a later generation comes last."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.site)
            if item.path.stem in LONG:
                item.add_marker(pytest.mark.long)
    items.sort(key=lambda item: item.path.stem == LAST)


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """The site that `$MXDARK_SITE` names (demo), up. One that was up before stays up; one that starts here goes.

    A site that cannot start is an error of the test, never a reason to skip it.
    """
    wanted = Site.from_environment()
    found = lifecycle.status(wanted)
    # Whoever was killed while a node was cut off or without power has not put it back.
    power.mend(wanted)
    lifecycle.up(wanted, print)
    yield wanted
    if not found.exists:
        lifecycle.down(wanted, print)


@pytest.fixture(scope="session")
def operator() -> Operator:
    """Runs a command on the operator's host of the demo's site; its standard output. Fails the test on an error."""

    def run(*command: str, check: bool = True) -> str:
        inside = [sys.executable, "-m", "darksite", "shell", "--", *command]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, **operator_environment(Site.from_environment()), "PATH": path}
        done = subprocess.run(
            inside, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr[-2000:]}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def demo() -> dict[str, Any]:
    """The report of a whole demo on this machine. It needs root; a demo that cannot run is a failure, never a skip."""
    assert os.geteuid() == 0, "the tests of a site need root: they make network namespaces, mounts and cgroups"
    power.mend(Site.from_environment())
    without_faults = os.environ.get("MXDARK_WITHOUT_FAULTS") == "1"
    command = [sys.executable, "-m", "darksite", "demo", *(["--no-faults"] if without_faults else [])]
    done = subprocess.run(command, cwd=ROOT, check=False, timeout=2400)
    report = ROOT / "build/demo-report.json"
    assert report.exists(), f"the demo ended with {done.returncode} and wrote no report"
    told: dict[str, Any] = json.loads(report.read_text())
    if without_faults:
        # A system that runs already is not proved again.
        told["passed"] = not told["failure"]
    assert done.returncode == (0 if told["passed"] else 1)
    return told


@pytest.fixture(scope="session")
def objects(operator: Operator) -> Callable[[Sequence[str]], list[dict[str, Any]]]:
    """`kubectl get` on the operator's host; the items."""

    def get(arguments: Sequence[str]) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(operator("kubectl", "get", *arguments, "-o", "json"))["items"]
        return items

    return get

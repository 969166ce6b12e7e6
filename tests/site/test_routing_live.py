"""Who answers which request on the installed system: the workers' own request logs say it, not HAProxy.

Every example of docs/reference/routing.md goes through the edge with a marker in its query; each Synapse process
writes the requests that it answers into its log (`logRequests` of the demo's profile).
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from routing_table import Example, answers, examples

PROGRAM = Path(__file__).parents[1] / "support/ask_routes.py"
LOG_SECONDS = 30
"""How long a line may take from the process to `kubectl logs`."""

pytestmark = pytest.mark.site


@dataclass(frozen=True)
class Asked:
    """All examples, asked once: what came back for each, and the types of the processes that logged it."""

    told: dict[str, dict[str, Any]]
    by: dict[str, set[str]]
    running: set[str]


@pytest.fixture(scope="module")
def asked(demo: dict[str, Any], operator: Callable[..., str]) -> Asked:
    assert demo["failure"] == ""
    rows = examples()
    told = json.loads(operator(sys.executable, str(PROGRAM)))
    markers = {one["marker"]: str(row) for row, one in zip(rows, told, strict=True)}
    end = time.monotonic() + LOG_SECONDS
    while True:
        logs = operator(
            *("kubectl", "logs", "-n", "matrix", "-l", "app.kubernetes.io/name=synapse", "-c", "synapse"),
            *("--prefix", "--since=10m", "--tail=-1", "--max-log-requests=100"),
        )
        by: dict[str, set[str]] = {}
        # [pod/synapse-TYPE-N/synapse] … "GET /path?marker=1 HTTP/1.1" …
        for worker, marker in re.findall(r"^\[pod/synapse-([a-z-]+)-\d+/.*[?&](mxroute\d+x[0-9a-f]+)=1", logs, re.M):
            if marker in markers:
                by.setdefault(markers[marker], set()).add(worker)
        if len(by) == len(rows) or time.monotonic() > end:
            break
        time.sleep(2)
    pods = json.loads(
        operator("kubectl", "get", "pods", "-n", "matrix", "-l", "app.kubernetes.io/name=synapse", "-o", "json")
    )["items"]
    running = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods} - {"main"}
    return Asked({str(row): one for row, one in zip(rows, told, strict=True)}, by, running)


@pytest.mark.parametrize("example", examples(), ids=str)
def test_the_process_that_answered_is_of_the_type_that_serves_it(asked: Asked, example: Example) -> None:
    told, expected = asked.told[str(example)], answers(example, asked.running)
    assert asked.by.get(str(example)) == {expected}
    assert told["status"] not in (421, 429, 500, 502, 503, 504)
    # A worker that does not know the path is the wrong one; only what is switched off is known to nobody.
    assert told["errcode"] != "M_UNRECOGNIZED" or expected in ("main", "sso-login") or "msc" in example.path


def test_every_type_that_runs_and_is_asked_by_clients_answered_something(asked: Asked) -> None:
    with_examples = {example.type for example in examples()}
    assert set().union(*asked.by.values()) == (asked.running & with_examples) | {"main"}

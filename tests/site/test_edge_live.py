"""The installed system's edge takes a renewed certificate while clients come and go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darksite.demo import operator_environment
from darksite.site import Site

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests/support/visit_edge.py"
AFTER_SECONDS, MOST_SECONDS = 20, 240
"""The kubelet brings a changed Secret within about a minute and a half; both replicas must have it by the end."""

pytestmark = pytest.mark.site


def test_a_renewed_certificate_reaches_new_connections_and_no_request_fails(
    demo: dict[str, Any], operator: Callable[..., str]
) -> None:
    assert demo["failure"] == ""
    command = [sys.executable, "-m", "darksite", "shell", "--", sys.executable, str(PROGRAM)]
    environment = {**os.environ, **operator_environment(Site.from_environment())}
    with subprocess.Popen(
        [*command, str(AFTER_SECONDS), str(MOST_SECONDS)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as visiting:
        assert visiting.stderr is not None
        assert "visiting" in visiting.stderr.readline()
        operator(str(ROOT / ".venv/bin/mxinstall"), "certificates", "renew", "edge-tls")
        said, complaint = visiting.communicate(timeout=MOST_SECONDS + 120)
    assert visiting.returncode == 0, complaint
    told = json.loads(said)
    assert told["failures"] == []
    assert told["poll"] == "answered"
    assert told["served"] > 500
    assert len({fingerprint for _, fingerprint in told["shown"]}) == 2, "no new certificate was seen"
    # A replica that keeps the old one would show both, one after the other, for ever.
    assert told["settled"], told["shown"][-6:]
    assert told["shown"][-1][1] != told["shown"][0][1]

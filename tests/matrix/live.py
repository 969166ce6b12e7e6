"""The cases of docs/reference/live.md: tests of the running site that take minutes each, a module a case."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys

from tests.matrix.registry import Row, Wrong, case
from tests.matrix.rows import ROOT
from tests.matrix.trial import Trial

CHARTS = ("manifests/charts", "manifests/values", "manifests/profiles/demo.yaml", "manifests/stack.yaml")
RENDERING = ("sitebundle/helm.py", "sitebundle/pods_override.py", "sitebundle/rendering.py", "sitebundle/stack.py")
INSTALLING = (
    *(f"installer/mxinstall/{part}" for part in ("deploy", "helm_release.py", "install.py", "opening.py", "plan.py")),
    *("installer/mxinstall/proof", "installer/mxinstall/site", *RENDERING),
)
"""What an install does with a site.yaml once it has begun, without what other commands do."""
WHOLE = (
    *INSTALLING,
    *(f"installer/mxinstall/{part}.py" for part in ("certificates", "cluster", "expiries", "installed")),
    *(f"installer/mxinstall/{part}.py" for part in ("authority_change", "node_loss", "status")),
)
"""That, and what tells about a system that is installed, and mends it."""
LONGEST_SECONDS = 1500
OUTSIDE = "MXMATRIX_OUTSIDE"
"""Names the network in which the series runs: not every machine lets its first process's be entered."""
WITHOUT_FAULTS = "MXDARK_WITHOUT_FAULTS"
"""Tells the tests' demo that it need not break anything: other cases do."""


def supports(path: str) -> tuple[str, ...]:
    """The modules of tests/support that a test imports, and those that they import."""
    found: dict[str, None] = {}
    waiting = [ROOT / path]
    while waiting:
        tree = ast.parse(waiting.pop().read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        for node in imports:
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in names:
                file = f"tests/support/{str(name).rpartition('.')[2]}.py"
                if file not in found and (ROOT / file).is_file():
                    found[file] = None
                    waiting.append(ROOT / file)
    return tuple(sorted(found))


def _module(
    name: str, title: str, covers: tuple[str, ...], seconds: float, folder: str = "tests/site", *, alone: bool = False
) -> None:
    path = f"{folder}/test_{name.replace('-', '_')}.py"

    @case("live", name, title, (path, f"{folder}/conftest.py", *supports(path), *covers), seconds, alone=alone)
    def act(trial: Trial | None) -> Row:
        command = [sys.executable, "-m", "pytest", "-q", path]
        if not alone:
            # The module builds and installs by itself, so it starts outside the site, as `make test` does.
            command = ["nsenter", f"--net={os.environ[OUTSIDE]}", "--", *command]
        done = subprocess.run(
            [*command, f"--timeout={LONGEST_SECONDS}"],
            cwd=ROOT,
            env={**os.environ, WITHOUT_FAULTS: "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST_SECONDS + 60,
        )
        last = re.search(r"(\d+) passed.* in ([\d.]+)s", done.stdout)
        row: Row = {"what": last[0] if last else "", "seconds": float(last[2]) if last else None}
        if done.returncode != 0 or last is None or "skipped" in last[0]:
            raise Wrong((done.stdout + done.stderr)[-2500:], row)
        return row


_module(
    "plain-helm",
    "Synapse and Valkey are installed by plain `helm install` with values alone, on a database that somebody else made",
    (*CHARTS, "tests/site/plain"),
    420,
)
_module(
    "restore",
    "A backup is restored into a new cluster, to a moment",
    (*CHARTS, *INSTALLING, "tests/site/rehearsal.py", "darksite/backup_host.py"),
    720,
)
_module(
    "certificates-live",
    "Every certificate is renewed at once, under load; the proof passes afterwards",
    (*CHARTS, *WHOLE),
    1100,
)
_module(
    "rollout-live",
    "Processes are added and removed by site.yaml while two users write",
    (*CHARTS, *WHOLE),
    600,
)
_module("direct", "Synapse connects past the pooler, straight to the primary, and back", (*CHARTS, *WHOLE), 480)
_module("certificates-renewed", "Certificates are renewed everywhere, on a real API server", WHOLE, 240, alone=True)
_module("rollout-order", "In which order a change reaches processes, on a real API server", WHOLE, 420, alone=True)
_module(
    "outlook",
    "What the plan foretells is what happens, on a real API server",
    (*WHOLE, "installer/mxinstall/outlook"),
    120,
    alone=True,
)
_module("node-loss", "A node that is lost for good is given up and taken back", WHOLE, 300, alone=True)
_module(
    "network-policies",
    "The site's network enforces policies as Kubernetes defines them",
    ("darksite", "tests/site/network_policy_cases.yaml"),
    240,
)
_module(
    "valkey-failover",
    "Valkey's servers, sentinels and proxies die in every order, without Kubernetes",
    ("manifests/charts/valkey", "manifests/values/valkey.yaml", "manifests/images/valkey.toml"),
    300,
    "tests/integration",
    alone=True,
)

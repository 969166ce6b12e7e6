"""The helm binary behind one module: explicit flags, a home of its own, errors as ours. Helm 4.

Here: rendering and packaging questions that need no cluster. What changes a cluster is the installer's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sitebundle.errors import RenderFailed, ToolMissing

VARIABLE = "MXBUNDLE_HELM"
TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Helm:
    """One helm binary. It never reads the user's own helm settings, plugins or repositories."""

    binary: Path

    @classmethod
    def find(cls, given: Path | None = None) -> Helm:
        """The binary `given`, else of $MXBUNDLE_HELM, else of PATH. Raises ToolMissing."""
        named = str(given or os.environ.get(VARIABLE) or "")
        found = shutil.which(named or "helm")
        if found is None:
            detail = f"{named} is not a program" if named else f"neither --helm nor ${VARIABLE} nor PATH has it"
            raise ToolMissing(tool="helm", detail=detail)
        return cls(Path(found))

    def template(
        self,
        chart: Path,
        release: str,
        namespace: str,
        values: Mapping[str, Any],
        kube_version: str,
        api_versions: Sequence[str] = (),
    ) -> str:
        """Everything that the chart would apply, hooks, tests and CRDs included, as YAML documents.

        `chart` is a folder or a .tgz. Raises RenderFailed with helm's own words.
        """
        with tempfile.TemporaryDirectory(prefix="mxbundle-helm-") as home:
            given = Path(home) / "values.yaml"
            given.write_text(yaml.dump(dict(values), Dumper=yaml.CSafeDumper, sort_keys=False), encoding="utf-8")
            arguments = ["template", release, str(chart), f"--namespace={namespace}", f"--values={given}"]
            arguments += [f"--kube-version={kube_version}", "--include-crds", "--dry-run=client"]
            arguments += [f"--api-versions={version}" for version in api_versions]
            done = self.run(arguments, Path(home))
        if done.returncode != 0:
            raise RenderFailed(release=release, detail=_reason(done.stderr))
        return done.stdout

    def run(self, arguments: Sequence[str], home: Path) -> subprocess.CompletedProcess[str]:
        """Run helm with `home` as its only place for settings and caches. Raises ToolMissing when it cannot start."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HELM_", "KUBE"))}
        environment |= {
            "HOME": str(home),
            "HELM_CACHE_HOME": str(home / "cache"),
            "HELM_CONFIG_HOME": str(home / "config"),
            "HELM_DATA_HOME": str(home / "data"),
            "KUBECONFIG": os.devnull,
        }
        try:
            return subprocess.run(
                [str(self.binary), *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as fault:
            raise ToolMissing(tool=str(self.binary), detail=str(fault)) from fault


def _reason(stderr: str) -> str:
    """The error itself, on one line; warnings and the advice to use --debug are left out."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    start = next((index for index, line in enumerate(lines) if line.startswith("Error:")), 0)
    text = " ".join(line for line in lines[start:] if not line.startswith("Use --debug flag"))
    return re.sub(r"^Error: ", "", text)[:600] or "helm gave no reason"

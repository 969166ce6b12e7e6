"""Helm's releases on the cluster: upgrade, uninstall, and getting one out of a half-done state.

Flags of server-side apply, waiting and conflicts are all explicit. Not here: rendering (`sitebundle.rendering`).
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import yaml

from mxinstall import tether
from mxinstall.cluster import Cluster, Object
from mxinstall.deploy.names import LEASE, NAMESPACE
from mxinstall.deploy.workdir import WorkDir
from sitebundle.errors import ReleaseFailed, ReleaseTooLarge

HISTORY = 10
RECORD_BYTES = 1024 * 1024
"""What the data of one Secret may be (k8s.io/api/core/v1, MaxSecretSize): helm keeps a release in one."""
_GRACE_SECONDS = 30.0


@dataclass(frozen=True)
class Revision:
    """One of helm's records of a release."""

    number: int
    status: str
    secret: str


@dataclass(frozen=True)
class HelmReleases:
    """The helm binary, acting with `kubeconfig` alone, its own files in the run's folder. `stop` ends what runs."""

    binary: Path
    kubeconfig: Path
    work: WorkDir
    stop: Event = field(default_factory=Event)

    def upgrade(
        self, release: str, namespace: str, chart: Path, values: Mapping[str, Any], timeout_seconds: int
    ) -> None:
        """Install or upgrade; returns when the objects are applied and the hooks have run. Raises ReleaseFailed.

        Readiness is not helm's business: what *ready* means is the stack's word.
        """
        given = self.work.private(f"values-{release}.json", json.dumps(values))
        self._run(
            release,
            [
                *("upgrade", release, str(chart), "--install", f"--namespace={namespace}", f"--values={given}"),
                *("--server-side=true", "--force-conflicts=true", "--take-ownership=false", "--create-namespace=false"),
                *("--wait=hookOnly", "--wait-for-jobs=false", "--rollback-on-failure=false", "--cleanup-on-fail=false"),
                *("--skip-crds", "--reset-values", f"--history-max={HISTORY}", f"--timeout={timeout_seconds}s"),
                *("--output=json", "--hide-notes"),
            ],
            timeout_seconds,
        )

    def uninstall(self, release: str, namespace: str, timeout_seconds: int) -> None:
        """Remove a release and its history; nothing to do is success. Raises ReleaseFailed."""
        self._run(
            release,
            [
                *("uninstall", release, f"--namespace={namespace}", "--ignore-not-found", "--cascade=foreground"),
                *("--wait=legacy", f"--timeout={timeout_seconds}s"),
            ],
            timeout_seconds,
        )

    def _run(self, release: str, arguments: list[str], timeout_seconds: int) -> None:
        home = self.work.folder("helm")
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(home),
            "HELM_CACHE_HOME": str(home / "cache"),
            "HELM_CONFIG_HOME": str(home / "config"),
            "HELM_DATA_HOME": str(home / "data"),
            "HELM_DRIVER": "secret",
            "KUBECONFIG": str(self.kubeconfig),
        }
        outcome = tether.run([str(self.binary), *arguments], environment, timeout_seconds + _GRACE_SECONDS, self.stop)
        if outcome.code:
            raise ReleaseFailed(release=release, detail=_reason(outcome))


def check_record_size(release: str, chart: Path, values: Mapping[str, Any], objects: Sequence[Object]) -> int:
    """About how many bytes helm's record of a release will have. Raises ReleaseTooLarge when no Secret holds it.

    The record is base64 of gzip of JSON with the chart's files (in base64), the values and the manifest (helm,
    pkg/storage/driver/util.go). Ours differs by a few keys: within one part in a hundred of helm's own.
    """
    with tarfile.open(chart) as packed:
        members = [(entry.name, packed.extractfile(entry)) for entry in packed if entry.isfile()]
        files = [{"name": name, "data": base64.b64encode(data.read()).decode()} for name, data in members if data]
    manifest = "".join(f"---\n{yaml.dump(obj, Dumper=yaml.CSafeDumper, sort_keys=False)}" for obj in objects)
    record = json.dumps({"name": release, "chart": files, "config": values, "manifest": manifest})
    size = len(base64.b64encode(gzip.compress(record.encode(), 9)))
    if size > RECORD_BYTES:
        raise ReleaseTooLarge(release=release, size_bytes=size, limit_bytes=RECORD_BYTES)
    return size


def revisions(cluster: Cluster, release: str, namespace: str) -> list[Revision]:
    """Helm's records of a release, oldest first."""
    secrets = cluster.list("v1", "Secret", namespace, labels=f"owner=helm,name={release}")
    found = [
        Revision(int(s["metadata"]["labels"]["version"]), s["metadata"]["labels"]["status"], s["metadata"]["name"])
        for s in secrets
    ]
    return sorted(found, key=lambda revision: revision.number)


def recover(cluster: Cluster, release: str, namespace: str) -> list[Revision]:
    """Drop the records that a killed helm left as *pending* or *uninstalling*; returns them.

    Helm refuses to go on over such a record. What it had already applied carries its annotations, so that the next
    upgrade adopts it; the last deployed record stays the base of that upgrade.
    """
    known = revisions(cluster, release, namespace)
    stuck = [r for r in known if r.status.startswith("pending-") or r.status == "uninstalling"]
    for revision in stuck:
        cluster.delete("v1", "Secret", revision.secret, namespace)
    return stuck


def still_ours(cluster: Cluster) -> None:
    """Ask the API server something that needs our identity. Raises FencedOff when it is no longer believed."""
    cluster.get("coordination.k8s.io/v1", "Lease", LEASE, NAMESPACE)


def _reason(outcome: tether.Outcome) -> str:
    lines = [line.strip() for line in outcome.stderr.splitlines() if line.strip()]
    errors = [re.sub(r"^Error: ", "", line) for line in lines if line.startswith("Error: ")]
    return (errors[-1] if errors else lines[-1] if lines else f"helm ended with code {outcome.code}")[:600]

"""CustomResourceDefinitions: applied before any release, waited for, never deleted.

Not here: taking them out of charts and files (`sitebundle.crds`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import yaml

from mxinstall.cluster import Cluster, Object
from mxinstall.deploy.drift import differs
from sitebundle.errors import ReleaseNotReady

if TYPE_CHECKING:
    from sitebundle.archive import BundleReader

KIND = "CustomResourceDefinition"
_API = "apiextensions.k8s.io/v1"
ESTABLISHED_SECONDS = 60.0


def read_crds(reader: BundleReader) -> list[Object]:
    """The CRDs of a bundle. Raises BundleDamaged."""
    return [yaml.load(reader.read(crd.member), yaml.CSafeLoader) for crd in reader.manifest.crds]


def changed_crds(cluster: Cluster, crds: Iterable[Object]) -> list[str]:
    """The names of those that the server lacks, has otherwise, or does not serve. Reads only."""
    found = []
    for crd in crds:
        name = crd["metadata"]["name"]
        if not _established(cluster.get(_API, KIND, name)) or differs(cluster, crd):
            found.append(name)
    return found


def apply_crds(cluster: Cluster, crds: Iterable[Object]) -> None:
    """Apply and wait until the server serves each. Raises ReleaseNotReady."""
    names = [cluster.apply(crd)["metadata"]["name"] for crd in crds]
    deadline = time.monotonic() + ESTABLISHED_SECONDS
    waiting = names
    while waiting := [name for name in waiting if not _established(cluster.get(_API, KIND, name))]:
        if time.monotonic() > deadline:
            detail = f"not served by the API server: {', '.join(waiting)}"
            raise ReleaseNotReady(release="CRDs", seconds=round(ESTABLISHED_SECONDS), detail=detail)
        time.sleep(0.3)


def _established(crd: Object | None) -> bool:
    conditions = ((crd or {}).get("status") or {}).get("conditions") or []
    return any(entry["type"] == "Established" and entry["status"] == "True" for entry in conditions)

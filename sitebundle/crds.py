"""CustomResourceDefinitions, taken out of what charts and manifest files bring: they are applied before anything else.

Pure. Applying them is the installer's business; pinning them is the lock's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import yaml

Object = dict[str, Any]
KIND = "CustomResourceDefinition"


def split_crds(objects: Iterable[Object]) -> tuple[list[Object], list[Object]]:
    """The CustomResourceDefinitions among `objects`, and the rest; both in the order given."""
    crds: list[Object] = []
    rest: list[Object] = []
    for entry in objects:
        (crds if entry.get("kind") == KIND else rest).append(entry)
    return crds, rest


def canonical(crd: Object) -> bytes:
    """The one text of a CRD: sorted keys, no status, nothing that its chart's version or name gets into."""
    clean = copy.deepcopy(crd)
    clean.pop("status", None)
    metadata = clean["metadata"]
    metadata.pop("creationTimestamp", None)
    labels = {k: v for k, v in (metadata.pop("labels", None) or {}).items() if not k.startswith(_CHART_LABELS)}
    annotations = {
        k: v for k, v in (metadata.pop("annotations", None) or {}).items() if not k.startswith(_CHART_ANNOTATIONS)
    }
    metadata |= {**({"labels": labels} if labels else {}), **({"annotations": annotations} if annotations else {})}
    return yaml.dump(clean, Dumper=_Dumper, sort_keys=True, allow_unicode=True, width=120).encode()


def served_versions(crd: Object) -> tuple[str, ...]:
    """The names of the versions that are served, in the definition's order."""
    return tuple(str(version["name"]) for version in crd["spec"]["versions"] if version.get("served", True))


_CHART_LABELS = ("helm.sh/", "app.kubernetes.io/version", "app.kubernetes.io/managed-by")
_CHART_ANNOTATIONS = ("helm.sh/", "meta.helm.sh/")


class _Dumper(yaml.CSafeDumper):
    """Without anchors: two equal parts of a definition are written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

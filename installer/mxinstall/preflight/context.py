"""The facts that checks look at: each is asked for once, when the first check wants it.

Reads only. What a fact costs in permissions is what its check says it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxinstall.cluster import Cluster, Object, Objects
from mxinstall.site import Site
from sitebundle.manifest import BundleManifest
from sitebundle.stack import Release, Stack

if TYPE_CHECKING:
    from mxinstall.opening import Opening
    from mxinstall.preflight.probes import ProbeSpace
    from mxinstall.site.bundle_values import BundleValues

Rendered = Mapping[str, tuple[Object, ...]]


class Context:
    """One site and one bundle, seen through one identity in the cluster. `state` is the host's folder for the site."""

    def __init__(
        self,
        cluster: Cluster,
        manifest: BundleManifest,
        stack: Stack,
        site: Site,
        state: Path,
        *,
        render: Callable[[], Rendered],
        values: Callable[[], BundleValues] | None = None,
    ) -> None:
        self.cluster = cluster
        self.manifest = manifest
        self.stack = stack
        self.site = site
        self.state = state
        self.space: ProbeSpace | None = None
        self._render = render
        self._values = values

    @cached_property
    def rendered(self) -> Rendered:
        """Every release with this site's values."""
        return self._render()

    @cached_property
    def bundle_values(self) -> BundleValues | None:
        """What each chart is given at this site, without rendering; None where the bundle is not at hand."""
        return self._values() if self._values else None

    @cached_property
    def version(self) -> str:
        """The API server's version."""
        return self.cluster.version()

    @cached_property
    def nodes(self) -> Objects:
        """All nodes."""
        return self.cluster.list("v1", "Node")

    @cached_property
    def usable_nodes(self) -> Objects:
        """Nodes that are Ready, not cordoned, and not closed to ordinary pods by a taint."""
        return [node for node in self.nodes if is_ready(node) and not closed_by(node)]

    @cached_property
    def pods(self) -> Objects:
        """All pods that hold resources."""
        return [
            pod
            for pod in self.cluster.list("v1", "Pod")
            if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
        ]

    @cached_property
    def storage_classes(self) -> Objects:
        """All StorageClasses."""
        return self.cluster.list("storage.k8s.io/v1", "StorageClass")

    @cached_property
    def releases(self) -> tuple[Release, ...]:
        """What the site's profile deploys."""
        return self.stack.of_profile(self.site.spec.profile)

    @property
    def our_namespaces(self) -> tuple[str, ...]:
        """The namespaces of the stack."""
        return tuple(namespace.name for namespace in self.stack.namespaces)

    def uses(self, path: str) -> bool:
        """Whether a release of the profile takes the site's value at `path` or below."""
        return any(
            used == path or used.startswith(f"{path}.") for release in self.releases for used in release.site.values()
        )


def context_for(opening: Opening, cluster: Cluster) -> Context:
    """The context of an opened bundle, acting as `cluster`."""

    def render() -> dict[str, tuple[dict[str, Any], ...]]:
        from mxinstall.plan import render_releases
        from mxinstall.tools import carried_tool

        helm = carried_tool(opening.reader, "helm", opening.state / "bin")
        return {
            name: objects
            for name, (objects, _) in render_releases(cluster, opening.carried, opening.site, helm).items()
        }

    def values() -> BundleValues:
        from mxinstall.site.bundle_values import bundle_values

        carried = opening.carried
        return bundle_values(carried.stack, carried.directory, carried.charts, opening.site)

    stack, manifest = opening.carried.stack, opening.reader.manifest
    return Context(cluster, manifest, stack, opening.site, opening.state, render=render, values=values)


def name_of(obj: Object) -> str:
    """`metadata.name`."""
    return str(obj["metadata"]["name"])


def is_ready(node: Object) -> bool:
    """Whether the node's kubelet says that it is ready."""
    conditions = node.get("status", {}).get("conditions") or ()
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def closed_by(node: Object) -> str | None:
    """Why ordinary pods do not come to the node; None when they do."""
    spec = node.get("spec") or {}
    if spec.get("unschedulable"):
        return "cordoned"
    for taint in spec.get("taints") or ():
        if taint.get("effect") in ("NoSchedule", "NoExecute"):
            return f"taint {taint['key']}"
    return None

"""What is known before a layer is fetched: the lock fits the stack, and what a bundle of it will hold.

Writes nothing. Fetched are only charts and published files that come from the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mxbundle.build import fit
from mxbundle.build.plan import BlobPlan, plan_blobs
from mxbundle.build.request import BuildRequest
from mxbundle.derive.recipe import read_recipes
from mxbundle.lock.discover import Discovery, discover
from mxbundle.lock.materials import Materials, fetch_materials
from mxbundle.lock.model import Lock, LockedImage, LockedTool
from mxbundle.lock.tools import read_tools
from sitebundle.archive.frames import libzstd_version
from sitebundle.errors import StackInvalid
from sitebundle.events import Sink, stage
from sitebundle.helm import Helm
from sitebundle.oci.upstream import Upstream
from sitebundle.operands import read_operands
from sitebundle.stack import Stack, read_stack


@dataclass(frozen=True)
class Checked:
    """What the lock and the stack agree on for this profile and these platforms."""

    releases: tuple[str, ...]
    materials: Materials
    found: Discovery
    images: tuple[LockedImage, ...]
    blobs: BlobPlan
    tools: tuple[LockedTool, ...]

    @property
    def small_bytes(self) -> int:
        """Bytes of documents and programs."""
        return sum(document.size for document in self.blobs.documents) + sum(tool.size for tool in self.tools)


def require_buildable(request: BuildRequest, lock: Lock, lock_path: Path) -> Stack:
    """The stack, when this host can build `lock` at all. Raises StackInvalid, LockStale, LockUnconfirmed."""
    path = request.manifests / "stack.yaml"
    stack = read_stack(path)
    if request.profile not in stack.profiles:
        detail = f"there is no profile {request.profile}; the stack has {', '.join(stack.profiles)}"
        raise StackInvalid(path=path, detail=detail)
    fit.require_compressor(lock, libzstd_version())
    fit.require_confirmed(lock, lock_path)
    return stack


def check(request: BuildRequest, lock: Lock, stack: Stack, upstream: Upstream, helm: Helm, sink: Sink) -> Checked:
    """Render the stack and compare what it needs with the lock. Raises LockError and TransportError."""
    with stage(sink, "check", "Does images.lock fit the stack?") as tally:
        releases = tuple(release.name for release in stack.of_profile(request.profile))
        materials = fetch_materials(stack, request.manifests, upstream)
        fit.require_materials(lock, materials, releases)
        operands = read_operands(request.manifests / "operands")
        found = discover(stack, request.manifests, materials, [request.profile], helm, operands)
        images = fit.images_of(lock, found)
        fit.require_recipes(lock, read_recipes(request.manifests / "derived"), images)
        fit.require_crds(lock, found)
        fit.require_platforms(images, request.platforms)
        listed = request.manifests / "tools.yaml"
        fit.require_tools(lock, read_tools(listed) if listed.exists() else (), request.platforms)
        tally.detail = f"{len(images)} images"
    return Checked(
        releases=releases,
        materials=materials,
        found=found,
        images=images,
        blobs=plan_blobs(images, request.platforms, lock.derived),
        tools=tuple(tool for tool in lock.tools if tool.platform in request.platforms),
    )

"""The whole of `mxbundle lock`: materials fetched, releases rendered, images resolved, programs pinned; one `Lock`.

Writes nothing: the caller compares and writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mxbundle.derive.recipe import read_recipes
from mxbundle.docker_daemon import lock_from_daemon
from mxbundle.lock.contracts import Contracts
from mxbundle.lock.derivations import derive_images, split_uses
from mxbundle.lock.discover import KUBE_VERSION, discover
from mxbundle.lock.materials import fetch_materials
from mxbundle.lock.model import Lock, LockedChart, LockedCrd, LockedFile, LockedImage
from mxbundle.lock.resolve import STAGE, Wanted, needed_by, resolve_images, wanted_images
from mxbundle.lock.tools import lock_tools, read_tools
from sitebundle.archive.frames import libzstd_version
from sitebundle.digest import Digest
from sitebundle.errors import LockStale, StackInvalid
from sitebundle.events import Note, Sink, stage
from sitebundle.helm import Helm
from sitebundle.oci.upstream import Upstream
from sitebundle.operands import read_operands
from sitebundle.podspecs import ImageUse
from sitebundle.reference import Reference
from sitebundle.stack import Stack, read_stack


@dataclass(frozen=True)
class Request:
    """What is to be locked; no `profiles` means all of the stack.

    `keep`: what the lock before pins stays pinned, whatever its tag means now; only what is new is resolved.
    """

    manifests: Path
    tools: Path
    platforms: Sequence[str]
    profiles: Sequence[str] = ()
    kube_version: str = KUBE_VERSION
    keep: bool = False


def compute_lock(request: Request, upstream: Upstream, helm: Helm, sink: Sink, previous: Lock | None = None) -> Lock:
    """Compute the lock from what the sources and registries say now.

    `confirmed_at` of an image whose digest is the one of `previous` stays. Raises LockError and TransportError.
    """
    stack = read_stack(request.manifests / "stack.yaml")
    profiles = tuple(request.profiles) or stack.profiles
    for profile in profiles:
        if profile not in stack.profiles:
            detail = f"there is no profile {profile}; the stack has {', '.join(stack.profiles)}"
            raise StackInvalid(path=request.manifests / "stack.yaml", detail=detail)
    operands = read_operands(request.manifests / "operands")
    recipes = read_recipes(request.manifests / "derived")
    bases = {recipe.reference: recipe.base for recipe in recipes}
    contracts = Contracts.read(stack, request.manifests / "images", bases)
    tools = read_tools(request.tools)
    with stage(sink, "materials", "Charts and published manifest files"):
        materials = fetch_materials(stack, request.manifests, upstream)
    with stage(sink, "render", "Every release rendered for every profile") as tally:
        found = discover(stack, request.manifests, materials, profiles, helm, operands, request.kube_version)
        tally.detail = f"{len(found.uses)} uses of images, {len(found.crds)} CRDs"
    with stage(sink, STAGE, "Tags resolved to digests") as tally:
        uses, to_derive = split_uses(found.uses, recipes)
        kept, open_uses = _kept(uses, previous, request) if request.keep else ((), uses)
        in_daemon, in_registries = _by_place(open_uses, stack)
        images = (
            *kept,
            *resolve_images(in_registries, upstream, request.platforms, contracts.check, sink),
            *(lock_from_daemon(image, request.platforms, contracts.check) for image in in_daemon),
        )
        tally.detail = f"{len(images)} images" + (f", {len(kept)} of them kept" if kept else "")
    for image in images[len(kept) :]:
        if Reference.parse(image.reference).name not in contracts.by_name:
            sink(Note("warning", f"{image.reference} has no image contract: nothing was compared with its config"))
    confirmed = (*kept, *(_confirmed(image, previous) for image in images[len(kept) :]))
    with stage(sink, "derive", "Images derived from others") as tally:
        derived, made = derive_images(
            to_derive, confirmed, upstream, request.platforms, previous if request.keep else None
        )
        confirmed = (*confirmed, *(_confirmed(image, previous) for image in made))
        tally.detail = f"{len(made)} of {len(derived)} images"
    with stage(sink, "tools", "Programs for the dark site"):
        kept_tools = previous.tools if request.keep and previous is not None else ()
        programs = lock_tools(tools, request.platforms, upstream, kept_tools)
    return Lock(
        libzstd=libzstd_version(),
        images=confirmed,
        derived=derived,
        charts=tuple(
            LockedChart(release=c.release, name=c.name, version=c.version, source=c.source, digest=c.digest)
            for c in materials.charts.values()
        ),
        files=tuple(
            LockedFile(release=f.release, url=f.url, digest=f.digest, size=len(f.content))
            for f in materials.files.values()
        ),
        crds=tuple(
            LockedCrd(
                name=crd.name,
                group=crd.group,
                kind=crd.kind,
                versions=crd.versions,
                source=crd.source,
                digest=crd.digest,
            )
            for crd in found.crds
        ),
        tools=programs,
    )


def _by_place(uses: Sequence[ImageUse], stack: Stack) -> tuple[tuple[Wanted, ...], list[ImageUse]]:
    """The images that only a Docker daemon has, and the uses of those that a registry is asked for."""
    local = {Reference.parse(stack.images[key]).tagged for key in stack.from_docker}
    in_daemon = tuple(image for image in wanted_images(uses)[0] if image.reference.tagged in local)
    taken = {use for image in in_daemon for use in image.uses}
    return in_daemon, [use for use in uses if use not in taken]


def _kept(
    uses: Sequence[ImageUse], previous: Lock | None, request: Request
) -> tuple[tuple[LockedImage, ...], tuple[ImageUse, ...]]:
    """The images that stay as they are locked, with their uses of now; and the uses of all others.

    A confirmed image stays only when it has every platform that is asked for.
    """
    wanted, problems = wanted_images(uses)
    if previous is None or problems:
        return (), tuple(uses)
    locked = {image.reference: image for image in previous.images}
    kept: list[LockedImage] = []
    rest: list[ImageUse] = []
    for image in wanted:
        old = locked.get(image.reference.tagged)
        has = {platform.platform for platform in old.platforms} if old is not None else set()
        if old is None or (old.confirmed_at is not None and not has >= set(request.platforms)):
            rest += image.uses
        else:
            kept.append(old.model_copy(update={"needed_by": needed_by(image)}))
    return tuple(kept), tuple(rest)


@dataclass(frozen=True)
class Change:
    """One entry of the lock that is new, gone, or has another digest (libzstd: another version)."""

    kind: str
    name: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.before is None:
            return f"new {self.kind} {self.name}"
        if self.after is None:
            return f"gone {self.kind} {self.name}"
        if self.before == self.after:
            return f"{self.kind} {self.name} is described differently"
        return f"{self.kind} {self.name} moved from {_short(self.before)} to {_short(self.after)}"


def _short(identity: str) -> str:
    return Digest(identity).short if identity.startswith("sha256:") else identity


def changes(before: Lock | None, after: Lock) -> tuple[Change, ...]:
    """What differs between two locks, sorted by kind and name."""
    old = _entries(before) if before is not None else {}
    new = _entries(after)
    found = []
    for kind, name in sorted(old.keys() | new.keys()):
        was, now = old.get((kind, name)), new.get((kind, name))
        if was != now:
            found.append(Change(kind, name, was[0] if was else None, now[0] if now else None))
    return tuple(found)


def require_fresh(before: Lock | None, after: Lock, path: Path) -> None:
    """Raise LockStale when `after` would not be written as `before`, byte for byte."""
    if before is None or before.to_bytes() != after.to_bytes():
        differences = "; ".join(str(change) for change in changes(before, after))
        raise LockStale(what=f"the stack and the registries ({path})", detail=differences or "its text differs")


def _entries(lock: Lock) -> dict[tuple[str, str], tuple[str, object]]:
    return {
        **{("image", image.reference): (image.digest, image) for image in lock.images},
        **{("recipe", entry.reference): (entry.base_digest, entry) for entry in lock.derived},
        **{("chart", chart.release): (chart.digest, chart) for chart in lock.charts},
        **{("file", file.url): (file.digest, file) for file in lock.files},
        **{("CRD", crd.name): (crd.digest, crd) for crd in lock.crds},
        ("tool", "libzstd"): (lock.libzstd, lock.libzstd),
        **{("tool", f"{tool.name} {tool.platform}"): (tool.digest, tool) for tool in lock.tools},
    }


def _confirmed(image: LockedImage, previous: Lock | None) -> LockedImage:
    """The image with the time of its confirmation: the old one as long as the digest is the old one."""
    for old in previous.images if previous is not None else ():
        if (old.reference, old.digest) == (image.reference, image.digest) and old.confirmed_at is not None:
            return image.model_copy(update={"confirmed_at": old.confirmed_at})
    return image.model_copy(update={"confirmed_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")})

"""The whole of `mxbundle build`: check, gather, lay out, fill, finish, sign, rename."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mxbundle.build import fit, gather
from mxbundle.build.fill import fill
from mxbundle.build.plan import OCI_LAYOUT, BlobPlan, image_entries, index_json, plan_blobs
from mxbundle.build.provenance import attestations
from mxbundle.build.request import BuildRequest, stack_files
from mxbundle.lock.discover import Discovery, discover
from mxbundle.lock.materials import Materials, fetch_materials
from mxbundle.lock.model import Lock, LockedImage, LockedTool
from sitebundle.archive import ArchiveWriter, BundleReader, SmallMembers, names, stored_member
from sitebundle.archive.frames import libzstd_version
from sitebundle.archive.signing import sign_bundle
from sitebundle.atomic import rename_durably
from sitebundle.digest import Digest
from sitebundle.errors import BundleError, BundleUnwritable, StackInvalid
from sitebundle.events import Note, Sink, stage
from sitebundle.helm import Helm
from sitebundle.journal import Journal
from sitebundle.manifest import BundleManifest
from sitebundle.oci.upstream import Upstream
from sitebundle.operands import read_operands
from sitebundle.stack import Stack, read_stack
from sitebundle.version import program_version


@dataclass(frozen=True)
class BuildReport:
    """What was built. Bytes: of the archive, fetched over the network, kept from an earlier run."""

    output: Path
    manifest_digest: Digest
    generation: int
    images: int
    archive_bytes: int
    layer_bytes: int
    fetched_bytes: int
    kept_bytes: int
    seconds: float
    signed_by: str | None

    def as_json(self) -> dict[str, Any]:
        """The report as the JSON face prints it."""
        return {**asdict(self), "output": str(self.output), "seconds": round(self.seconds, 3)}

    def __str__(self) -> str:
        kept = f", {self.kept_bytes} were there from an earlier run" if self.kept_bytes else ""
        return (
            f"{self.output}: generation {self.generation}, {self.images} images, {self.archive_bytes} bytes "
            f"in {self.seconds:.1f} s\n"
            f"layers: {self.layer_bytes} bytes, {self.fetched_bytes} fetched{kept}\n"
            f"manifest {self.manifest_digest}\n" + (f"signed by {self.signed_by}" if self.signed_by else "not signed")
        )


def build(
    request: BuildRequest,
    lock: Lock,
    lock_path: Path,
    upstream: Upstream,
    helm: Helm,
    sink: Sink,
    *,
    key: Path | None = None,
    source_commit: str | None = None,
    built_at: float | None = None,
) -> BuildReport:
    """Build `request.output` from `lock`, going on where an earlier run of the same wish was broken off.

    The output appears by rename, last. Raises LockError, TransportError, BundleError.
    """
    started = time.monotonic()
    part = request.output.with_name(request.output.name + ".part")
    journal_path = request.output.with_name(request.output.name + ".journal")
    stack = read_stack(request.manifests / "stack.yaml")
    if request.profile not in stack.profiles:
        detail = f"there is no profile {request.profile}; the stack has {', '.join(stack.profiles)}"
        raise StackInvalid(path=request.manifests / "stack.yaml", detail=detail)
    fit.require_compressor(lock, libzstd_version())
    fit.require_confirmed(lock.images, lock_path)
    request.output.parent.mkdir(parents=True, exist_ok=True)
    with _writing(part), Journal.open(journal_path, request.purpose(lock)) as journal:
        archive = _begun(part, journal, sink)
        fresh = archive is None
        if archive is None:
            archive = _begin(request, lock, stack, part, upstream, helm, sink)
            journal.append({"laid-out": archive.manifest.digest})
        with archive:
            manifest = archive.manifest
            blobs = _plan(lock, manifest)
            title = f"Fetching {len(blobs.layers)} layers" + ("" if fresh else ", going on with an earlier run")
            with stage(sink, "fetch", title, blobs.layer_bytes) as tally:
                filled = fill(archive, blobs.layers, upstream, journal, request.fetches, sink)
                tally.moved_bytes = filled.fetched_bytes
                tally.detail = f"{filled.kept_bytes} bytes kept from an earlier run" if filled.kept_bytes else ""
            archive.finish(attestations(manifest, program_version(), lock.libzstd, source_commit, built_at))
        signed = sign_bundle(part, key) if key is not None else None
        if signed is None:
            sink(Note("warning", f"{request.output.name} is not signed; no site installs it before `mxbundle sign`"))
        rename_durably(part, request.output)
        journal.remove()
    return BuildReport(
        output=request.output,
        manifest_digest=manifest.digest,
        generation=manifest.generation,
        images=len(manifest.images),
        archive_bytes=request.output.stat().st_size,
        layer_bytes=blobs.layer_bytes,
        fetched_bytes=filled.fetched_bytes,
        kept_bytes=filled.kept_bytes,
        seconds=time.monotonic() - started,
        signed_by=signed.fingerprint if signed else None,
    )


def _begun(part: Path, journal: Journal, sink: Sink) -> ArchiveWriter | None:
    """The archive that an earlier run of the same wish laid out; None when there is none that can be gone on with."""
    laid_out = [record["laid-out"] for record in journal.records if "laid-out" in record]
    if not part.exists():
        return None
    if not laid_out:
        sink(Note("info", f"{part.name} was begun for something else or not laid out; starting over"))
        return None
    try:
        with BundleReader.open_unfinished(part) as reader:
            if reader.manifest_digest != laid_out[-1]:
                raise BundleUnwritable(path=part, detail="it has another manifest")
            for member in reader.manifest.members:
                if member.storage == "zstd":
                    reader.check(member.name)
            return ArchiveWriter.reopen(part, reader.manifest)
    except BundleError as fault:
        sink(Note("warning", f"{part.name} cannot be gone on with ({fault}); starting over"))
        return None


@dataclass(frozen=True)
class _Checked:
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


def _begin(
    request: BuildRequest, lock: Lock, stack: Stack, part: Path, upstream: Upstream, helm: Helm, sink: Sink
) -> ArchiveWriter:
    """Check the lock against the stack, gather what is small, lay everything out."""
    with stage(sink, "check", "Does images.lock fit the stack?") as tally:
        checked = _check(request, lock, stack, upstream, helm)
        tally.detail = f"{len(checked.images)} images"
    with SmallMembers(part.parent, request.created_at(lock)) as small:
        with stage(sink, "gather", "Manifests, configs, charts, tools", checked.small_bytes) as tally:
            downloads = gather.Downloads(small, upstream, checked.small_bytes, sink)
            manifest = _gather(request, lock, checked, downloads)
            tally.moved_bytes = downloads.done_bytes
        part.unlink(missing_ok=True)
        return ArchiveWriter.create(part, manifest, small)


def _check(request: BuildRequest, lock: Lock, stack: Stack, upstream: Upstream, helm: Helm) -> _Checked:
    releases = tuple(release.name for release in stack.of_profile(request.profile))
    materials = fetch_materials(stack, request.manifests, upstream)
    fit.require_materials(lock, materials, releases)
    operands = read_operands(request.manifests / "operands")
    found = discover(stack, request.manifests, materials, [request.profile], helm, operands)
    images = fit.images_of(lock, found)
    fit.require_crds(lock, found)
    fit.require_platforms(images, request.platforms)
    return _Checked(
        releases=releases,
        materials=materials,
        found=found,
        images=images,
        blobs=plan_blobs(images, request.platforms),
        tools=tuple(tool for tool in lock.tools if tool.platform in request.platforms),
    )


def _gather(request: BuildRequest, lock: Lock, checked: _Checked, downloads: gather.Downloads) -> BundleManifest:
    small = downloads.small
    gather.add_stack(small, list(stack_files(request.manifests)))
    charts, files = gather.add_materials(small, checked.materials, checked.releases)
    crds = gather.add_crds(small, checked.found.crds)
    tools = downloads.add_tools(checked.tools, request.output.with_name(request.output.name + ".tool"))
    downloads.add_documents(checked.blobs.documents)
    small.add(names.INDEX, index_json(checked.images))
    small.add(names.OCI_LAYOUT, OCI_LAYOUT)
    layers = [stored_member(layer.digest.blob_path, layer.size, layer.digest) for layer in checked.blobs.layers]
    return BundleManifest(
        name=request.name,
        generation=request.generation,
        created=request.created_at(lock),
        profile=request.profile,
        lock_digest=Digest.of(lock.to_bytes()),
        platforms=request.platforms,
        images=image_entries(checked.images, request.platforms),
        charts=charts,
        files=files,
        crds=crds,
        tools=tools,
        members=(*small.members, *layers),
    )


def _plan(lock: Lock, manifest: BundleManifest) -> BlobPlan:
    """The blobs of a manifest, as the lock knows where to have them."""
    carried = {image.reference for image in manifest.images}
    return plan_blobs([image for image in lock.images if image.reference in carried], manifest.platforms)


@contextmanager
def _writing(part: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        if fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG, errno.EIO, errno.EPERM):
            raise BundleUnwritable(path=part, detail=os.strerror(fault.errno)) from fault
        raise

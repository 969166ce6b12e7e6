"""The whole of `mxbundle build`: check, gather, lay out, fill, finish, sign, rename."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mxbundle.build import gather
from mxbundle.build.check import Checked, check, require_buildable
from mxbundle.build.fill import Filled, fill
from mxbundle.build.finished import finished
from mxbundle.build.local import LocalImages
from mxbundle.build.plan import OCI_LAYOUT, BlobPlan, image_entries, index_json, plan_blobs
from mxbundle.build.provenance import Provenance, attestations
from mxbundle.build.report import BuildPreview, BuildReport
from mxbundle.build.request import BuildRequest, stack_files
from mxbundle.lock.model import Lock
from sitebundle.archive import ArchiveWriter, BundleReader, SmallMembers, names, stored_member
from sitebundle.archive.signing import sign_bundle
from sitebundle.atomic import rename_durably
from sitebundle.digest import Digest
from sitebundle.errors import BundleError, BundleUnwritable
from sitebundle.events import Note, Sink, stage
from sitebundle.helm import Helm
from sitebundle.journal import Journal
from sitebundle.manifest import BundleManifest
from sitebundle.oci.upstream import Upstream
from sitebundle.signature import Signature, public_key_of
from sitebundle.units import bytes_for_people
from sitebundle.version import program_version


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

    The output appears by rename, last; one that already is what is asked for stays, and is signed when it lacks the
    signature. Raises LockError, TransportError, BundleError.
    """
    started = time.monotonic()
    stack = require_buildable(request, lock, lock_path)
    if key is not None:
        public_key_of(key)  # A key that cannot sign is said now, not after the last layer.
    provenance = _provenance(request, lock, source_commit, built_at)
    if (manifest := finished(request.output, provenance)) is not None:
        return _already_built(request, lock, manifest, provenance, key, sink, started)
    part = _beside(request.output, "part")
    request.output.parent.mkdir(parents=True, exist_ok=True)
    with _writing(part), Journal.open(_beside(request.output, "journal"), provenance.request) as journal:
        local = LocalImages(lock, upstream, part.parent)
        archive = _begun(part, journal, sink)
        fresh = archive is None
        if archive is None:
            checked = check(request, lock, stack, upstream, helm, sink)
            archive = _begin(request, lock, checked, part, upstream, local, sink)
            journal.append({"laid-out": archive.manifest.digest})
        with archive:
            manifest = archive.manifest
            blobs = _plan(lock, manifest)
            title = f"Fetching {len(blobs.layers)} layers" + ("" if fresh else ", going on with an earlier run")
            with stage(sink, "fetch", title, blobs.layer_bytes) as tally:
                filled = fill(archive, blobs.layers, upstream, journal, request.fetches, sink, local.sources)
                tally.moved_bytes = filled.fetched_bytes
                tally.detail = (
                    f"{bytes_for_people(filled.kept_bytes)} kept from an earlier run" if filled.kept_bytes else ""
                )
            archive.finish(attestations(manifest, provenance))
        signed_by = _signed(part, key, sink)
        rename_durably(part, request.output)
        journal.remove()
    return _report(request.output, manifest, blobs.layer_bytes, filled, signed_by, started)


def preview(
    request: BuildRequest,
    lock: Lock,
    lock_path: Path,
    upstream: Upstream,
    helm: Helm,
    sink: Sink,
    *,
    source_commit: str | None = None,
    built_at: float | None = None,
) -> BuildPreview:
    """What `build` would do; makes every check that comes before the first byte, and writes nothing.

    Raises LockError and TransportError.
    """
    stack = require_buildable(request, lock, lock_path)
    checked = check(request, lock, stack, upstream, helm, sink)
    there = next(folder for folder in request.output.absolute().parents if folder.is_dir())
    return BuildPreview(
        output=request.output,
        generation=request.generation,
        images=len(checked.images),
        layers=len(checked.blobs.layers),
        layer_bytes=checked.blobs.layer_bytes,
        small_bytes=checked.small_bytes,
        free_bytes=shutil.disk_usage(there).free,
        finished=finished(request.output, _provenance(request, lock, source_commit, built_at)) is not None,
    )


def _provenance(request: BuildRequest, lock: Lock, source_commit: str | None, built_at: float | None) -> Provenance:
    return Provenance(
        builder=f"mxbundle {program_version()}",
        libzstd=lock.libzstd,
        request=request.purpose(lock),
        source_commit=source_commit,
        built_at=built_at,
    )


def _already_built(
    request: BuildRequest,
    lock: Lock,
    manifest: BundleManifest,
    provenance: Provenance,
    key: Path | None,
    sink: Sink,
    started: float,
) -> BuildReport:
    """The report of a run that found its output finished; what a crash right after the rename left is removed."""
    signed_by = _signed(request.output, key, sink)
    journal = _beside(request.output, "journal")
    if journal.exists() and not _beside(request.output, "part").exists():
        with Journal.open(journal, provenance.request) as left:
            left.remove()
    layer_bytes = _plan(lock, manifest).layer_bytes
    kept = Filled(fetched_bytes=0, kept_bytes=layer_bytes)
    return _report(request.output, manifest, layer_bytes, kept, signed_by, started, changed=False)


def _report(
    output: Path,
    manifest: BundleManifest,
    layer_bytes: int,
    filled: Filled,
    signed_by: str | None,
    started: float,
    changed: bool = True,
) -> BuildReport:
    return BuildReport(
        output=output,
        manifest_digest=manifest.digest,
        generation=manifest.generation,
        images=len(manifest.images),
        archive_bytes=output.stat().st_size,
        layer_bytes=layer_bytes,
        fetched_bytes=filled.fetched_bytes,
        kept_bytes=filled.kept_bytes,
        seconds=time.monotonic() - started,
        signed_by=signed_by,
        changed=changed,
    )


def _signed(path: Path, key: Path | None, sink: Sink) -> str | None:
    """Sign with `key`, when there is one. The fingerprint of whose signature `path` bears, None when of nobody."""
    if key is not None:
        return sign_bundle(path, key).fingerprint
    with BundleReader.open(path) as reader:
        signatures = reader.signatures
    if not signatures:
        sink(Note("warning", "the bundle is not signed; no site installs it before `mxbundle sign`"))
        return None
    return ", ".join(Signature.parse(armored).key.fingerprint for armored in signatures)


def _beside(output: Path, suffix: str) -> Path:
    return output.with_name(f"{output.name}.{suffix}")


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


def _begin(
    request: BuildRequest,
    lock: Lock,
    checked: Checked,
    part: Path,
    upstream: Upstream,
    local: LocalImages,
    sink: Sink,
) -> ArchiveWriter:
    """Gather what is small, lay everything out."""
    with SmallMembers(part.parent, request.created_at(lock)) as small:
        with stage(sink, "gather", "Manifests, configs, charts, tools", checked.small_bytes) as tally:
            downloads = gather.Downloads(small, upstream, checked.small_bytes, sink)
            manifest = _gather(request, lock, checked, downloads, local)
            tally.moved_bytes = downloads.done_bytes
        part.unlink(missing_ok=True)
        return ArchiveWriter.create(part, manifest, small)


def _gather(
    request: BuildRequest, lock: Lock, checked: Checked, downloads: gather.Downloads, local: LocalImages
) -> BundleManifest:
    small = downloads.small
    gather.add_stack(small, list(stack_files(request.manifests)))
    charts, files = gather.add_materials(small, checked.materials, checked.releases)
    crds = gather.add_crds(small, checked.found.crds)
    tools = downloads.add_tools(checked.tools, request.output.parent)
    downloads.add_documents(checked.blobs.documents, local.documents(checked.images, request.platforms))
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
    images = [image for image in lock.images if image.reference in carried]
    return plan_blobs(images, manifest.platforms, lock.derived)


@contextmanager
def _writing(part: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        if fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG, errno.EIO, errno.EPERM):
            raise BundleUnwritable(path=part, detail=os.strerror(fault.errno)) from fault
        raise

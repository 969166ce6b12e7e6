"""What a bundle's images are at the site's registry: which blobs in which repositories, which manifests by which tags.

Pure. Names: docs/reference/names.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sitebundle.digest import Digest
from sitebundle.manifest import BundleManifest, Image
from sitebundle.reference import Reference, retention_tag, site_repository

PROBE_PREFIX = "mx-preflight"
"""Below the site's prefix: where the probe image is before anything else may be there."""


@dataclass(frozen=True)
class BlobTask:
    """One blob and every repository that must have it, the first of them being pushed to. `size` in bytes."""

    digest: Digest
    size: int
    repositories: tuple[str, ...]

    @property
    def member(self) -> str:
        """Its path in the archive."""
        return self.digest.blob_path


@dataclass(frozen=True)
class ManifestTask:
    """One manifest or index in one repository, with the tags that name it there. `size` in bytes."""

    repository: str
    digest: Digest
    size: int
    media_type: str
    tags: tuple[str, ...]

    @property
    def member(self) -> str:
        """Its path in the archive."""
        return self.digest.blob_path


@dataclass(frozen=True)
class SeedPlan:
    """Everything to push: blobs largest first; children strictly before what names them."""

    blobs: tuple[BlobTask, ...]
    children: tuple[ManifestTask, ...]
    tops: tuple[ManifestTask, ...]

    @property
    def manifests(self) -> tuple[ManifestTask, ...]:
        """All manifests in the order of pushing."""
        return (*self.children, *self.tops)

    @property
    def total_bytes(self) -> int:
        """Unique bytes of blobs and manifests."""
        unique = {task.digest: task.size for task in self.blobs}
        unique |= {task.digest: task.size for task in self.manifests}
        return sum(unique.values())


def plan_seed(manifest: BundleManifest, prefix: str, images: Iterable[Image] | None = None) -> SeedPlan:
    """The plan for all images of a bundle (or `images` alone) below `prefix`."""
    sizes = {member.name: member.size for member in manifest.members}
    repositories: dict[Digest, dict[str, None]] = {}
    children: dict[tuple[str, Digest], ManifestTask] = {}
    tops: dict[tuple[str, Digest], ManifestTask] = {}
    for image in manifest.images if images is None else images:
        reference = Reference.parse(image.reference)
        repository = site_repository(reference, prefix)
        for carried in image.carried:
            for blob in (carried.config, *carried.layers):
                repositories.setdefault(blob, {})[repository] = None
            if carried.digest != image.digest:
                children[repository, carried.digest] = ManifestTask(
                    repository, carried.digest, carried.size, carried.media_type, (retention_tag(carried.digest),)
                )
        known = tops.get((repository, image.digest))
        names = {*(known.tags if known else ()), retention_tag(image.digest)}
        names |= {reference.tag} if reference.tag else set()
        tops[repository, image.digest] = ManifestTask(
            repository, image.digest, image.size, image.media_type, tuple(sorted(names))
        )
    blobs = [
        BlobTask(digest, sizes[digest.blob_path], tuple(sorted(wanted))) for digest, wanted in repositories.items()
    ]
    return SeedPlan(
        blobs=tuple(sorted(blobs, key=lambda task: (-task.size, task.digest))),
        # A manifest may be a child of one tag and the top of another in the same repository.
        children=tuple(task for key, task in sorted(children.items()) if key not in tops),
        tops=tuple(task for _, task in sorted(tops.items())),
    )


def probe_repository(repository: str, prefix: str) -> str:
    """Where the probe image's copy of `repository` is."""
    bare = repository.removeprefix(f"{prefix}/") if prefix else repository
    return "/".join(part for part in (prefix, PROBE_PREFIX, bare) if part)

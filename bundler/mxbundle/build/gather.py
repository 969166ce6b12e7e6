"""Fetching what is small and compressing it in passing: stack, charts, files, CRDs, tools, manifests, configs.

Bounded memory: a few documents at a time. Layers are `fill`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from mxbundle.build.plan import WantedBlob
from mxbundle.lock.discover import FoundCrd
from mxbundle.lock.materials import Materials
from mxbundle.lock.model import LockedTool
from mxbundle.lock.tools import opened_tool
from sitebundle.archive import SmallMembers, WrongContent, names
from sitebundle.digest import Digest
from sitebundle.errors import (
    BlobCorrupt,
    BlobUnfetchable,
    ImageUnresolvable,
    RegistryRefused,
    RegistryUnreachable,
    SourceChanged,
    StackInvalid,
)
from sitebundle.events import Progress, Sink
from sitebundle.manifest import Chart, Crd, ManifestFile, Tool
from sitebundle.oci.upstream import Upstream

DOCUMENTS_AT_ONCE = 8
_CHUNK = 1 << 20


def add_stack(small: SmallMembers, files: Sequence[tuple[str, Path]]) -> None:
    """The stack's definition, as it stands. Raises StackInvalid for a file that no bundle can name."""
    for inside, path in files:
        member = f"stack/{inside}"
        if not names.is_safe(member):
            detail = "the names in a bundle have letters, digits and ._+@- only, and 240 bytes at most"
            raise StackInvalid(path=path, detail=detail)
        small.add(member, path.read_bytes())


def add_materials(
    small: SmallMembers, materials: Materials, releases: Sequence[str]
) -> tuple[tuple[Chart, ...], tuple[ManifestFile, ...]]:
    """The charts and published files of `releases`. Raises StackInvalid for two charts of one name that differ."""
    charts, files = [], []
    written: dict[str, Digest] = {}
    for release in sorted(releases):
        if release in materials.charts:
            packed = materials.charts[release]
            member = f"charts/{packed.name}-{packed.version}.tgz"
            if member not in written:
                small.add(member, packed.content)
                written[member] = packed.digest
            elif written[member] != packed.digest:
                detail = (
                    f"another release has a different chart {packed.name} {packed.version}; give it its own version"
                )
                raise StackInvalid(path=packed.source, detail=detail)
            charts.append(
                Chart(release=release, name=packed.name, version=packed.version, member=member, digest=packed.digest)
            )
        else:
            published = materials.files[release]
            member = f"files/{release}.yaml"
            small.add(member, published.content)
            files.append(ManifestFile(release=release, url=published.url, member=member, digest=published.digest))
    return tuple(charts), tuple(files)


def add_crds(small: SmallMembers, crds: Sequence[FoundCrd]) -> tuple[Crd, ...]:
    """The CustomResourceDefinitions, in their canonical text."""
    entries = []
    for crd in sorted(crds, key=lambda crd: crd.name):
        member = f"crds/{crd.name}.yaml"
        small.add(member, crd.content)
        entries.append(
            Crd(
                name=crd.name,
                group=crd.group,
                kind=crd.kind,
                versions=crd.versions,
                source=crd.source,
                member=member,
                digest=crd.digest,
            )
        )
    return tuple(entries)


@dataclass
class Downloads:
    """What has to come over the network before the layout is known; its bytes are counted as one stage."""

    small: SmallMembers
    upstream: Upstream
    total_bytes: int
    sink: Sink
    done_bytes: int = 0

    def add_tools(self, tools: Sequence[LockedTool], folder: Path) -> tuple[Tool, ...]:
        """The dark site's programs; one download at a time lies in an unnamed file in `folder`.

        Raises SourceChanged, RegistryRefused, RegistryUnreachable.
        """
        entries = []
        for tool in sorted(tools, key=lambda tool: (tool.platform, tool.name)):
            member = f"tools/{tool.platform.replace('/', '-')}/{tool.name}"
            with opened_tool(tool, self.upstream, folder) as program:
                try:
                    self.small.add_stream(member, tool.size, _chunks(program), tool.digest)
                except WrongContent as wrong:
                    raise SourceChanged(url=tool.url, seen=wrong.seen, expected=tool.digest) from wrong
            entries.append(
                Tool(name=tool.name, version=tool.version, platform=tool.platform, member=member, digest=tool.digest)
            )
            self._came(tool.size, f"{tool.name} {tool.version}")
        return tuple(entries)

    def add_documents(self, documents: Sequence[WantedBlob], made: Mapping[Digest, bytes]) -> None:
        """Manifests, indexes and configs: fetched by digest, or what is `made` here.

        Raises ImageUnresolvable or BlobUnfetchable, which name who needs the document.
        """
        waiting = iter(documents)
        with ThreadPoolExecutor(DOCUMENTS_AT_ONCE, thread_name_prefix="document") as pool:
            while batch := list(islice(waiting, DOCUMENTS_AT_ONCE)):
                contents = pool.map(lambda wanted: _document(wanted, self.upstream, made), batch)
                for document, content in zip(batch, contents, strict=True):
                    self.small.add(document.digest.blob_path, content)
                    self._came(len(content), document.reference)

    def _came(self, step: int, what: str) -> None:
        self.done_bytes += step
        self.sink(Progress("gather", self.done_bytes, self.total_bytes, what))


def _document(wanted: WantedBlob, upstream: Upstream, made: Mapping[Digest, bytes]) -> bytes:
    if not wanted.places:
        return made[wanted.digest]
    fault: Exception | None = None
    for place in wanted.places:
        try:
            registry = upstream.registry(place.host)
            if wanted.is_manifest:
                content = registry.manifest(place.repository, wanted.digest)[1]
            else:
                content = registry.read_blob(place.repository, wanted.digest)
        except (RegistryRefused, RegistryUnreachable, BlobCorrupt) as refused:
            fault = fault or refused
            continue
        if len(content) == wanted.size:
            return content
        fault = BlobCorrupt(registry=registry.name, seen=f"{len(content)} bytes", digest=wanted.digest)
    if wanted.is_manifest:
        raise ImageUnresolvable(reference=wanted.reference, detail=fault, needed_by=wanted.needed_by) from fault
    raise BlobUnfetchable(
        digest=wanted.digest, reference=wanted.reference, detail=fault, needed_by=wanted.needed_by
    ) from fault


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk

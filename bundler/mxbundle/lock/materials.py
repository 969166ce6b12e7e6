"""What the releases are made of, fetched: packed charts and published manifest files, checked against their pins.

Used by the lock, which pins them, and by the build, which carries them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mxbundle.lock.charts import PackedChart, obtain_chart
from sitebundle.digest import Digest
from sitebundle.errors import SourceChanged
from sitebundle.oci.upstream import Upstream
from sitebundle.rendering import Sources
from sitebundle.stack import Release, Stack


@dataclass(frozen=True)
class PublishedFile:
    """A published manifest file, byte for byte."""

    release: str
    url: str
    content: bytes

    @property
    def digest(self) -> Digest:
        """The digest of the file."""
        return Digest.of(self.content)


@dataclass(frozen=True)
class Materials:
    """Charts and manifest files by release."""

    charts: Mapping[str, PackedChart]
    files: Mapping[str, PublishedFile]

    @contextmanager
    def laid_out(self) -> Iterator[Sources]:
        """The materials as files, for as long as the block runs: what helm renders is what is carried."""
        with TemporaryDirectory(prefix="mxbundle-materials-") as folder:
            charts, files = {}, {}
            for release, chart in self.charts.items():
                charts[release] = Path(folder) / f"{release}.tgz"
                charts[release].write_bytes(chart.content)
            for release, file in self.files.items():
                files[release] = Path(folder) / f"{release}.yaml"
                files[release].write_bytes(file.content)
            yield Sources(charts=charts, files=files)


def fetch_materials(stack: Stack, manifests: Path, upstream: Upstream) -> Materials:
    """Fetch and check what all releases are made of. Raises what `obtain_chart` raises, and SourceChanged."""
    charts: dict[str, PackedChart] = {}
    files: dict[str, PublishedFile] = {}
    with TemporaryDirectory(prefix="mxbundle-charts-") as folder:
        for release in stack.releases:
            if release.chart is not None:
                workspace = Path(folder) / release.name
                workspace.mkdir()
                charts[release.name] = obtain_chart(release, manifests, upstream, workspace)
            else:
                files[release.name] = _published(release, upstream)
    return Materials(charts, files)


def _published(release: Release, upstream: Upstream) -> PublishedFile:
    url = release.manifest or ""
    target = io.BytesIO()
    upstream.download(url, target)
    file = PublishedFile(release.name, url, target.getvalue())
    expected = f"sha256:{(release.sha256 or '').removeprefix('sha256:')}"
    if file.digest != expected:
        raise SourceChanged(url=url, seen=file.digest, expected=expected)
    return file

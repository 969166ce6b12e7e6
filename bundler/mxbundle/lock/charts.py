"""Charts as we pack them: the same folder gives the same bytes, on every machine and with every zlib.

Where a chart comes from: a folder under manifests/, an OCI registry, an https URL. Rendering is `sitebundle`'s.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from sitebundle.digest import Digest
from sitebundle.errors import BlobCorrupt, RegistryRefused, RegistryUnreachable, SourceChanged, StackInvalid
from sitebundle.oci.upstream import Upstream
from sitebundle.stack import Release

CHART_LAYER = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
MOST_CHART_BYTES = 32 << 20
_STORED_BLOCK_BYTES = 65535


@dataclass(frozen=True)
class PackedChart:
    """A chart, packed: `content` is the .tgz, `source` where it came from."""

    release: str
    name: str
    version: str
    source: str
    content: bytes

    @property
    def digest(self) -> Digest:
        """The digest of the .tgz."""
        return Digest.of(self.content)


def obtain_chart(release: Release, manifests: Path, upstream: Upstream, workspace: Path) -> PackedChart:
    """The chart of `release`, packed by us. `workspace` is an empty folder for what has to be unpacked.

    Raises StackInvalid, SourceChanged, BlobCorrupt, RegistryRefused, RegistryUnreachable.
    """
    source = release.chart
    assert source is not None
    if source.startswith("oci://"):
        folder = _unpacked(_pulled(release, upstream, workspace), workspace / "chart", source)
    elif source.startswith("https://"):
        folder = _unpacked(_downloaded(release, upstream), workspace / "chart", source)
    else:
        folder = manifests / source
    about = _about(folder)
    if release.version is not None and about["version"] != release.version:
        raise StackInvalid(
            path=folder / "Chart.yaml",
            detail=f"version {about['version']}, but release {release.name} asks for {release.version}",
        )
    return PackedChart(release.name, about["name"], about["version"], source, pack_chart(folder))


def pack_chart(folder: Path) -> bytes:
    """The folder of a chart as a .tgz: sorted names, no times, no owners, and stored instead of deflated.

    A deflated stream depends on the zlib that wrote it; the bundle compresses the member anyway.
    """
    name = _about(folder)["name"]
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(_files(folder), key=lambda p: p.relative_to(folder).as_posix()):
            entry = tarfile.TarInfo(f"{name}/{path.relative_to(folder).as_posix()}")
            entry.size = path.stat().st_size
            entry.mode = 0o644
            with path.open("rb") as file:
                archive.addfile(entry, file)
    return _stored_gzip(content.getvalue())


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise StackInvalid(path=path, detail="a chart holds no symbolic links")
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.suffix not in (".swp", ".orig") and not path.name.endswith("~"):
            yield path


def _stored_gzip(data: bytes) -> bytes:
    """RFC 1952 around RFC 1951's stored blocks: a function of the data alone."""
    blocks = [data[i : i + _STORED_BLOCK_BYTES] for i in range(0, len(data), _STORED_BLOCK_BYTES)] or [b""]
    stream = b"".join(
        struct.pack("<BHH", index == len(blocks) - 1, len(block), len(block) ^ 0xFFFF) + block
        for index, block in enumerate(blocks)
    )
    header = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    return header + stream + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


def _about(folder: Path) -> dict[str, str]:
    path = folder / "Chart.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {"name": str(content["name"]), "version": str(content["version"])}
    except (OSError, yaml.YAMLError, KeyError, TypeError) as fault:
        raise StackInvalid(path=path, detail=f"not a chart: {fault}") from fault


def _pulled(release: Release, upstream: Upstream, workspace: Path) -> bytes:
    """An OCI chart, pulled by oras and checked against the manifest, which oras does not do."""
    from oras.client import OrasClient
    from oras.logger import setup_logger

    setup_logger(quiet=True)
    source = release.chart or ""
    host, _, repository = source.removeprefix("oci://").partition("/")
    if not repository or release.version is None:
        raise StackInvalid(path="stack.yaml", detail=f"release {release.name}: {source} needs a name and a version")
    registry = upstream.registry(host)
    tag = release.version.replace("+", "_")
    descriptor, manifest = registry.manifest(repository, tag)
    layers = [layer for layer in json.loads(manifest).get("layers", ()) if layer.get("mediaType") == CHART_LAYER]
    if len(layers) != 1:
        raise RegistryRefused(registry=registry.name, action=f"chart {source}:{tag}", status=200, detail="not a chart")
    endpoint = registry.endpoint
    client = OrasClient(
        hostname=endpoint.host,
        insecure=endpoint.url.startswith("http://"),
        tls_verify=str(endpoint.ca) if endpoint.ca else True,
    )
    path = "/".join(part for part in (endpoint.host, endpoint.path_prefix, repository) if part)
    pulled = workspace / "pulled"
    try:
        names = client.pull(f"{path}@{descriptor.digest}", outdir=str(pulled))
        contents = {Digest.of(content): content for content in (Path(name).read_bytes() for name in names)}
    except (OSError, ValueError) as fault:
        raise RegistryUnreachable(registry=registry.name, detail=f"chart {source}:{tag}: {fault}") from fault
    expected = Digest(layers[0]["digest"])
    if expected not in contents:
        raise BlobCorrupt(registry=registry.name, seen=", ".join(contents) or "nothing", digest=expected)
    return contents[expected]


def _downloaded(release: Release, upstream: Upstream) -> bytes:
    source = release.chart or ""
    if not source.endswith(".tgz") or release.sha256 is None:
        detail = f"release {release.name}: an https chart is the URL of a .tgz, pinned by sha256"
        raise StackInvalid(path="stack.yaml", detail=detail)
    target = io.BytesIO()
    upstream.download(source, target)
    seen, expected = Digest.of(target.getvalue()), f"sha256:{release.sha256.removeprefix('sha256:')}"
    if seen != expected:
        raise SourceChanged(url=source, seen=seen, expected=expected)
    return target.getvalue()


def _unpacked(content: bytes, target: Path, source: str) -> Path:
    """Unpack a chart's .tgz; the folder of the chart inside it. Raises StackInvalid for what is no chart."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            members = [m for m in archive.getmembers() if m.isfile()]
            if sum(member.size for member in members) > MOST_CHART_BYTES:
                raise StackInvalid(path=source, detail=f"a chart of more than {MOST_CHART_BYTES} bytes")
            archive.extractall(target, members, filter="data")
            tops = {PurePosixPath(member.name).parts[0] for member in members}
    except (tarfile.TarError, OSError, EOFError, zlib.error) as fault:
        raise StackInvalid(path=source, detail=f"not a chart archive: {fault}") from fault
    if len(tops) != 1:
        raise StackInvalid(path=source, detail="not a chart archive: it has not exactly one folder")
    return target / tops.pop()

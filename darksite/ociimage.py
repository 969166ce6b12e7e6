"""Writes container images as OCI layouts, byte for byte the same from the same files.

It knows layers, configurations, manifests and indexes; it neither runs a build nor talks to a registry.
Specification: https://github.com/opencontainers/image-spec (layer.md, config.md, image-layout.md).
"""

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, cast

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
EPOCH = "1970-01-01T00:00:00Z"
_CHUNK_BYTES = 1 << 20

Compression = Literal["", "gzip"]


@dataclass(frozen=True)
class LayerInfo:
    """A layer in file `blob`: its digest, the digest of the tar inside it, and its size as it is sent."""

    blob: Path
    digest: str
    diff_id: str
    size_bytes: int
    media_type: str


@dataclass(frozen=True)
class Descriptor:
    """What an OCI document says of another: `platform` is `os/architecture`, "" for none."""

    media_type: str
    digest: str
    size_bytes: int
    platform: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The descriptor as JSON has it (descriptor.md)."""
        written: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size_bytes,
        }
        if self.annotations:
            written["annotations"] = dict(self.annotations)
        if self.platform:
            system, architecture = self.platform.split("/")
            written["platform"] = {"architecture": architecture, "os": system}
        return written


def layer_from_dir(root: Path, out: Path, *, compression: Compression = "gzip", skip: Iterable[str] = ()) -> LayerInfo:
    """Packs everything below `root` into the layer file `out`.

    Names are sorted and times are zero; modes, numeric owners, links and devices are kept. `skip` names paths
    relative to `root` that are left out with all below them. Raises OSError.
    """
    left_out = {name.strip("/") for name in skip}
    with _LayerWriter(out, compression) as writer:
        for path in _sorted_tree(root, left_out):
            writer.add(path, path.relative_to(root).as_posix())
    return writer.info()


def layer_from_files(
    files: Mapping[str, bytes | Path], out: Path, *, compression: Compression = "gzip", mode: int = 0o755
) -> LayerInfo:
    """Packs single files, owned by root, under the paths that are the keys of `files`. Raises OSError."""
    with _LayerWriter(out, compression) as writer:
        made: set[str] = set()
        for name in sorted(files):
            writer.add_parents(name.strip("/"), made)
            content = files[name]
            data = content if isinstance(content, bytes) else content.read_bytes()
            writer.add_bytes(name.strip("/"), data, mode)
    return writer.info()


def write_layer(tar_stream: IO[bytes], out: Path, *, compression: Compression = "gzip") -> LayerInfo:
    """Takes a tar as it is, from any source, into the layer file `out`. Raises OSError."""
    with _Blob(out, compression) as blob:
        shutil.copyfileobj(tar_stream, blob, _CHUNK_BYTES)
    return blob.info()


def build_image(
    layers: Sequence[LayerInfo],
    config: Mapping[str, Any],
    out_layout: Path,
    ref: str,
    *,
    platform: str = "linux/amd64",
    index: bool = True,
    created: str = EPOCH,
) -> Descriptor:
    """Writes an image of `layers` into the OCI layout `out_layout` and names it `ref` there.

    `config` is the image's execution part as config.md spells it: User, Env, Entrypoint, Cmd, WorkingDir, …
    With `index` the name means an image index of one platform, as most upstreams publish; the descriptor that is
    returned is the one behind the name. A `ref` of "" writes the blobs and names nothing. Raises OSError.
    """
    system, architecture = platform.split("/")
    configuration = {
        "architecture": architecture,
        "config": dict(config),
        "created": created,
        "history": [{"created": created, "created_by": "mxbundle dark site"} for _ in layers],
        "os": system,
        "rootfs": {"diff_ids": [layer.diff_id for layer in layers], "type": "layers"},
    }
    for layer in layers:
        _place(layer, out_layout)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _put(out_layout, CONFIG_TYPE, configuration).document(),
        "layers": [Descriptor(layer.media_type, layer.digest, layer.size_bytes).document() for layer in layers],
    }
    described = _put(out_layout, MANIFEST_TYPE, manifest, platform)
    if index:
        return build_index([described], out_layout, ref)
    if ref:
        name_image(out_layout, described, ref)
    return described


def build_index(
    manifests: Sequence[Descriptor],
    out_layout: Path,
    ref: str,
    annotations: Mapping[str, str] | None = None,
) -> Descriptor:
    """Writes an image index of `manifests` (which may be absent: a sparse index) and names it `ref`."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": INDEX_TYPE,
        "manifests": [manifest.document() for manifest in manifests],
    }
    if annotations:
        document["annotations"] = dict(annotations)
    described = _put(out_layout, INDEX_TYPE, document)
    if ref:
        name_image(out_layout, described, ref)
    return described


def name_image(layout: Path, described: Descriptor, ref: str) -> None:
    """Makes `ref` mean `described` in the layout's index.json; an older meaning of `ref` goes."""
    listing = layout / "index.json"
    known = json.loads(listing.read_bytes())["manifests"] if listing.exists() else []
    kept = [entry for entry in known if entry.get("annotations", {}).get("org.opencontainers.image.ref.name") != ref]
    named = Descriptor(
        described.media_type,
        described.digest,
        described.size_bytes,
        annotations={"io.containerd.image.name": ref, "org.opencontainers.image.ref.name": ref},
    )
    document = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [*kept, named.document()]}
    layout.mkdir(parents=True, exist_ok=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    growing = layout / f".index.json.{os.getpid()}"
    growing.write_bytes(_encoded(document))
    growing.replace(listing)


def pack_layout(layout: Path, out: Path) -> None:
    """Packs a layout into the tar that `ctr images import` and `skopeo` (`oci-archive:`) read."""
    with _LayerWriter(out, "") as writer:
        for path in _sorted_tree(layout, set()):
            writer.add(path, path.relative_to(layout).as_posix())


class _Blob:
    """A file that is hashed on its way: as it is stored, and as the tar inside it."""

    def __init__(self, out: Path, compression: Compression) -> None:
        self._out = out
        self._compression = compression
        self._stored = hashlib.sha256()
        self._plain = hashlib.sha256()
        self._size_bytes = 0

    def __enter__(self) -> "_Blob":
        self._file = self._out.open("wb")
        # Level 1: these images cross a loopback, and CPU is what the machine has least of.
        self._gzip = (
            gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=_Tee(self), mtime=0)
            if self._compression == "gzip"
            else None
        )
        return self

    def write(self, data: bytes) -> int:
        self._plain.update(data)
        if self._gzip is None:
            self.store(data)
        else:
            self._gzip.write(data)
        return len(data)

    def store(self, data: bytes) -> None:
        self._stored.update(data)
        self._size_bytes += len(data)
        self._file.write(data)

    def __exit__(self, *_failure: object) -> None:
        if self._gzip is not None:
            self._gzip.close()
        self._file.close()

    def info(self) -> LayerInfo:
        suffix = f"+{self._compression}" if self._compression else ""
        return LayerInfo(
            self._out,
            f"sha256:{self._stored.hexdigest()}",
            f"sha256:{self._plain.hexdigest()}",
            self._size_bytes,
            LAYER_TYPE + suffix,
        )


class _Tee:
    """What a compressor writes into: the stored side of a blob."""

    def __init__(self, blob: _Blob) -> None:
        self._blob = blob

    def write(self, data: bytes) -> int:
        self._blob.store(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back here."""


class _LayerWriter:
    """A tar without times and names of owners, written into a blob."""

    def __init__(self, out: Path, compression: Compression) -> None:
        self._blob = _Blob(out, compression)

    def __enter__(self) -> "_LayerWriter":
        self._blob.__enter__()
        self._tar = tarfile.open(
            fileobj=cast(IO[bytes], self._blob), mode="w|", format=tarfile.PAX_FORMAT, bufsize=_CHUNK_BYTES
        )
        return self

    def add(self, path: Path, name: str) -> None:
        self._tar.add(path, name, recursive=False, filter=_without_time)

    def add_parents(self, name: str, made: set[str]) -> None:
        for parent in reversed(Path(name).parents[:-1]):
            if parent.as_posix() not in made:
                made.add(parent.as_posix())
                folder = tarfile.TarInfo(parent.as_posix())
                folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                self._tar.addfile(folder)

    def add_bytes(self, name: str, data: bytes, mode: int) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), mode
        self._tar.addfile(member, io.BytesIO(data))

    def __exit__(self, *failure: object) -> None:
        if failure[0] is None:
            self._tar.close()
        self._blob.__exit__(*failure)

    def info(self) -> LayerInfo:
        return self._blob.info()


def _without_time(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = 0
    member.uname = member.gname = ""
    return member


def _sorted_tree(root: Path, left_out: set[str]) -> Iterable[Path]:
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if (here / name).relative_to(root).as_posix() not in left_out)
        if here != root:
            yield here
        linked = [name for name in folders if (here / name).is_symlink()]
        for name in sorted([*files, *linked]):
            if (here / name).relative_to(root).as_posix() not in left_out:
                yield here / name
        folders[:] = [name for name in folders if name not in linked]


def _place(layer: LayerInfo, layout: Path) -> None:
    place = _blob_path(layout, layer.digest)
    if place.exists():
        return
    try:
        place.hardlink_to(layer.blob)
    except OSError:
        # Another file system, or one without links.
        shutil.copyfile(layer.blob, place)


def _put(layout: Path, media_type: str, document: Mapping[str, Any], platform: str = "") -> Descriptor:
    content = _encoded(document)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    _blob_path(layout, digest).write_bytes(content)
    return Descriptor(media_type, digest, len(content), platform)


def _blob_path(layout: Path, digest: str) -> Path:
    algorithm, value = digest.split(":")
    place = layout / "blobs" / algorithm / value
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _encoded(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

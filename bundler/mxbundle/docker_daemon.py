"""Images that exist only in a local Docker daemon, as `docker save` gives them: config and layers, uncompressed.

What identifies such an image is its config, whose diff ids are the digests of its layers; both are hashed here, so
that what the daemon says is not taken on trust. Nothing is written to disk: an archive is read once to know what is in
it and once to have it. Source: Docker image specification v1.2, "Combined Image JSON + Filesystem Changeset Format".
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final

from mxbundle.lock.model import LockedImage, LockedPlatform
from mxbundle.lock.resolve import CheckConfig, Wanted, fits_platform, needed_by, platform_name
from mxbundle.ocidocument import OCI_CONFIG, OCI_LAYER, described, oci_manifest
from sitebundle.digest import Digest
from sitebundle.errors import ImageUnresolvable, LockStale, RegistryUnreachable
from sitebundle.oci.descriptor import Descriptor

NAME: Final = "the local Docker daemon"
BUFFER_BYTES: Final = 1 << 20
DOCUMENT_BYTES: Final = 1 << 20
"""No config and no list is longer; what is longer is a layer."""
_GZIP: Final = b"\x1f\x8b"

Save = Callable[[str], Iterator[bytes]]
"""Reference -> the pieces of what `docker save` writes."""


class Unusable(Exception):
    """The daemon does not have the image, or what it gives is not one; the text says why."""


@dataclass(frozen=True)
class SavedImage:
    """What is in a saved image: its config, its layers in order, and which member of the archive each layer is."""

    config: bytes
    layers: tuple[Descriptor, ...]
    members: Mapping[Digest, str]

    @property
    def document(self) -> dict[str, Any]:
        """The config as it is read."""
        read: dict[str, Any] = json.loads(self.config)
        return read

    def manifest(self) -> tuple[Descriptor, bytes]:
        """The manifest that the image gets here: a daemon keeps none."""
        return oci_manifest(described(OCI_CONFIG, self.config)[0], self.layers)


def daemon_save(reference: str) -> Iterator[bytes]:
    """The pieces of `docker save REFERENCE`, from the daemon of `$DOCKER_HOST` or the usual socket.

    Raises RegistryUnreachable when there is none, Unusable when it does not have the image.
    """
    import docker
    from docker.errors import DockerException, NotFound
    from requests.exceptions import RequestException

    try:
        client = docker.from_env()
    except (DockerException, RequestException) as fault:
        raise RegistryUnreachable(registry=NAME, detail=" ".join(str(fault).split())) from fault
    try:
        yield from client.api.get_image(reference, chunk_size=BUFFER_BYTES)
    except NotFound as fault:
        raise Unusable(f"{NAME} has no such image") from fault
    except (DockerException, RequestException) as fault:
        raise RegistryUnreachable(registry=NAME, detail=" ".join(str(fault).split())) from fault
    finally:
        client.close()


def examine(reference: str, save: Save = daemon_save) -> SavedImage:
    """Read the image through once. Raises Unusable, RegistryUnreachable."""
    documents: dict[str, bytes] = {}
    contents: dict[str, tuple[Digest, int]] = {}
    links: dict[str, str] = {}
    with _archive(save(reference)) as archive:
        for member in archive:
            if member.issym() or member.islnk():
                inside = posixpath.dirname(member.name) if member.issym() else ""
                links[member.name] = posixpath.normpath(posixpath.join(inside, member.linkname))
            elif (file := archive.extractfile(member)) is not None:
                first = file.read(min(member.size, DOCUMENT_BYTES))
                if member.size <= DOCUMENT_BYTES and first.lstrip()[:1] in (b"{", b"["):
                    # Which documents count is said by the list, and that is the last of them.
                    documents[member.name] = first
                contents[member.name] = _measured(_uncompressed(itertools.chain((first,), _pieces(file))))
    try:
        (entry,) = json.loads(documents["manifest.json"])
        config = documents[posixpath.normpath(entry["Config"])]
        names = [posixpath.normpath(name) for name in entry["Layers"]]
        names = [links.get(name, name) for name in names]
        layers = tuple(Descriptor(OCI_LAYER, *contents[name]) for name in names)
        promised = list(json.loads(config)["rootfs"]["diff_ids"])
    except (KeyError, TypeError, ValueError) as fault:
        raise Unusable(f"{NAME} saves it in a form that is not known here ({fault!r})") from fault
    if promised != [layer.digest for layer in layers]:
        raise Unusable(f"{NAME} saves layers that its config does not name")
    return SavedImage(config, layers, {layer.digest: name for layer, name in zip(layers, names, strict=True)})


def lock_from_daemon(
    image: Wanted, platforms: Sequence[str], check: CheckConfig, save: Save = daemon_save
) -> LockedImage:
    """Pin an image of the daemon. Raises ImageUnresolvable, ContractBroken, RegistryUnreachable."""
    reference = image.reference
    try:
        saved = examine(reference.tagged, save)
        platform = platform_name(saved.document)
        if lacking := [wanted for wanted in platforms if not fits_platform(platform, wanted)]:
            raise Unusable(f"it is for {platform} alone, not for {', '.join(lacking)}")
    except Unusable as fault:
        raise ImageUnresolvable(reference=reference, detail=str(fault), needed_by=image.needed_by) from fault
    check(reference, saved.document)
    manifest, _ = saved.manifest()
    return LockedImage(
        reference=reference.tagged,
        digest=manifest.digest,
        media_type=manifest.media_type,
        size=manifest.size,
        source="docker-daemon",
        needed_by=needed_by(image),
        platforms=(
            LockedPlatform(
                platform=platforms[0] if len(platforms) == 1 else platform,
                digest=manifest.digest,
                media_type=manifest.media_type,
                size=manifest.size,
                config=described(OCI_CONFIG, saved.config)[0],
                layers=saved.layers,
            ),
        ),
    )


class DaemonImages:
    """The images of a lock that a build takes from the daemon. `fetched_bytes` stays 0: nothing crosses a network."""

    def __init__(self, images: Sequence[LockedImage], save: Save = daemon_save) -> None:
        self.fetched_bytes = 0
        self._images = tuple(image for image in images if image.source == "docker-daemon")
        self._save = save
        self._examined: dict[str, SavedImage] = {}

    def documents(self, image: LockedImage) -> dict[Digest, bytes]:
        """Manifest and config. Raises LockStale when it is not the locked image, RegistryUnreachable."""
        saved = self._known(image)
        described_documents = (saved.manifest(), described(OCI_CONFIG, saved.config))
        return {descriptor.digest: content for descriptor, content in described_documents}

    def contents(self, wanted: Collection[Digest]) -> Iterator[tuple[Digest, Iterator[bytes]]]:
        """Each of `wanted` that one of the images has, uncompressed; one pass over each image that has any.

        Raises what `documents` raises.
        """
        open_digests = set(wanted)
        for image in self._images:
            if not any(layer.digest in open_digests for layer in image.platforms[0].layers):
                continue
            members = self._known(image).members
            digests = {name: digest for digest, name in members.items() if digest in open_digests}
            with _archive(self._save(image.reference)) as archive:
                for member in archive:
                    digest = digests.pop(member.name, None)
                    file = archive.extractfile(member) if digest is not None else None
                    if digest is not None and file is not None:
                        open_digests.discard(digest)
                        yield digest, _uncompressed(_pieces(file))

    def _known(self, image: LockedImage) -> SavedImage:
        if image.reference not in self._examined:
            try:
                saved = examine(image.reference, self._save)
            except Unusable as fault:
                raise LockStale(what=image.reference, detail=str(fault)) from fault
            if saved.manifest()[0].digest != image.digest:
                seen, locked = described(OCI_CONFIG, saved.config)[0].digest, image.platforms[0].config.digest
                raise LockStale(what=image.reference, detail=f"{NAME} now has {seen}, locked is {locked}")
            self._examined[image.reference] = saved
        return self._examined[image.reference]


class _Stream(io.RawIOBase):
    """Pieces as a file that can only be read on."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


@contextmanager
def _archive(pieces: Iterator[bytes]) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(fileobj=io.BufferedReader(_Stream(pieces), BUFFER_BYTES), mode="r|") as archive:
            yield archive
    except tarfile.TarError as fault:
        raise Unusable(f"{NAME} saves something that is no archive ({fault})") from fault


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while data := file.read(BUFFER_BYTES):
        yield data


def _uncompressed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces themselves, or what is in them: newer daemons keep layers as they were pulled, gzip."""
    first = next(pieces, b"")
    if not first.startswith(_GZIP):
        yield first
        yield from pieces
        return
    opened = zlib.decompressobj(wbits=31)
    try:
        yield opened.decompress(first)
        for piece in pieces:
            yield opened.decompress(piece)
        yield opened.flush()
    except zlib.error as fault:
        raise Unusable(f"{NAME} saves a layer that does not decompress ({fault})") from fault


def _measured(pieces: Iterator[bytes]) -> tuple[Digest, int]:
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    return Digest(f"sha256:{digest.hexdigest()}"), size

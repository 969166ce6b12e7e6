"""A derived image made again from the lock alone, for a bundle: documents compared, the layer byte for byte.

Whoever writes the layer compares its digest; what is compared here is everything above it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from mxbundle.derive.document import derived_index, derived_manifest
from mxbundle.derive.layer import layer_chunks
from mxbundle.derive.pin import config_on, manifest_of, python_of, wheels_of
from mxbundle.derive.wheels import opened
from mxbundle.lock.model import Lock, LockedDerivation, LockedImage
from sitebundle.digest import Digest
from sitebundle.errors import LockStale
from sitebundle.oci.upstream import Upstream


def base_of(locked: LockedDerivation, lock: Lock) -> LockedImage:
    """The base as it is locked. Raises LockStale when it is not the one that was derived from."""
    base = next((image for image in lock.images if image.reference == locked.base), None)
    if base is None:
        raise LockStale(what=locked.reference, detail=f"its base {locked.base} is not locked")
    if base.digest != locked.base_digest:
        detail = f"its base {locked.base} is locked as {base.digest}, it was derived from {locked.base_digest}"
        raise LockStale(what=locked.reference, detail=detail)
    return base


def documents(lock: Lock, image: LockedImage, platforms: Collection[str], upstream: Upstream) -> dict[Digest, bytes]:
    """Index, and manifests and configs of `platforms`, of a derived image. Raises LockStale when one is not the locked.

    Also what fetching the base's configs raises.
    """
    locked = lock.derivation(image.reference)
    if locked is None:
        raise LockStale(what=image.reference, detail="it is derived, and its recipe is not locked")
    base = base_of(locked, lock)
    manifests = {platform.platform: manifest_of(platform) for platform in image.platforms}
    index, content = derived_index(manifests, locked.base, locked.base_digest)
    _compare(image, "index", index.digest, image.digest)
    made = {index.digest: content}
    layers = {layer.platform: layer for layer in locked.layers}
    for platform in image.platforms:
        if platform.platform not in platforms:
            continue
        if platform.platform not in layers or platform.layers[-1].digest != layers[platform.platform].digest:
            raise LockStale(
                what=image.reference, detail=f"its last layer for {platform.platform} is not the derived one"
            )
        manifest, content = derived_manifest(platform.config, platform.layers, locked.base, locked.base_digest)
        _compare(image, f"manifest for {platform.platform}", manifest.digest, platform.digest)
        made[manifest.digest] = content
        try:
            config, content = config_on(locked, base, layers[platform.platform], upstream)
        except (ValueError, StopIteration) as fault:
            raise LockStale(what=image.reference, detail=f"its base {locked.base} is no base: {fault}") from fault
        _compare(image, f"config for {platform.platform}", config.digest, platform.config.digest)
        made[config.digest] = content
    return made


class DerivedLayers:
    """Where a build has the layers of derived images from: wheels, in unnamed files in `folder` while they are read."""

    def __init__(self, derivations: Iterable[LockedDerivation], upstream: Upstream, folder: Path) -> None:
        self.fetched_bytes = 0
        self._upstream = upstream
        self._folder = folder
        self._derivations = tuple(derivations)

    def contents(self, wanted: Collection[Digest]) -> Iterator[tuple[Digest, Iterator[bytes]]]:
        """Each of `wanted` that is made here, with its bytes. Raises what opening wheels raises."""
        done: set[Digest] = set()
        for locked in self._derivations:
            for layer in locked.layers:
                if layer.digest in wanted and layer.digest not in done:
                    done.add(layer.digest)
                    with opened(wheels_of(locked, layer.platform), self._upstream, self._folder) as wheels:
                        self.fetched_bytes += sum(wheel.size for wheel in wheels)
                        yield layer.digest, layer_chunks(wheels, python_of(locked))


def _compare(image: LockedImage, what: str, seen: Digest, expected: Digest) -> None:
    if seen != expected:
        detail = f"its {what}, made again, is {seen}, locked is {expected}"
        raise LockStale(what=image.reference, detail=detail)

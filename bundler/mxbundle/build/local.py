"""What a build makes or takes on its own host, because no registry has it: derived images, images of a Docker daemon.

Nothing is done before it is asked for; a build that needs none of it asks neither for wheels nor for a daemon.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from mxbundle.build.fill import LocalSource
from mxbundle.derive.again import DerivedLayers
from mxbundle.derive.again import documents as derived_documents
from mxbundle.docker_daemon import DaemonImages
from mxbundle.lock.model import Lock, LockedImage
from sitebundle.digest import Digest
from sitebundle.oci.upstream import Upstream


class LocalImages:
    """The images of `lock` that no registry has. What is downloaded for them lies in unnamed files in `folder`."""

    def __init__(self, lock: Lock, upstream: Upstream, folder: Path) -> None:
        self._lock = lock
        self._upstream = upstream
        self._daemon = DaemonImages(lock.images)
        self._derived = DerivedLayers(lock.derived, upstream, folder)

    @property
    def sources(self) -> tuple[LocalSource, ...]:
        """Where the layers come from."""
        return self._derived, self._daemon

    def documents(self, images: Sequence[LockedImage], platforms: Collection[str]) -> dict[Digest, bytes]:
        """Indexes, manifests and configs of those of `images`. Raises LockStale when they are not what is locked.

        Also what fetching a base's config raises, and RegistryUnreachable for a daemon that does not answer.
        """
        made: dict[Digest, bytes] = {}
        for image in images:
            if self._lock.derivation(image.reference) is not None:
                made |= derived_documents(self._lock, image, platforms, self._upstream)
            elif image.source == "docker-daemon":
                made |= self._daemon.documents(image)
        return made

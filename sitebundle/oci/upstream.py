"""The connected side's upstreams: the registry that answers for a host, and published files, through the mirrors.

One `Registry` per upstream host, with the login that docker keeps for it. Not used at the site.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from sitebundle.errors import RegistryRefused, RegistryUnreachable
from sitebundle.events import Sink, silent
from sitebundle.oci.client import Registry
from sitebundle.oci.credentials import stored_credentials
from sitebundle.oci.endpoint import Mirrors
from sitebundle.oci.retry import Passing, RetryPolicy
from sitebundle.oci.transport import Transport

BUFFER_BYTES = 1 << 20


class Upstream:
    """All upstream registries and file servers, as the mirrors place them; thread-safe."""

    def __init__(
        self, mirrors: Mirrors | None = None, sink: Sink = silent, *, policy: RetryPolicy | None = None
    ) -> None:
        self.mirrors = mirrors or Mirrors()
        self._sink = sink
        self._policy = policy
        self._registries: dict[str, Registry] = {}
        self._files = Transport(None, policy, sink)
        self._lock = threading.Lock()

    def registry(self, host: str) -> Registry:
        """The registry that answers for images of `host`. Raises ToolMissing for a broken credential helper."""
        with self._lock:
            if host not in self._registries:
                endpoint = self.mirrors.endpoint(host)
                credentials = stored_credentials(endpoint.host)
                self._registries[host] = Registry(endpoint, credentials, self._sink, policy=self._policy)
            return self._registries[host]

    def download(self, url: str, target: BinaryIO) -> None:
        """Write what `url` (https, http, file) serves into `target`; not verified here.

        Raises RegistryUnreachable and RegistryRefused. After a fault it starts anew.
        """
        place = self.mirrors.file_url(url)
        if urlsplit(place).scheme == "file":
            try:
                with Path(unquote(urlsplit(place).path)).open("rb") as file:
                    while data := file.read(BUFFER_BYTES):
                        target.write(data)
            except OSError as fault:
                raise RegistryUnreachable(registry=place, detail=str(fault)) from fault
            return
        action = f"the file {url}"
        patience = self._files.patience(place, action)
        while True:
            try:
                with self._files.once("GET", place, {}) as response:
                    if response.status != 200:
                        raise RegistryRefused(
                            registry=urlsplit(place).netloc, action=action, status=response.status, detail=""
                        )
                    while data := response.read_some(BUFFER_BYTES):
                        target.write(data)
                return
            except Passing as fault:
                target.seek(0)
                target.truncate()
                patience.wait(fault)

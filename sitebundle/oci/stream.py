"""A blob as it arrives from a registry: from any offset, resumed where a connection broke. Hashing is the reader's."""

from __future__ import annotations

import re
from types import TracebackType

from sitebundle.digest import Digest
from sitebundle.oci.exchange import Exchange
from sitebundle.oci.retry import Passing
from sitebundle.oci.transport import Response

BUFFER_BYTES = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


class BlobStream:
    """A blob's bytes as they arrive; a broken connection is resumed where it broke, by Range.

    `offset` is where the first byte read really stands, `size` the size of the whole blob in bytes when the
    registry says it. Use as a context manager. Not thread-safe.
    """

    def __init__(self, exchange: Exchange, repository: str, digest: Digest, offset: int) -> None:
        self._exchange = exchange
        self._repository = repository
        self._url = exchange.url(repository, f"blobs/{digest}")
        self._action = f"blob {digest} of {repository}"
        self._patience = exchange.patience(self._action)
        self._response: Response | None = None
        self.size: int | None = None
        while True:
            try:
                self.offset = self._start(offset)
                break
            except Passing as fault:
                self._patience.wait(fault)
        self._position = self.offset

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill the front of `buffer`; how many bytes, 0 at the end. Raises RegistryUnreachable."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, b"" at the end."""
        while True:
            try:
                if self._response is None:
                    self._resume()
                data = self._response.read_some(size) if self._response is not None else b""
            except Passing as fault:
                self.close()
                self._patience.wait(fault)
                continue
            self._position += len(data)
            self._patience.progressed(len(data))
            return data

    def close(self) -> None:
        """Let go of the connection."""
        if self._response is not None:
            self._response.close()
            self._response = None

    def __enter__(self) -> BlobStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _resume(self) -> None:
        if self.size is not None and self._position >= self.size:
            return
        start = self._start(self._position)
        while start < self._position:
            # The registry ignored the range: read again what we have, and drop it.
            assert self._response is not None
            dropped = self._response.read_some(min(BUFFER_BYTES, self._position - start))
            if not dropped:
                raise Passing("the blob became shorter")
            start += len(dropped)

    def _start(self, offset: int) -> int:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        scopes = self._exchange.pull(self._repository)
        response = self._exchange.call("GET", self._url, scopes, headers, action=self._action, once=True)
        try:
            start, size = _placed(response, offset)
            if start is None or (self.size is not None and size is not None and size != self.size):
                raise self._exchange.refused(self._action, response)
        except BaseException:
            response.close()
            raise
        self.size = size if size is not None else self.size
        if response.status == 416:
            response.close()
        else:
            self._response = response
        return start


def _placed(response: Response, asked: int) -> tuple[int | None, int | None]:
    """Where a GET's body starts and how large the whole is; a start of None: not an answer that we can use."""
    if response.status == 200:
        length = response.headers.get("content-length", "")
        return 0, int(length) if length.isdigit() else None
    match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    if match is None:
        return None, None
    size = None if match[3] == "*" else int(match[3])
    if response.status == 206 and match[1] is not None and int(match[1]) == asked:
        return asked, size
    if response.status == 416 and size == asked:
        return asked, size
    return None, None

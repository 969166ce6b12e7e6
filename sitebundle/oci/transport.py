"""HTTP as registries need it: pooled connections, a permit per request, faults told apart by type, redirects.

Not here: what a registry is (`client`), who we are (`auth`). urllib3 is imported at the first request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urljoin, urlsplit

from sitebundle.errors import RegistryUnreachable
from sitebundle.events import Sink, silent
from sitebundle.oci.limits import CEILING, HostLimit, limit_of
from sitebundle.oci.retry import (
    PASSING_STATUSES,
    PUSH_BACK_STATUSES,
    Passing,
    Patience,
    RetryPolicy,
    retry_after_seconds,
)

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager, Timeout

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
"""Between two bytes, not for the whole answer."""
SEND_SECONDS = 60.0
"""For one buffer of a body: a registry whose disk is busy stops reading for a while."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MOST_REDIRECTS = 5
WORTH_DRAINING_BYTES = 64 << 10
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
USER_AGENT = "mxbundle"

Body = Callable[[], Iterable[bytes | memoryview]] | bytes | None
"""A body that may have to be sent again is a function that starts it anew."""


class Response:
    """An answer whose body is still to be read; holds a permit of its host until it is closed.

    Reading raises Passing when the body ends early or stalls.
    """

    def __init__(self, raw: BaseHTTPResponse, limit: HostLimit, url: str) -> None:
        self._raw = raw
        self._limit = limit
        self._open = True
        self.url = url
        self.status = raw.status
        self.headers: Mapping[str, str] = raw.headers

    def read(self, most_bytes: int) -> bytes:
        """The whole body, at most `most_bytes` of it. Raises Passing, ValueError when it is longer."""
        content = bytearray()
        while chunk := self.read_some(min(1 << 20, most_bytes + 1 - len(content))):
            content += chunk
            if len(content) > most_bytes:
                raise ValueError(f"{self.url} sent more than {most_bytes} bytes")
        return bytes(content)

    def read_some(self, size: int) -> bytes:
        """Up to `size` bytes, b"" at the end."""
        try:
            return self._raw.read(size)
        except Exception as fault:
            passing = _passing(fault)
            if passing is None:
                raise
            if passing.timeout:
                self._limit.pushed_back()
            raise passing from fault

    def close(self) -> None:
        """Give the connection back when little of the body is left, else drop it; give the permit back."""
        if not self._open:
            return
        self._open = False
        try:
            left = self._raw.length_remaining
            if left is not None and left <= WORTH_DRAINING_BYTES:
                self._raw.drain_conn()  # Even of nothing: until then http.client holds the connection busy.
                self._raw.release_conn()
            else:
                self._raw.close()
        finally:
            self._limit.release()

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Transport:
    """One pool of connections with one set of trusted CAs; thread-safe."""

    def __init__(self, ca: Path | None = None, policy: RetryPolicy | None = None, sink: Sink = silent) -> None:
        self._ca = ca
        self.policy = policy or RetryPolicy()
        self.sink = sink
        self._pools: dict[str | None, PoolManager] = {}
        self._lock = threading.Lock()

    def exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body = None,
        *,
        action: str,
        policy: RetryPolicy | None = None,
    ) -> Response:
        """Send until an answer comes that does not pass by itself; every other status is the caller's to judge.

        Raises RegistryUnreachable or RegistryRefused (429) when patience ends. Redirects are followed for
        requests without a body; credentials are not taken to another host.
        """
        patience = self.patience(url, action, policy)
        while True:
            try:
                return self.once(method, url, headers, body)
            except Passing as fault:
                patience.wait(fault)

    def patience(self, url: str, action: str, policy: RetryPolicy | None = None) -> Patience:
        """A fresh patience for one action at the host of `url`."""
        return Patience(policy or self.policy, urlsplit(url).netloc, action, self.sink)

    def once(
        self, method: str, url: str, headers: Mapping[str, str], body: Body = None, answer_seconds: float = 0.0
    ) -> Response:
        """Send once; the answer may take `answer_seconds` longer than READ_SECONDS.

        Raises Passing, or RegistryUnreachable for what cannot pass (a certificate, a redirect loop).
        """
        start = url
        for _ in range(MOST_REDIRECTS + 1):
            response = self._send(method, url, headers, body, answer_seconds)
            if response.status not in REDIRECTS or body is not None or "location" not in response.headers:
                return response
            target = urljoin(url, response.headers["location"])
            response.close()
            if urlsplit(target)[:2] != urlsplit(url)[:2]:
                headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            url = target
        raise RegistryUnreachable(registry=urlsplit(start).netloc, detail=f"more than {MOST_REDIRECTS} redirects")

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: Body, answer_seconds: float) -> Response:
        limit = limit_of(urlsplit(url).netloc)
        pool = self._pool(url)
        limit.acquire()
        try:
            raw = pool.request(
                method,
                url,
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers},
                body=cast(
                    Any, body() if callable(body) else body
                ),  # urllib3 sends memoryviews, its types do not say so
                preload_content=False,
                decode_content=False,
                redirect=False,
                retries=False,
                timeout=_timeout(callable(body), answer_seconds),
            )
        except Exception as fault:
            limit.release()
            passing = _passing(fault)
            if passing is None:
                if isinstance(fault, _tls_errors()):
                    raise RegistryUnreachable(registry=urlsplit(url).netloc, detail=f"TLS: {fault}") from fault
                raise
            if passing.timeout:
                limit.pushed_back()
            raise passing from fault
        except BaseException:
            limit.release()
            raise
        response = Response(raw, limit, url)
        if response.status in PASSING_STATUSES:
            with response:
                pause = retry_after_seconds(response.headers.get("retry-after"))
                if response.status in PUSH_BACK_STATUSES:
                    limit.pushed_back(min(pause or 0.0, self.policy.retry_after_cap_seconds))
                raise Passing(
                    f"{response.status} {raw.reason or ''}".strip(), status=response.status, retry_after_seconds=pause
                )
        limit.succeeded()
        return response

    def _pool(self, url: str) -> PoolManager:
        proxy = _proxy_for(url)
        with self._lock:
            if proxy not in self._pools:
                self._pools[proxy] = self._new_pool(proxy)
            return self._pools[proxy]

    def _new_pool(self, proxy: str | None) -> PoolManager:
        import ssl

        import urllib3

        context = ssl.create_default_context()
        if self._ca is not None:
            try:
                context.load_verify_locations(cafile=str(self._ca))
            except (OSError, ssl.SSLError) as fault:
                raise RegistryUnreachable(registry="the registry", detail=f"CA file {self._ca}: {fault}") from fault
        if proxy is None:
            return urllib3.PoolManager(maxsize=CEILING, ssl_context=context)
        return urllib3.ProxyManager(proxy, maxsize=CEILING, ssl_context=context)


def _timeout(streams: bool, answer_seconds: float) -> Timeout:
    """What urllib3 calls connect is also the time that one buffer of a body may take to be sent."""
    import urllib3

    return urllib3.Timeout(connect=SEND_SECONDS if streams else CONNECT_SECONDS, read=READ_SECONDS + answer_seconds)


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for `url`, as curl reads it; never one for the machine itself."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    if parts.hostname is None or parts.hostname in LOCAL_HOSTS or proxy_bypass(parts.netloc):
        return None
    return getproxies().get(parts.scheme)


class _Passing(Passing):
    def __init__(self, why: str, *, timeout: bool = False) -> None:
        super().__init__(why)
        self.timeout = timeout


def _tls_errors() -> tuple[type[Exception], ...]:
    import ssl

    from urllib3 import exceptions

    return (exceptions.SSLError, ssl.SSLError, exceptions.LocationValueError)


def _passing(fault: Exception) -> _Passing | None:
    """The one table of what the network does to us; None: it will not pass, or it is not the network's."""
    from urllib3 import exceptions

    if isinstance(fault, _tls_errors()):
        return None
    if isinstance(fault, exceptions.NameResolutionError):
        return _Passing("its name cannot be resolved")
    if isinstance(fault, exceptions.NewConnectionError):  # A ConnectTimeoutError to urllib3: first.
        return _Passing(f"no connection: {_reason(fault)}")
    if isinstance(fault, exceptions.ConnectTimeoutError):
        return _Passing("no connection in time", timeout=True)
    if isinstance(fault, exceptions.ReadTimeoutError | TimeoutError):
        return _Passing("nothing came in time", timeout=True)
    if isinstance(fault, exceptions.ProtocolError) and any(isinstance(cause, TimeoutError) for cause in fault.args):
        return _Passing("it stopped reading", timeout=True)
    if isinstance(fault, exceptions.ProxyError):
        return _Passing(f"the proxy does not answer: {_reason(fault)}")
    if isinstance(fault, exceptions.ProtocolError | ConnectionError):
        return _Passing(f"the connection broke: {_reason(fault)}")
    return None


def _reason(fault: BaseException) -> str:
    cause: BaseException | None = fault
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        cause = cause.__cause__ or cause.__context__
    return str(fault.args[0] if fault.args else fault).removeprefix("Connection broken: ")

"""Authorized exchanges with one registry: its addresses, its permissions, small answers whole, refusals in words.

Not here: what is asked of it (`client`, `stream`, `upload`), how HTTP is spoken (`transport`).
"""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from sitebundle.errors import RegistryRefused
from sitebundle.oci.auth import Authorizer, Scopes, pull_scope, push_scope
from sitebundle.oci.credentials import Credentials
from sitebundle.oci.endpoint import Endpoint
from sitebundle.oci.retry import Passing, Patience, RetryPolicy
from sitebundle.oci.transport import Body, Response, Transport


class Exchange:
    """One registry as it is spoken to; thread-safe, one pool of connections."""

    def __init__(self, endpoint: Endpoint, transport: Transport, credentials: Credentials | None) -> None:
        self.endpoint = endpoint
        self.transport = transport
        self._auth = Authorizer(transport, endpoint.host, credentials)

    def path(self, repository: str) -> str:
        """The repository as this registry knows it: a mirror may put something before its name."""
        return f"{self.endpoint.path_prefix}/{repository}" if self.endpoint.path_prefix else repository

    def url(self, repository: str, rest: str) -> str:
        """An address under a repository: `manifests/…`, `blobs/…`."""
        return f"{self.endpoint.url}/v2/{self.path(repository)}/{rest}"

    def pull(self, repository: str) -> Scopes:
        """What reading a repository needs."""
        return (pull_scope(self.path(repository)),)

    def push(self, repository: str) -> Scopes:
        """What writing to a repository needs."""
        return (push_scope(self.path(repository)),)

    def patience(self, action: str) -> Patience:
        """A fresh patience for one action."""
        return self.transport.patience(self.endpoint.url, action)

    def call(
        self,
        method: str,
        url: str,
        scopes: Scopes,
        headers: dict[str, str] | None = None,
        body: Body = None,
        *,
        action: str,
        policy: RetryPolicy | None = None,
        once: bool = False,
        answer_seconds: float = 0.0,
    ) -> Response:
        """One authorized exchange; `once`: a fault that may pass is raised as Passing, not waited out.

        `answer_seconds`: how much longer than usual the answer may take.
        """
        for last in (False, True):
            # An upload's Location may lead to another host, which our credentials are not meant for.
            ours = urlsplit(url).netloc == self.endpoint.host
            sent = self._auth.header(scopes) if ours else {}
            everything = {**(headers or {}), **sent}
            if once:
                response = self.transport.once(method, url, everything, body, answer_seconds)
            else:
                response = self.transport.exchange(method, url, everything, body, action=action, policy=policy)
            if response.status != 401 or last or not ours:
                return response
            with response:
                if not self._auth.challenged(response.headers.get("www-authenticate", ""), sent, scopes):
                    raise self.refused(action, response)
        raise AssertionError("unreachable")

    def small(
        self, url: str, repository: str, headers: dict[str, str], *, action: str, most_bytes: int
    ) -> tuple[str, str | None, bytes]:
        """Content type, announced digest and body of a small answer. Raises RegistryRefused when it is too long."""
        patience = self.patience(action)
        while True:
            try:
                with self.call("GET", url, self.pull(repository), headers, action=action, once=True) as response:
                    if response.status != 200:
                        raise self.refused(action, response)
                    kind = response.headers.get("content-type", "").partition(";")[0].strip()
                    try:
                        body = response.read(most_bytes)
                    except ValueError as fault:
                        raise RegistryRefused(
                            registry=self.endpoint.host, action=action, status=response.status, detail=str(fault)
                        ) from fault
                    return kind, response.headers.get("docker-content-digest"), body
            except Passing as fault:
                patience.wait(fault)

    def refused(self, action: str, response: Response) -> RegistryRefused:
        """The error of an answer that means no."""
        return RegistryRefused(
            registry=self.endpoint.host, action=action, status=response.status, detail=_detail(response)
        )


def _detail(response: Response) -> str:
    """What the registry says about a refusal, at most 300 characters, on one line."""
    try:
        body = response.read(64 << 10)
    except (Passing, ValueError):
        return ""
    try:
        errors = json.loads(body)["errors"]
        text = "; ".join(f"{error.get('code', '')}: {error.get('message', '')}" for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        text = body.decode("utf-8", "replace")
    return " ".join(text.split())[:300]

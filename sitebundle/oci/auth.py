"""How a registry is told who we are: Bearer tokens (distribution's token specification), Basic, identity tokens.

Tokens are kept per scope until shortly before they end. Where credentials come from is `credentials`' business.
"""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlencode

from sitebundle.errors import RegistryRefused
from sitebundle.oci.credentials import Credentials
from sitebundle.oci.retry import Passing
from sitebundle.oci.transport import Transport

TOKEN_LIFE_SECONDS = 60.0
"""What the token specification says when `expires_in` is missing."""
MARGIN_SECONDS = 10.0
MOST_TOKEN_BYTES = 1 << 20

_PARAMETER = re.compile(r'([a-zA-Z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')

Scopes = tuple[str, ...]


def pull_scope(repository: str) -> str:
    """The scope of reading `repository`."""
    return f"repository:{repository}:pull"


def push_scope(repository: str) -> str:
    """The scope of writing to `repository`."""
    return f"repository:{repository}:pull,push"


@dataclass(frozen=True)
class Challenge:
    """One WWW-Authenticate header, read."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""

    @classmethod
    def parse(cls, header: str) -> Challenge | None:
        """Read the first challenge that we can answer; None when there is none."""
        match = re.search(r"\b(bearer|basic)\b", header, re.IGNORECASE)
        if match is None:
            return None
        fields = {
            name.lower(): (quoted.replace('\\"', '"') if quoted else bare)
            for name, quoted, bare in _PARAMETER.findall(header[match.end() :])
        }
        return cls(match[1].lower(), *(fields.get(name, "") for name in ("realm", "service", "scope")))


@dataclass(frozen=True)
class _Token:
    value: str
    ends: float


class Authorizer:
    """What is sent in Authorization to one registry; thread-safe. Nothing is sent before the registry asks."""

    def __init__(self, transport: Transport, registry: str, credentials: Credentials | None) -> None:
        self._transport = transport
        self._registry = registry
        self._credentials = credentials
        self._challenge: Challenge | None = None
        self._tokens: dict[Scopes, _Token] = {}
        self._lock = threading.Lock()

    def header(self, scopes: Scopes) -> dict[str, str]:
        """The header for a request with `scopes`; empty when nothing is known to be needed."""
        with self._lock:
            challenge = self._challenge
            if challenge is None:
                return {}
            if challenge.scheme == "basic":
                return {"Authorization": self._credentials.basic} if self._credentials else {}
            token = self._tokens.get(scopes)
            if token is None or token.ends <= time.monotonic():
                token = self._tokens[scopes] = self._fetch(challenge, scopes)
            return {"Authorization": f"Bearer {token.value}"}

    def challenged(self, header: str, sent: dict[str, str], scopes: Scopes) -> bool:
        """Take note of a 401's challenge; True when the same request is worth sending again."""
        challenge = Challenge.parse(header)
        if challenge is None or (challenge.scheme == "bearer" and not challenge.realm):
            return False
        if challenge.scheme == "basic" and (sent or self._credentials is None):
            return False
        with self._lock:
            self._challenge = challenge
            token = self._tokens.get(scopes)
            # Another thread may have renewed the token while this request was under way: keep that one.
            if token is not None and sent.get("Authorization") == f"Bearer {token.value}":
                del self._tokens[scopes]
        return True

    def _fetch(self, challenge: Challenge, scopes: Scopes) -> _Token:
        wanted = scopes or tuple(challenge.scope.split())
        query = [("service", challenge.service)] if challenge.service else []
        credentials = self._credentials
        url, headers, body = challenge.realm, {}, None
        if credentials is not None and credentials.identity_token:
            form = [("grant_type", "refresh_token"), ("refresh_token", credentials.identity_token)]
            form += [("client_id", "mxbundle"), ("scope", " ".join(wanted)), *query]
            body = urlencode(form).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        else:
            query += [("scope", scope) for scope in wanted]
            if credentials is not None:
                query.append(("account", credentials.username))
                headers["Authorization"] = credentials.basic
            url += ("&" if "?" in url else "?") + urlencode(query)
        method = "GET" if body is None else "POST"
        with self._transport.exchange(method, url, headers, body, action="a token") as response:
            try:
                answer = json.loads(response.read(MOST_TOKEN_BYTES) or b"{}")
            except (ValueError, Passing):
                answer = {}
            token = answer.get("token") or answer.get("access_token") if isinstance(answer, dict) else None
            if response.status != 200 or not isinstance(token, str):
                raise RegistryRefused(
                    registry=self._registry,
                    action=f"a token for {' '.join(wanted) or 'the registry'}",
                    status=response.status,
                    detail=f"from {challenge.realm}",
                )
        life = answer.get("expires_in")
        seconds = float(life) if isinstance(life, int | float) and life > 0 else TOKEN_LIFE_SECONDS
        return _Token(token, time.monotonic() + max(seconds - MARGIN_SECONDS, seconds / 2))

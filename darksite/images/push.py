"""Puts an OCI layout into a plain-HTTP registry and sends only what is not there.

It serves the dark site's own upstream on a loopback address; it knows no authentication, no TLS and no retry.
"""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlencode, urlsplit

from darksite.errors import DarkSiteError
from darksite.ociimage import INDEX_TYPE, MANIFEST_TYPE

_TIMEOUT_SECONDS = 60


class PushRefused(DarkSiteError):
    """The registry answered a push with something else than success; the message has its words."""


class Registry:
    """One connection to the registry at `address` (host:port)."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=_TIMEOUT_SECONDS)
        self._holders: dict[str, str] = {}

    def __enter__(self) -> "Registry":
        return self

    def __exit__(self, *_failure: object) -> None:
        self._connection.close()

    def digest_of(self, repository: str, tag: str) -> str:
        """The digest that `tag` means, "" when the registry does not know it. Raises OSError."""
        status, headers, _ = self._ask("HEAD", f"/v2/{repository}/manifests/{tag}", accept=True)
        return headers.get("Docker-Content-Digest", "") if status == 200 else ""

    def push(self, layout: Path, reference: str) -> bool:
        """Makes `reference`, its host the first part of the repository, mean what it means in `layout`.

        False when it did already. Raises `PushRefused` and OSError.
        """
        repository, _, tag = reference.rpartition(":")
        top = _named(layout, reference)
        if self.digest_of(repository, tag) == top["digest"]:
            return False
        for descriptor in _children_first(layout, top):
            content = _blob(layout, descriptor["digest"]).read_bytes()
            for blob in _blobs_of(json.loads(content)):
                self._push_blob(repository, layout, blob["digest"])
            for name in (descriptor["digest"], *([tag] if descriptor is top else [])):
                self._succeed(201, "PUT", f"/v2/{repository}/manifests/{name}", content, descriptor["mediaType"])
        return True

    def _push_blob(self, repository: str, layout: Path, digest: str) -> None:
        holder = self._holders.setdefault(digest, repository)
        status, _, _ = self._ask("HEAD", f"/v2/{repository}/blobs/{digest}")
        if status == 200:
            return
        mount = {"mount": digest, "from": holder} if holder != repository else {}
        status, headers, answer = self._ask("POST", f"/v2/{repository}/blobs/uploads/?{urlencode(mount)}")
        if status == 201:
            return
        if status != 202:
            raise PushRefused(f"upload to {repository}: {status} {answer.decode(errors='replace')}")
        place = urlsplit(headers["Location"])
        target = f"{place.path}?{place.query}{'&' if place.query else ''}{urlencode({'digest': digest})}"
        with _blob(layout, digest).open("rb") as content:
            self._succeed(201, "PUT", target, content, "application/octet-stream")

    def _succeed(self, wanted: int, method: str, path: str, body: bytes | BinaryIO, content_type: str) -> None:
        status, _, answer = self._ask(method, path, body, content_type)
        if status != wanted:
            raise PushRefused(f"{method} {path}: {status} {answer.decode(errors='replace')}")

    def _ask(
        self, method: str, path: str, body: bytes | BinaryIO | None = None, content_type: str = "", accept: bool = False
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        headers = {"Accept": f"{INDEX_TYPE}, {MANIFEST_TYPE}"} if accept else {}
        if content_type:
            headers["Content-Type"] = content_type
        if body is not None and not isinstance(body, bytes):
            headers["Content-Length"] = str(Path(body.name).stat().st_size)
        self._connection.request(method, path, body if body is not None else b"", headers)
        answer = self._connection.getresponse()
        return answer.status, answer.headers, answer.read()


def _named(layout: Path, reference: str) -> dict[str, Any]:
    listing = json.loads((layout / "index.json").read_bytes())["manifests"]
    (found,) = (m for m in listing if m["annotations"]["org.opencontainers.image.ref.name"] == reference)
    return dict(found)


def _children_first(layout: Path, descriptor: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for child in json.loads(_blob(layout, descriptor["digest"]).read_bytes()).get("manifests", ()):
        yield from _children_first(layout, child)
    yield descriptor


def _blobs_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return [*([manifest["config"]] if "config" in manifest else []), *manifest.get("layers", ())]


def _blob(layout: Path, digest: str) -> Path:
    algorithm, _, value = digest.partition(":")
    return layout / "blobs" / algorithm / value

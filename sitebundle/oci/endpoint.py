"""Where a registry answers, and which mirror answers in its stead. Reading of mirrors.toml; no network.

A mirror setting belongs to the connected side: at the site references are rewritten, never healed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sitebundle.errors import StackInvalid

DOCKER_HUB = "registry-1.docker.io"
"""Where `docker.io` is served."""


@dataclass(frozen=True)
class Endpoint:
    """`url` is `scheme://host[:port]`, without a slash at its end; `path_prefix` stands before every repository.

    `ca` is a PEM file that is trusted beside the system's own store.
    """

    url: str
    path_prefix: str = ""
    ca: Path | None = None

    @classmethod
    def parse(cls, text: str, ca: Path | None = None) -> Endpoint:
        """Read `[scheme://]host[:port][/prefix]`; without a scheme it is https. Raises ValueError."""
        parts = urlsplit(text if "://" in text else f"https://{text}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
            raise ValueError(f"not a registry endpoint: {text!r}")
        return cls(url=f"{parts.scheme}://{parts.netloc}", path_prefix=parts.path.strip("/"), ca=ca)

    @property
    def host(self) -> str:
        """`host[:port]`, as people and credential stores name it."""
        return urlsplit(self.url).netloc


@dataclass(frozen=True)
class Mirrors:
    """Which endpoint answers for an upstream host, and which URL for a published file.

    `hosts`: upstream host -> endpoint. `files`: URL prefix -> URL prefix.
    """

    hosts: Mapping[str, Endpoint] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path | None) -> Mirrors:
        """Read a mirrors.toml; no path, no mirrors. Raises StackInvalid.

        Tables: `[mirrors]` host = URL, `[files]` URL prefix = URL prefix, `[ca]` host = PEM file, relative to
        the file itself.
        """
        if path is None:
            return cls()
        try:
            text = tomllib.loads(path.read_text(encoding="utf-8"))
            if unknown := set(text) - {"mirrors", "files", "ca"}:
                raise ValueError(f"unknown table {sorted(unknown)[0]!r}")
            authorities = {host: path.parent / name for host, name in _strings(text, "ca").items()}
            hosts = {
                host: Endpoint.parse(url, authorities.get(host)) for host, url in _strings(text, "mirrors").items()
            }
            hosts |= {
                host: Endpoint.parse(DOCKER_HUB if host == "docker.io" else host, ca)
                for host, ca in authorities.items()
                if host not in hosts
            }
            return cls(hosts=hosts, files={k.rstrip("/"): v.rstrip("/") for k, v in _strings(text, "files").items()})
        except OSError as fault:
            raise StackInvalid(path=path, detail=fault.strerror or str(fault)) from fault
        except ValueError as fault:
            raise StackInvalid(path=path, detail=str(fault)) from fault

    def endpoint(self, host: str) -> Endpoint:
        """Where to ask for images of the upstream `host`. Loopback hosts without a scheme are still https."""
        if host in self.hosts:
            return self.hosts[host]
        return Endpoint.parse(DOCKER_HUB if host == "docker.io" else host)

    def file_url(self, url: str) -> str:
        """Where to get the published file `url`: the longest matching prefix is replaced."""
        for prefix in sorted(self.files, key=len, reverse=True):
            if url == prefix or url.startswith(f"{prefix}/"):
                return self.files[prefix] + url[len(prefix) :]
        return url


def _strings(document: Mapping[str, Any], table: str) -> dict[str, str]:
    content = document.get(table, {})
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise ValueError(f"[{table}] holds name = text")
    return content

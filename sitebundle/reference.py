"""Image references: their grammar, and the name that each has at a site (docs/reference/names.md).

Source of the grammar: the distribution project's reference package; familiar names are spelled out
(`redis` is `docker.io/library/redis`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from sitebundle.digest import Digest

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_FORM = re.compile(
    rf"(?:(?P<host>{_HOST})/)?(?P<path>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)

ReferenceForm = Literal["tag+digest", "digest"]


@dataclass(frozen=True, order=True)
class Reference:
    """`host/repository[:tag][@digest]`, always with its host."""

    host: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference as a container runtime would. Raises ValueError when `text` is none."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError(f"not an image reference: {text[:200]!r}")
        host, path = match["host"], match["path"]
        if host is not None and not (set(".:") & set(host) or host == "localhost" or host.startswith("[")):
            path, host = f"{host}/{path}", None
            if not re.fullmatch(rf"{_PART}(?:/{_PART})*", path):
                raise ValueError(f"not an image reference: {text[:200]!r}")
        if host is None:
            host = "docker.io"
        if host in ("docker.io", "index.docker.io") and "/" not in path:
            path = f"library/{path}"
        host = "docker.io" if host == "index.docker.io" else host
        digest = Digest(match["digest"]) if match["digest"] else None
        tag = match["tag"] or (None if digest else "latest")
        return cls(host=host, repository=path, tag=tag, digest=digest)

    @property
    def name(self) -> str:
        """`host/repository`."""
        return f"{self.host}/{self.repository}"

    @property
    def tagged(self) -> str:
        """`host/repository:tag`, what people call it; the digest only when there is no tag."""
        return f"{self.name}:{self.tag}" if self.tag else f"{self.name}@{self.digest}"

    def pinned(self, digest: Digest) -> Reference:
        """The same reference with `digest`."""
        return replace(self, digest=digest)

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def site_repository(reference: Reference, prefix: str) -> str:
    """The repository at the site's registry: `PREFIX/ghcr.io/a/b`; `host:5000` becomes `host_5000`."""
    host = reference.host.replace(":", "_").replace("[", "").replace("]", "")
    return "/".join(part for part in (prefix.strip("/"), host, reference.repository) if part)


def site_reference(
    reference: Reference, digest: Digest, registry: str, prefix: str, form: ReferenceForm = "tag+digest"
) -> str:
    """What a pod at the site names: `REGISTRY/PREFIX/ghcr.io/a/b:1@sha256:…` (`form` drops the tag)."""
    tag = f":{reference.tag}" if reference.tag and form == "tag+digest" else ""
    return f"{registry}/{site_repository(reference, prefix)}{tag}@{digest}"


def retention_tag(digest: Digest) -> str:
    """The second tag of every pushed manifest; a registry's cleanup of untagged digests cannot destroy it."""
    return f"mx-{digest.hex[:32]}"

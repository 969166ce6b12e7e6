"""Programs for the dark site: downloaded, checked against their pin, taken out of their archive.

The list is `manifests/tools.yaml`. The lock pins the program itself; the build carries it.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, BinaryIO

import yaml
from pydantic import TypeAdapter, ValidationError

from mxbundle.lock.model import LockedTool
from sitebundle.digest import Digest
from sitebundle.errors import SourceChanged, StackInvalid
from sitebundle.manifest import Value
from sitebundle.oci.upstream import Upstream

BUFFER_BYTES = 1 << 20


class Tool(Value):
    """One entry of tools.yaml; `path` is inside the .tar.gz that `url` serves, None when `url` serves the program."""

    name: str
    version: str
    platform: str
    url: str
    sha256: str
    path: str | None = None

    @property
    def pinned(self) -> Digest:
        """The digest that `url` must have. Raises ValueError."""
        return Digest(f"sha256:{self.sha256.removeprefix('sha256:')}")


def read_tools(path: Path) -> tuple[Tool, ...]:
    """Read a tools.yaml. Raises StackInvalid."""
    try:
        tools = TypeAdapter(tuple[Tool, ...]).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")) or ())
        for tool in tools:
            _ = tool.pinned
        return tools
    except OSError as fault:
        raise StackInvalid(path=path, detail=fault.strerror or str(fault)) from fault
    except (yaml.YAMLError, ValidationError, ValueError) as fault:
        raise StackInvalid(path=path, detail=" ".join(str(fault).split())) from fault


def lock_tools(
    tools: Sequence[Tool], platforms: Sequence[str], upstream: Upstream, kept: Sequence[LockedTool] = ()
) -> tuple[LockedTool, ...]:
    """Download the tools of `platforms` and pin each program. Raises SourceChanged and what a download raises.

    One of `kept` that has the same pin stays: what is inside a download follows from its digest.
    """
    known = {(tool.url, tool.download_digest, tool.path_in_archive): tool for tool in kept}
    return tuple(
        found.model_copy(update={"name": tool.name, "version": tool.version, "platform": tool.platform})
        if (found := known.get((tool.url, tool.pinned, tool.path)))
        else _lock_tool(tool, upstream)
        for tool in tools
        if tool.platform in platforms
    )


def opened_tool(tool: LockedTool, upstream: Upstream, folder: Path) -> AbstractContextManager[IO[bytes]]:
    """A locked program to read, out of a download that is verified; the program's own digest is the reader's to check.

    The download lies in an unnamed file in `folder`: whatever ends us, nothing is left of it.
    Raises SourceChanged, RegistryRefused, RegistryUnreachable.
    """
    return _program(tool.url, tool.download_digest, tool.path_in_archive, upstream, folder)


def _lock_tool(tool: Tool, upstream: Upstream) -> LockedTool:
    with _program(tool.url, tool.pinned, tool.path, upstream) as program:
        digest, size = _measured(program)
    return LockedTool(
        name=tool.name,
        version=tool.version,
        platform=tool.platform,
        url=tool.url,
        download_digest=tool.pinned,
        path_in_archive=tool.path,
        digest=digest,
        size=size,
    )


@contextmanager
def _program(
    url: str, pinned: Digest, path: str | None, upstream: Upstream, folder: Path | None = None
) -> Iterator[IO[bytes]]:
    with TemporaryFile(dir=folder) as download:
        upstream.download(url, download)
        download.seek(0)
        seen, _ = _measured(download)
        if seen != pinned:
            raise SourceChanged(url=url, seen=seen, expected=pinned)
        download.seek(0)
        if path is None:
            yield download
            return
        try:
            with tarfile.open(fileobj=download, mode="r:*") as archive:
                program = archive.extractfile(path)
                if program is None:
                    raise KeyError(path)
                with program:
                    yield program
        except (tarfile.TarError, KeyError) as fault:
            raise StackInvalid(path=url, detail=f"{path} is not a file in it: {fault}") from fault


def _measured(file: IO[bytes] | BinaryIO) -> tuple[Digest, int]:
    digest, size = hashlib.sha256(), 0
    while data := file.read(BUFFER_BYTES):
        digest.update(data)
        size += len(data)
    return Digest(f"sha256:{digest.hexdigest()}"), size

"""The programs that the bundle carries for the dark site (helm, the registry), put on this host's disk.

Each lands in the site's state directory by rename, with the digest of the signed manifest, and is kept when it fits.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

from sitebundle.archive import BundleReader
from sitebundle.digest import Digest
from sitebundle.errors import ToolMissing
from sitebundle.manifest import BundleManifest, Tool

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def host_platform() -> str:
    """This host as OCI names it: `linux/amd64`."""
    machine = platform.machine()
    return f"{platform.system().lower()}/{_MACHINES.get(machine, machine)}"


def find_tool(manifest: BundleManifest, name: str) -> Tool:
    """The carried program `name` for this host. Raises ToolMissing."""
    carried = [tool for tool in manifest.tools if tool.name == name]
    for tool in carried:
        if tool.platform == host_platform():
            return tool
    known = ", ".join(tool.platform for tool in carried) or "no platform"
    raise ToolMissing(tool=name, detail=f"the bundle carries it for {known}, this host is {host_platform()}")


def carried_tool(reader: BundleReader, name: str, directory: Path) -> Path:
    """The path of program `name` below `directory`, extracted from the bundle unless the very same is there."""
    tool = find_tool(reader.manifest, name)
    target = directory / name
    if not (target.is_file() and _digest(target) == tool.digest):
        directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        reader.extract(tool.member, target, 0o755)
    target.chmod(0o755)
    return target


def _digest(path: Path) -> Digest:
    with path.open("rb") as stream:
        return Digest(f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}")

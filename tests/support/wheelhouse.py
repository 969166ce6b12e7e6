"""Small wheels made on the spot, for tests of what becomes of them in a layer."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

from mxbundle.derive.recipe import Wheel


def make_wheel(
    folder: Path,
    name: str,
    files: Mapping[str, bytes],
    *,
    version: str = "1.0",
    tag: str = "py3-none-any",
    said: str | None = None,
    platforms: tuple[str, ...] = (),
    year: int = 2020,
) -> Wheel:
    """A wheel of `files` in `folder`; its metadata calls it `said`, its files are of `year`."""
    stem = f"{name.replace('-', '_')}-{version}"
    about = {
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {said or name}\nVersion: {version}\n".encode(),
        f"{stem}.dist-info/WHEEL": f"Wheel-Version: 1.0\nTag: {tag}\n".encode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for inside, content in {**files, **about}.items():
            archive.writestr(zipfile.ZipInfo(inside.replace("DATA/", f"{stem}.data/"), (year, 1, 1, 0, 0, 0)), content)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(name=name, version=version, url=path.as_uri(), sha256=digest, platforms=platforms)

"""The stack as a bundle carries it, laid out in the run's folder: stack.yaml, values, profiles, charts, files, CRDs.

Small members only; blobs are streamed by `mxinstall.seed`, programs kept by `mxinstall.tools`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mxinstall.cluster import Object
from mxinstall.deploy.crds import read_crds
from mxinstall.deploy.workdir import WorkDir
from sitebundle.operands import Operands, read_operands
from sitebundle.stack import Stack, read_stack

if TYPE_CHECKING:
    from sitebundle.archive import BundleReader
    from sitebundle.manifest import BundleManifest

_SMALL = ("stack/", "charts/", "files/")


@dataclass(frozen=True)
class Carried:
    """What a bundle would deploy. `charts` and `files` are paths by release."""

    manifest: BundleManifest
    stack: Stack
    directory: Path
    charts: dict[str, Path]
    files: dict[str, Path]
    crds: tuple[Object, ...]
    operands: Operands


def unpack(reader: BundleReader, work: WorkDir) -> Carried:
    """Lay the bundle's small members out. Raises BundleDamaged, StackInvalid."""
    place = work.folder("bundle")
    for member in reader.manifest.members:
        if member.name.startswith(_SMALL):
            target = place / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            reader.extract(member.name, target)
    return Carried(
        manifest=reader.manifest,
        stack=read_stack(place / "stack" / "stack.yaml"),
        directory=place / "stack",
        charts={chart.release: place / chart.member for chart in reader.manifest.charts},
        files={file.release: place / file.member for file in reader.manifest.files},
        crds=tuple(read_crds(reader)),
        operands=read_operands(place / "stack" / "operands"),
    )

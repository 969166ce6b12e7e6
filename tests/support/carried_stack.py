"""The project's own stack as an opened bundle would give it, for API servers that have no nodes to run it on.

Real charts, real manifest file, real helm; only the digests of the images are made up.
"""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mxinstall.carried import Carried
from mxinstall.cluster import Object
from mxinstall.site import Site

from darksite import binaries, upstream
from sitebundle.crds import split_crds
from sitebundle.digest import Digest
from sitebundle.manifest import BundleManifest, Image, PlatformManifest
from sitebundle.operands import read_operands
from sitebundle.rendering import read_objects
from sitebundle.stack import read_stack

MANIFESTS = Path(__file__).parents[2] / "manifests"


def carried_stack(folder: Path, releases: Sequence[str], *, generation: int = 1, renewed: str = "") -> Carried:
    """`releases` of the stack, without what only running pods can answer; image `renewed` has another digest."""
    stack = read_stack(MANIFESTS / "stack.yaml")
    kept = tuple(
        release.model_copy(update={"needs": tuple(n for n in release.needs if n in releases), "ready": ()})
        for release in stack.releases
        if release.name in releases
    )
    published, crds = _published()
    manifest = BundleManifest(
        name="matrix",
        generation=generation,
        created=0,
        profile="demo",
        lock_digest=Digest.of(b"lock"),
        platforms=("linux/amd64",),
        images=tuple(
            _image(reference, "renewed" if key == renewed else "") for key, reference in sorted(stack.images.items())
        ),
        charts=(),
        files=(),
        crds=(),
        tools=(),
        members=(),
    )
    return Carried(
        manifest=manifest,
        stack=stack.model_copy(update={"releases": kept}),
        directory=MANIFESTS,
        charts={release.name: _packed(folder, release.chart) for release in kept if release.chart},
        files={release.name: published[release.manifest] for release in kept if release.manifest},
        crds=crds,
        operands=read_operands(MANIFESTS / "operands"),
    )


def loopback_site() -> Site:
    """A site whose registry nobody asks."""
    return Site.model_validate(
        {
            "metadata": {"name": "loopback"},
            "spec": {
                "profile": "demo",
                "serverName": "loopback.site",
                "hosts": {"matrix": "matrix.loopback.site"},
                "registry": {"push": "127.0.0.1:9", "pull": "127.0.0.1:9"},
                "storage": {"default": "local", "database": "local", "objects": "local"},
                "edge": {"address": "127.0.0.1"},
            },
        }
    )


@functools.cache
def _published() -> tuple[dict[str, Path], tuple[Object, ...]]:
    """Every published manifest by its address, and the CRDs in all of them."""
    wanted = {release.manifest for release in read_stack(MANIFESTS / "stack.yaml").releases if release.manifest}
    published = {address: path for address, path in upstream.published().items() if address in wanted}
    crds = [crd for path in published.values() for crd in split_crds(read_objects(path.read_text(), path.name))[0]]
    return published, tuple(crds)


def _image(reference: str, salt: str) -> Image:
    digest, manifest, config = (Digest.of(f"{reference}{salt}{part}".encode()) for part in ("index", "manifest", "c"))
    platform = PlatformManifest(
        platform="linux/amd64", digest=manifest, media_type="x", size=1, config=config, config_size=1, layers=()
    )
    return Image(reference=reference, digest=digest, media_type="x", size=1, carried=(platform,))


def _packed(folder: Path, chart: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(binaries.ensure("helm")), "package", str(MANIFESTS / chart), f"--destination={folder}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Path(done.stdout.strip().rpartition(": ")[2])

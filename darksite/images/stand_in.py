"""The images of the dark site, made from their contracts and kept in the cache as OCI layouts.

What each image needs beyond packages is its folder under `recipes/`; mounting and packing are done elsewhere.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from darksite import binaries, cache, ociimage
from darksite.images import contract as contracts
from darksite.images import rootfs

RECIPES = Path(__file__).parent / "recipes"
OTHER_PLATFORM = "linux/arm64"
_HERE = Path(__file__).parent
_MECHANICS = (_HERE / "rootfs.py", _HERE / "stand_in.py", _HERE.parent / "ociimage.py")
"""Code that decides what is in an image: a change builds it anew."""


@dataclass(frozen=True)
class Built:
    """An image in the cache: `top` is the digest that its tags mean, an index."""

    contract: contracts.Contract
    layout: Path

    def digests(self) -> dict[str, str]:
        """Reference → digest of the index behind it."""
        listing = json.loads((self.layout / "index.json").read_bytes())
        name = "org.opencontainers.image.ref.name"
        return {entry["annotations"][name]: entry["digest"] for entry in listing["manifests"]}

    def stored_bytes(self) -> int:
        """Size of all blobs of the layout in bytes, those shared with other images included."""
        return sum(blob.stat().st_size for blob in (self.layout / "blobs" / "sha256").iterdir())


def build(contract: contracts.Contract) -> Built:
    """The stand-in of `contract`, built first when the cache does not have it.

    Raises `BuildFailed` when a package client or a recipe fails, and what `binaries.ensure` raises.
    """
    makers: dict[str, Callable[[contracts.Contract, Path], Sequence[ociimage.LayerInfo]]] = {
        "debian": _debian_layers,
        "distroless": _distroless_layers,
    }
    make_layers = makers[contract.stand_in.base]

    def fill_layout(out: Path) -> None:
        with tempfile.TemporaryDirectory(dir=out, prefix=".layers.") as scratch:
            _write_layout(contract, make_layers(contract, Path(scratch)), Path(scratch), out)

    return Built(contract, cache.built(f"image-{contract.name}", fill_layout, _inputs(contract)))


def is_built(contract: contracts.Contract) -> bool:
    """Whether `build(contract)` would return at once."""
    return cache.present(f"image-{contract.name}", _inputs(contract))


def debian_base() -> Path:
    """The minimal Debian that images share: `rootfs/`, and the layer that it is in every image."""

    def fill(out: Path) -> None:
        (out / "rootfs").mkdir()
        rootfs.bootstrap(out / "rootfs")
        layer = ociimage.layer_from_dir(out / "rootfs", out / "layer.tar.gz")
        (out / "layer.json").write_text(
            json.dumps(
                {
                    "digest": layer.digest,
                    "diff_id": layer.diff_id,
                    "size_bytes": layer.size_bytes,
                    "media_type": layer.media_type,
                }
            )
        )

    return cache.built("image-base", fill, (_HERE / "rootfs.py", rootfs.SUITE))


def _inputs(contract: contracts.Contract) -> tuple[cache.Input, ...]:
    recipe = RECIPES / contract.name
    return (contracts.CONTRACTS / f"{contract.name}.toml", *((recipe,) if recipe.is_dir() else ()), *_MECHANICS)


def _debian_layers(contract: contracts.Contract, scratch: Path) -> Sequence[ociimage.LayerInfo]:
    base = debian_base()
    recipe = RECIPES / contract.name
    carried = [path for path in recipe.iterdir() if path.name != "recipe.sh"]
    if contract.stand_in.wheels:
        carried.append(_pip(scratch))
    process = contract.process
    upper = scratch / "upper"
    upper.mkdir()
    rootfs.fill(
        base / "rootfs",
        upper,
        _INSTALL + (recipe / "recipe.sh").read_text(),
        {
            "CARRIED": rootfs.CARRIED,
            "PACKAGES": " ".join(contract.stand_in.packages),
            "WHEELS": " ".join(contract.stand_in.wheels),
            "VERSION": contract.stand_in.version,
            "RUN_UID": str(process.uid),
            "RUN_GID": str(process.gid),
        },
        carried,
    )
    shared = ociimage.LayerInfo(blob=base / "layer.tar.gz", **json.loads((base / "layer.json").read_text()))
    _place_programs(contract, upper)
    own = ociimage.layer_from_dir(upper, scratch / "own.tar.gz")
    shutil.rmtree(upper)
    return [shared, own]


_INSTALL = """\
apt-get -qq update
apt-get -qq install --yes $PACKAGES
"""


def _pip(scratch: Path) -> Path:
    """pip itself, as a wheel that any Python can run: so none has to be installed into the image."""
    downloads = scratch / "pip"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(downloads), "pip"]
    subprocess.run(command, check=True)
    (wheel,) = downloads.glob("pip-*.whl")
    return wheel.rename(downloads / "pip.whl")


def _place_programs(contract: contracts.Contract, root: Path) -> None:
    for program in contract.stand_in.programs:
        place = root / program.path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(binaries.ensure(program.product), place)
        place.chmod(0o755)
        os.chown(place, contract.process.uid, contract.process.gid)
        for link in program.links:
            (root / link.lstrip("/")).symlink_to(os.path.relpath(program.path, Path(link).parent))


def _distroless_layers(contract: contracts.Contract, scratch: Path) -> Sequence[ociimage.LayerInfo]:
    process = contract.process
    bottom = scratch / "bottom"
    for folder in ("etc/ssl/certs", "home/nonroot", "tmp", "dev", "proc", "sys", "run"):
        (bottom / folder).mkdir(parents=True)
    (bottom / "tmp").chmod(0o1777)
    (bottom / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/sbin/nologin\n"
        f"nonroot:x:{process.uid}:{process.gid}:nonroot:/home/nonroot:/sbin/nologin\n"
    )
    (bottom / "etc/group").write_text(f"root:x:0:\nnonroot:x:{process.gid}:\n")
    (bottom / "etc/nsswitch.conf").write_text("hosts: files dns\n")
    certificates = "etc/ssl/certs/ca-certificates.crt"
    shutil.copyfile(debian_base() / "rootfs" / certificates, bottom / certificates)
    os.chown(bottom / "home/nonroot", process.uid, process.gid)

    top = scratch / "top"
    top.mkdir()
    _place_programs(contract, top)
    return [
        ociimage.layer_from_dir(bottom, scratch / "bottom.tar.gz"),
        ociimage.layer_from_dir(top, scratch / "top.tar.gz"),
    ]


def _write_layout(contract: contracts.Contract, layers: Sequence[ociimage.LayerInfo], scratch: Path, out: Path) -> None:
    _write_index(contract, layers, contract.reference, scratch, out)
    for later in contract.stand_in.also:
        marker = ociimage.layer_from_files(
            {later.marker: f"{later.reference}\n".encode()},
            scratch / f"marker-{later.reference.rpartition(':')[2]}.tar.gz",
            mode=0o644,
        )
        _write_index(contract, [*layers, marker], later.reference, scratch, out)


def _write_index(
    contract: contracts.Contract, layers: Sequence[ociimage.LayerInfo], reference: str, scratch: Path, out: Path
) -> None:
    """An index of two platforms, as every upstream of ours has; the second one is real but nothing runs there."""
    # A packed layer is linked into the layout: its file must never be written again.
    other_layer = scratch / f"other-{reference.rpartition(':')[2]}.tar.gz"
    config = contract.config.document()
    real = ociimage.build_image(layers, config, out, "", index=False)
    note = ociimage.layer_from_files(
        {"etc/stand-in": f"{reference} for {OTHER_PLATFORM}\n".encode()}, other_layer, mode=0o644
    )
    other = ociimage.build_image([note], config, out, "", platform=OTHER_PLATFORM, index=False)
    manifests = [real, other]
    if contract.stand_in.attested:
        manifests.append(_attestation(contract, real, scratch, out))
    ociimage.build_index(manifests, out, reference)


def _attestation(
    contract: contracts.Contract, subject: ociimage.Descriptor, scratch: Path, out: Path
) -> ociimage.Descriptor:
    """The provenance that BuildKit pushes beside an image, under the platform `unknown/unknown`."""
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": "https://slsa.dev/provenance/v1",
        "subject": [{"name": contract.reference, "digest": {"sha256": subject.digest.removeprefix("sha256:")}}],
        "predicate": {"buildDefinition": {"buildType": "darksite stand-in"}},
    }
    blob = scratch / "attestation.json"
    blob.write_text(json.dumps(statement, sort_keys=True))
    with blob.open("rb") as content:
        packed = ociimage.write_layer(content, scratch / "attestation.blob", compression="")
    layer = replace(packed, media_type="application/vnd.in-toto+json")
    manifest = ociimage.build_image([layer], {}, out, "", platform="unknown/unknown", index=False)
    annotations = {
        "vnd.docker.reference.digest": subject.digest,
        "vnd.docker.reference.type": "attestation-manifest",
    }
    return replace(manifest, annotations=annotations)

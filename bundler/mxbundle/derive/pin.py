"""A recipe pinned: the layer that its wheels make, and the image that comes of it on a base that is locked.

Fetched are wheels, each checked against its pin, and the configs of the base; no layer of the base.
"""

from __future__ import annotations

from collections.abc import Sequence

from mxbundle.derive.document import derived_config, derived_index, derived_layers, derived_manifest
from mxbundle.derive.layer import layer_chunks, measured
from mxbundle.derive.recipe import Python, Recipe, Wheel, wheels_for
from mxbundle.derive.wheels import opened
from mxbundle.lock.model import LockedDerivation, LockedImage, LockedLayer, LockedPlatform, LockedWheel
from mxbundle.ocidocument import OCI_CONFIG, OCI_LAYER, described
from sitebundle.digest import Digest
from sitebundle.errors import ImageUnresolvable, StackInvalid
from sitebundle.oci.descriptor import Descriptor
from sitebundle.oci.upstream import Upstream
from sitebundle.reference import Reference


def pin(
    recipe: Recipe, base: Digest, platforms: Sequence[str], needed_by: Sequence[str], upstream: Upstream
) -> LockedDerivation:
    """The recipe as the lock has it, with the layer for each platform.

    Raises StackInvalid, SourceChanged, RegistryRefused, RegistryUnreachable.
    """
    wanted = {platform: wheels_for(recipe.wheels, platform) for platform in platforms}
    for platform, wheels in wanted.items():
        if lacking := sorted({wheel.name for wheel in recipe.wheels} - {wheel.name for wheel in wheels}):
            raise StackInvalid(path=recipe.reference, detail=f"no wheel of {lacking[0]} is for {platform}")
    every = {wheel.url: wheel for wheels in wanted.values() for wheel in wheels}
    layers: dict[tuple[Wheel, ...], tuple[Digest, int]] = {}
    with opened(tuple(every.values()), upstream) as files:
        for wheels in wanted.values():
            if wheels not in layers:
                chosen = [file for wheel in wheels for file in files if file.wheel == wheel]
                layers[wheels] = measured(layer_chunks(chosen, recipe.python))
        sizes = {file.wheel.url: file.size for file in files}
    return LockedDerivation(
        reference=recipe.reference,
        base=Reference.parse(recipe.base).tagged,
        base_digest=base,
        site_packages=recipe.python.site_packages,
        scripts=recipe.python.scripts,
        interpreter=recipe.python.interpreter,
        needed_by=tuple(needed_by),
        layers=tuple(
            LockedLayer(platform=platform, digest=layers[wanted[platform]][0], size=layers[wanted[platform]][1])
            for platform in sorted(wanted)
        ),
        wheels=tuple(
            LockedWheel(
                name=wheel.name,
                version=wheel.version,
                platforms=tuple(sorted(wheel.platforms)),
                url=wheel.url,
                digest=wheel.pinned,
                size=sizes[wheel.url],
            )
            for wheel in sorted(every.values(), key=lambda wheel: (wheel.name, wheel.platforms))
        ),
    )


def is_made_of(locked: LockedDerivation, recipe: Recipe, platforms: Sequence[str]) -> bool:
    """Whether `locked` pins the layers of `recipe` for just `platforms`; what the base's tag meant does not matter."""
    chosen = {layer.platform for layer in locked.layers}
    wheels = {
        (wheel.name, wheel.version, tuple(sorted(wheel.platforms)), wheel.url, wheel.pinned)
        for platform in chosen
        for wheel in wheels_for(recipe.wheels, platform)
    }
    return (
        locked.reference == recipe.reference
        and locked.base == Reference.parse(recipe.base).tagged
        and chosen == set(platforms)
        and python_of(locked) == recipe.python
        and {(w.name, w.version, w.platforms, w.url, w.digest) for w in locked.wheels} == wheels
    )


def python_of(locked: LockedDerivation) -> Python:
    """Where the layer's files go."""
    return Python(site_packages=locked.site_packages, scripts=locked.scripts, interpreter=locked.interpreter)


def wheels_of(locked: LockedDerivation, platform: str) -> tuple[Wheel, ...]:
    """The wheels in the layer for `platform`."""
    every = (
        Wheel(name=w.name, version=w.version, url=w.url, sha256=w.digest.hex, platforms=w.platforms)
        for w in locked.wheels
    )
    return wheels_for(tuple(every), platform)


def derive(locked: LockedDerivation, base: LockedImage, upstream: Upstream) -> LockedImage:
    """The image that `locked` makes of `base`. Raises ImageUnresolvable, RegistryRefused, RegistryUnreachable."""
    if base.source is not None:
        detail = "it is taken from a Docker daemon, and what is derived needs a base that a registry has"
        raise ImageUnresolvable(reference=locked.base, detail=detail, needed_by=locked.reference)
    platforms = []
    for layer in locked.layers:
        below = next(platform for platform in base.platforms if platform.platform == layer.platform)
        added = Descriptor(OCI_LAYER, layer.digest, layer.size)
        try:
            config, _ = config_on(locked, base, layer, upstream)
            layers = derived_layers(below.layers, added)
        except ValueError as fault:
            raise ImageUnresolvable(
                reference=locked.base, detail=f"nothing can be derived from it: {fault}", needed_by=locked.reference
            ) from fault
        manifest, _ = derived_manifest(config, layers, locked.base, locked.base_digest)
        platforms.append(
            LockedPlatform(
                platform=layer.platform,
                digest=manifest.digest,
                media_type=manifest.media_type,
                size=manifest.size,
                config=config,
                layers=layers,
            )
        )
    index, _ = derived_index({p.platform: manifest_of(p) for p in platforms}, locked.base, locked.base_digest)
    return LockedImage(
        reference=locked.reference,
        digest=index.digest,
        media_type=index.media_type,
        size=index.size,
        needed_by=locked.needed_by,
        platforms=tuple(platforms),
    )


def config_on(
    locked: LockedDerivation, base: LockedImage, layer: LockedLayer, upstream: Upstream
) -> tuple[Descriptor, bytes]:
    """The derived config for the layer's platform, from the base's, which is fetched by its digest.

    Raises ValueError for a base that is no image, and what fetching raises.
    """
    below = next(platform for platform in base.platforms if platform.platform == layer.platform)
    at = Reference.parse(base.reference)
    content = upstream.registry(at.host).read_blob(at.repository, below.config.digest)
    made_of = ", ".join(f"{wheel.name} {wheel.version}" for wheel in wheels_of(locked, layer.platform))
    return described(OCI_CONFIG, derived_config(content, layer.digest, made_of))


def manifest_of(platform: LockedPlatform) -> Descriptor:
    """The descriptor of a platform's manifest."""
    return Descriptor(platform.media_type, platform.digest, platform.size)

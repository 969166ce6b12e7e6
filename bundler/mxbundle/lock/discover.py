"""Which images and CRDs the stack needs: every release rendered for every profile, nothing taken on trust.

No network. An image that no value, override or table would rewrite for a site is an error here, not there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mxbundle.lock.materials import Materials
from sitebundle.crds import canonical, served_versions, split_crds
from sitebundle.digest import Digest
from sitebundle.errors import OperandUnnamed, RenderFailed, StackInvalid
from sitebundle.helm import Helm
from sitebundle.mentions import mentions
from sitebundle.operands import Operands
from sitebundle.podspecs import ImageUse, Object, image_uses, unnamed_defaults
from sitebundle.rendering import Sources, render, values_for
from sitebundle.stack import Release, Stack

KUBE_VERSION = "1.36.0"
"""Of the newest Kubernetes that the stack is tested with."""
LOCK_SITE = "lock-site.yaml"
_SITE_MARK = "registry.site.invalid/mx/"
"""Stands before every reference that is rewritten, so that one which is not shows."""


@dataclass(frozen=True)
class FoundCrd:
    """A CustomResourceDefinition as `content`, its canonical text; `source` is the chart or the URL it came in."""

    name: str
    group: str
    kind: str
    versions: tuple[str, ...]
    source: str
    content: bytes

    @property
    def digest(self) -> Digest:
        """The digest of the canonical text."""
        return Digest.of(self.content)


@dataclass(frozen=True)
class Discovery:
    """What rendering found; each use once, in the order of profiles and releases."""

    uses: tuple[ImageUse, ...]
    crds: tuple[FoundCrd, ...]


def discover(
    stack: Stack,
    manifests: Path,
    materials: Materials,
    profiles: Iterable[str],
    helm: Helm,
    operands: Operands,
    kube_version: str = KUBE_VERSION,
) -> Discovery:
    """Render every release of every profile. Raises RenderFailed, OperandUnnamed, StackInvalid."""
    uses: dict[ImageUse, None] = {}
    crds: dict[str, FoundCrd] = {}
    site = _site(manifests)
    with materials.laid_out() as sources:
        for profile in profiles:
            everything: list[Object] = []
            for release in stack.of_profile(profile):
                objects = _rendered(stack, release, profile, manifests, sources, site, helm, operands, kube_version)
                definitions, rest = split_crds(objects)
                _collect_crds(definitions, release.name, _source(release, materials), crds)
                _require_covered(rest, release.name, operands)
                uses |= dict.fromkeys(_unmarked(use) for use in image_uses(rest, release.name, operands))
                everything += rest
            _require_named(everything, operands)
    return Discovery(tuple(uses), tuple(crds[name] for name in sorted(crds)))


def _rendered(
    stack: Stack,
    release: Release,
    profile: str,
    manifests: Path,
    sources: Sources,
    site: dict[str, Any],
    helm: Helm,
    operands: Operands,
    kube_version: str,
) -> list[Object]:
    values = values_for(stack, release, profile, manifests, _marked, site)

    def once() -> list[Object]:
        return render(stack, release, sources, values, helm, kube_version, _marked, operands)

    objects = once()
    if release.chart is not None and (again := once()) != objects:
        differing = next(
            (f"{a['kind']}/{a['metadata']['name']}" for a, b in zip(objects, again, strict=False) if a != b), "its list"
        )
        raise RenderFailed(
            release=release.name,
            detail=f"{differing} is something else each time; a site could never say that nothing changed "
            "(rand*, genCA, now and lookup have no place in a chart)",
        )
    return objects


def _marked(reference: str) -> str:
    return _SITE_MARK + reference


def _unmarked(use: ImageUse) -> ImageUse:
    if not use.reference.startswith(_SITE_MARK):
        raise RenderFailed(
            release=use.release,
            detail=f"{use.object} names {use.reference} in {use.field}, and nothing would rewrite it for a site; "
            "lead the release's `images` to that value",
        )
    return ImageUse(use.reference.removeprefix(_SITE_MARK), use.release, use.object, use.field)


def _collect_crds(definitions: Iterable[Object], release: str, source: str, found: dict[str, FoundCrd]) -> None:
    for crd in definitions:
        name, spec = str(crd["metadata"]["name"]), crd["spec"]
        entry = FoundCrd(
            name=name,
            group=str(spec["group"]),
            kind=str(spec["names"]["kind"]),
            versions=served_versions(crd),
            source=source,
            content=canonical(crd),
        )
        if name in found and found[name].content != entry.content:
            detail = f"CRD {name} also comes with {found[name].source}, and the two differ"
            raise RenderFailed(release=release, detail=detail)
        found.setdefault(name, entry)


def _require_covered(objects: list[Object], release: str, operands: Operands) -> None:
    for mention in mentions(objects, release, operands):
        if not mention.reference.startswith(_SITE_MARK):
            raise RenderFailed(
                release=release,
                detail=f"{mention.object} mentions {mention.reference} in {mention.field}, which looks like an image; "
                "name the field in manifests/operands/, or list the text there as ignored, with the reason",
            )


def _require_named(objects: list[Object], operands: Operands) -> None:
    for unnamed in unnamed_defaults(objects, operands):
        raise OperandUnnamed(
            object=unnamed.object,
            env=unnamed.default.env,
            default=unnamed.default.default,
            used_by=unnamed.used_by,
        )


def _source(release: Release, materials: Materials) -> str:
    if release.manifest is not None:
        return release.manifest
    chart = materials.charts[release.name]
    return f"{chart.name}-{chart.version} ({chart.source})"


def _site(manifests: Path) -> dict[str, Any]:
    path = manifests / "profiles" / LOCK_SITE
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as fault:
        raise StackInvalid(path=path, detail=str(fault)) from fault
    if not isinstance(content, dict):
        raise StackInvalid(path=path, detail="a mapping is expected: the spec of a site.yaml")
    return content

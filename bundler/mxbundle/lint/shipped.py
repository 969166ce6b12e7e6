"""Subjects from the stack itself: every release of a profile rendered as an install would, and again to compare.

The materials are those of the lock. References are made as a site would name them; digests come from the lock where
one is given, else they are made up.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from mxbundle.derive.recipe import read_recipes
from mxbundle.lint.given import Text, read_objects
from mxbundle.lint.subject import Definition, Item, Nodes, Renders, Subject, read_nodes
from mxbundle.lock.charts import PackedChart
from mxbundle.lock.contracts import Contracts
from mxbundle.lock.discover import KUBE_VERSION, LOCK_SITE
from mxbundle.lock.materials import Materials, fetch_materials
from mxbundle.lock.model import Lock
from sitebundle.crds import split_crds
from sitebundle.digest import Digest
from sitebundle.errors import StackInvalid
from sitebundle.events import Sink, stage
from sitebundle.helm import Helm
from sitebundle.oci.upstream import Upstream
from sitebundle.operands import Operands, read_operands
from sitebundle.reference import Reference, site_reference
from sitebundle.rendering import Sources, merged, render, values_for
from sitebundle.stack import Release, Stack, read_stack

PULL_SECRET = "site-registry"
_OTHER_VERSION = "99.98.97"


@dataclass(frozen=True)
class Request:
    """What is to be linted; no `profiles` means all of the stack."""

    manifests: Path
    profiles: Sequence[str] = ()
    lock: Lock | None = None
    kube_version: str = KUBE_VERSION


@dataclass(frozen=True)
class Declared:
    """What the manifests say besides the releases: known for rendered stacks and for files of one profile alike."""

    stack: Stack
    operands: Operands
    contracts: Contracts
    site: Mapping[str, Any]

    @classmethod
    def read(cls, manifests: Path) -> Declared:
        """Read the stack, its operands and contracts, and the made-up site with a pull secret. Raises StackInvalid."""
        stack = read_stack(manifests / "stack.yaml")
        bases = {recipe.reference: recipe.base for recipe in read_recipes(manifests / "derived")}
        return cls(
            stack=stack,
            operands=read_operands(manifests / "operands"),
            contracts=Contracts.read(stack, manifests / "images", bases),
            site=_site(manifests),
        )

    @property
    def registry(self) -> str:
        """Registry and prefix of the made-up site."""
        registry = self.site["registry"]
        return "/".join(part for part in (str(registry["pull"]), str(registry.get("prefix", ""))) if part)

    def require_profiles(self, profiles: Sequence[str], manifests: Path) -> tuple[str, ...]:
        """The profiles asked for, or all. Raises StackInvalid for one that the stack lacks."""
        for profile in profiles:
            if profile not in self.stack.profiles:
                detail = f"there is no profile {profile}; the stack has {', '.join(self.stack.profiles)}"
                raise StackInvalid(path=manifests / "stack.yaml", detail=detail)
        return tuple(profiles) or self.stack.profiles


def shipped(request: Request, upstream: Upstream, helm: Helm, sink: Sink) -> list[Subject]:
    """One subject per profile. Raises LockError and TransportError."""
    declared = Declared.read(request.manifests)
    profiles = declared.require_profiles(request.profiles, request.manifests)
    with stage(sink, "materials", "Charts and published manifest files"):
        materials = fetch_materials(declared.stack, request.manifests, upstream)
    with stage(sink, "render", "Every release rendered for every profile, and again to compare"):
        return rendered(declared, request, profiles, materials, helm)


def rendered(
    declared: Declared, request: Request, profiles: Sequence[str], materials: Materials, helm: Helm
) -> list[Subject]:
    """The subjects, from materials that are there. Raises RenderFailed, StackInvalid."""
    image_of = partial(_site_name, declared, _locked_digests(request.lock))
    with TemporaryDirectory(prefix="mxbundle-lint-") as folder, materials.laid_out() as sources:
        charts = {name: _Chart.of(packed, Path(folder) / name) for name, packed in materials.charts.items()}
        published = {
            release.name: _published(release, declared, sources, helm, request.kube_version, image_of)
            for release in declared.stack.releases
            if release.manifest is not None
        }

        def of_chart(work: tuple[Release, str]) -> Renders:
            release, profile = work
            values = values_for(declared.stack, release, profile, request.manifests, image_of, declared.site)

            def once(chart: Path) -> str:
                return helm.template(chart, release.name, release.namespace, values, request.kube_version)

            chart = charts[release.name]
            path = sources.charts[release.name]
            return Renders(once(path), once(path), once(chart.other_version), chart.files, values)

        works = [
            (release, profile)
            for profile in profiles
            for release in declared.stack.of_profile(profile)
            if release.chart is not None
        ]
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 2) as pool:
            renders = dict(zip(works_keys(works), pool.map(of_chart, works), strict=True))
    return [_subject(declared, request, profile, published, renders) for profile in profiles]


def works_keys(works: Sequence[tuple[Release, str]]) -> list[tuple[str, str]]:
    """(release's name, profile) of each."""
    return [(release.name, profile) for release, profile in works]


def _subject(
    declared: Declared,
    request: Request,
    profile: str,
    published: Mapping[str, tuple[list[Item], list[Definition]]],
    renders: Mapping[tuple[str, str], Renders],
) -> Subject:
    items: list[Item] = []
    definitions: list[Definition] = []
    of_profile: dict[str, Renders] = {}
    for release in declared.stack.of_profile(profile):
        if release.chart is None:
            its_items, its_definitions = published[release.name]
        else:
            of_profile[release.name] = renders[release.name, profile]
            its_items, its_definitions = read_objects([Text(release.name, of_profile[release.name].first)])
        items += its_items
        definitions += its_definitions
    return Subject(
        items=tuple(items),
        operands=declared.operands,
        definitions=tuple(definitions),
        profile=profile,
        stack=declared.stack,
        nodes=nodes_of(request.manifests, profile),
        site=declared.site,
        pull_secret=PULL_SECRET,
        registry=declared.registry,
        contracts=declared.contracts,
        lock=request.lock,
        renders=of_profile,
    )


def nodes_of(manifests: Path, profile: str) -> Nodes | None:
    """What the profile says about nodes. Raises StackInvalid."""
    return read_nodes(manifests / "profiles" / f"{profile}.yaml")


@dataclass(frozen=True)
class _Chart:
    """A packed chart unpacked under another version, with the files that Helm would store."""

    other_version: Path
    files: Mapping[str, bytes]

    @classmethod
    def of(cls, packed: PackedChart, folder: Path) -> _Chart:
        with tarfile.open(fileobj=io.BytesIO(packed.content), mode="r:gz") as archive:
            archive.extractall(folder, filter="data")
        (top,) = folder.iterdir()
        files = {
            path.relative_to(top).as_posix(): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()
        }
        about = top / "Chart.yaml"
        text = about.read_text(encoding="utf-8")
        about.write_text(re.sub(r"(?m)^version:.*$", f"version: {_OTHER_VERSION}", text), encoding="utf-8")
        return cls(top, files)


def _published(
    release: Release,
    declared: Declared,
    sources: Sources,
    helm: Helm,
    kube_version: str,
    image_of: Callable[[str], str],
) -> tuple[list[Item], list[Definition]]:
    """A manifest release is the same in every profile."""
    objects = render(declared.stack, release, sources, {}, helm, kube_version, image_of, declared.operands, PULL_SECRET)
    crds, rest = split_crds(objects)
    definitions = [
        Definition(release.name, str(crd["spec"]["group"]), str(crd["spec"]["names"]["kind"])) for crd in crds
    ]
    return [Item(release.name, entry) for entry in rest], definitions


def _site_name(declared: Declared, digests: Mapping[str, Digest], reference: str) -> str:
    parsed = Reference.parse(reference)
    registry = declared.site["registry"]
    digest = digests.get(parsed.tagged, Digest.of(reference.encode()))
    return site_reference(parsed, digest, str(registry["pull"]), str(registry.get("prefix", "")))


def _locked_digests(lock: Lock | None) -> dict[str, Digest]:
    images = lock.images if lock is not None else ()
    return {Reference.parse(image.reference).tagged: image.digest for image in images}


def _site(manifests: Path) -> dict[str, Any]:
    path = manifests / "profiles" / LOCK_SITE
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as fault:
        raise StackInvalid(path=path, detail=str(fault)) from fault
    if not isinstance(content, dict):
        raise StackInvalid(path=path, detail="a mapping is expected: the spec of a site.yaml")
    made_up = {"registry": {"pull": "registry.example.site:5000", "prefix": "mx"}}
    return merged(merged(made_up, content), {"registry": {"pullSecret": PULL_SECRET}})

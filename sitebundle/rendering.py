"""From a release of the stack to the objects that would be applied: values merged, charts rendered, files rewritten.

Needs the helm binary for charts, nothing else from outside. What is then done with the objects is not its business.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sitebundle.errors import RenderFailed, StackInvalid
from sitebundle.helm import Helm
from sitebundle.operands import Operands
from sitebundle.pods_override import budget_of, override_pods
from sitebundle.podspecs import (
    ImageOf,
    Object,
    containers,
    flattened,
    pod_specs,
    rewrite_images,
)
from sitebundle.stack import ABSENT, Override, Release, Stack, look_up

__all__ = ["ImageOf", "Sources", "merged", "read_objects", "render", "rewrite_images", "values_for"]


@dataclass(frozen=True)
class Sources:
    """Where what the releases are made of lies on this host, by release: charts (folder or .tgz), manifest files."""

    charts: Mapping[str, Path] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` on top: mappings are merged at every depth, everything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = (
            merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else copy.deepcopy(value)
        )
    return result


def values_for(
    stack: Stack,
    release: Release,
    profile: str,
    folder: Path,
    image_of: ImageOf,
    site: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The values of one release: its files, then the profile's, then its images, then what site.yaml says.

    `folder` holds `values/` and `profiles/`. `site` is site.yaml's spec; a path that it lacks is left out.
    Raises StackInvalid.
    """
    values: dict[str, Any] = {}
    for name in release.values:
        values = merged(values, _mapping(folder / "values" / name))
    of_profile = _mapping(folder / "profiles" / f"{profile}.yaml").get(release.name) or {}
    values = merged(values, of_profile)
    for key, path in release.images.items():
        values = merged(values, _nested(path, image_of(stack.images[key])))
    for path, source in release.site.items():
        found = look_up(site or {}, source)
        if found is not ABSENT:
            values = merged(values, _nested(path, found))
    return values


def render(
    stack: Stack,
    release: Release,
    sources: Sources,
    values: Mapping[str, Any],
    helm: Helm,
    kube_version: str,
    image_of: ImageOf,
    operands: Operands,
    pull_secret: str | None = None,
) -> list[Object]:
    """Every object of a release, hooks and CRDs included, `List` kinds opened.

    A chart gets its images by `values` and is not touched afterwards. A published manifest file is rewritten by
    structure: without the objects that the release omits, `image_of` for every image, the overrides,
    `IfNotPresent`, and `pull_secret` in every pod.
    Raises RenderFailed.
    """
    if release.chart is not None:
        text = helm.template(sources.charts[release.name], release.name, release.namespace, values, kube_version)
        _require_no_templated_crd(text, release.name)
        return read_objects(text, release.name)
    objects = read_objects(sources.files[release.name].read_text(encoding="utf-8"), release.name)
    objects = _without_omitted(objects, release)
    objects = rewrite_images(objects, image_of, operands)
    objects = _overridden(objects, stack, release, image_of)
    for entry in objects:
        for pod, _ in pod_specs(entry):
            _prepare_pod(pod, pull_secret)
    return objects


def read_objects(text: str, release: str) -> list[Object]:
    """The Kubernetes objects of a stream of YAML documents. Raises RenderFailed."""
    try:
        objects = list(flattened(yaml.load_all(text, yaml.CSafeLoader)))
    except yaml.YAMLError as fault:
        raise RenderFailed(release=release, detail=f"not YAML: {' '.join(str(fault).split())}") from fault
    for entry in objects:
        if not entry.get("kind") or not entry.get("apiVersion") or not (entry.get("metadata") or {}).get("name"):
            raise RenderFailed(release=release, detail=f"not a Kubernetes object: {str(entry)[:100]}")
    return objects


_SOURCE = re.compile(r"^# Source: (.+)$", re.MULTILINE)
_CRD = re.compile(r"""^kind: *["']?CustomResourceDefinition\b""", re.MULTILINE)


def _require_no_templated_crd(text: str, release: str) -> None:
    """Helm leaves what is in `crds/` to us; what comes from a template is its own, and goes when the release goes."""
    parts = _SOURCE.split(text)
    for source, content in zip(parts[1::2], parts[2::2], strict=True):
        if "/templates/" in source and _CRD.search(content):
            detail = (
                f"{source} makes a CustomResourceDefinition, which would be deleted with the release, and everything "
                "of its kind with it; turn it off in the values, and bring the definition in crds/ or as a manifest"
            )
            raise RenderFailed(release=release, detail=detail)


def _without_omitted(objects: list[Object], release: Release) -> list[Object]:
    """Each omission must match: one that matches nothing would let the object come back under another name."""
    names = {f"{entry['kind']}/{entry['metadata']['name']}" for entry in objects}
    if missing := sorted(set(release.omit) - names):
        raise RenderFailed(release=release.name, detail=f"omit {missing[0]}: the manifest has no such object")
    return [entry for entry in objects if f"{entry['kind']}/{entry['metadata']['name']}" not in release.omit]


def _overridden(objects: list[Object], stack: Stack, release: Release, image_of: ImageOf) -> list[Object]:
    """The objects with what the release's overrides say. Each must match, as an omission must."""
    for override in release.overrides:
        targets = [entry for entry in objects if f"{entry['kind']}/{entry['metadata']['name']}" == override.object]
        if not targets:
            detail = f"override of {override.object}: the manifest has no such object"
            raise RenderFailed(release=release.name, detail=detail)
        if override.of_pods:
            for deployment in targets:
                override_pods(deployment, override)
            objects += [budget for deployment in targets if (budget := budget_of(deployment, override))]
        else:
            _set_variable(targets, stack, release, override, image_of)
    return objects


def _set_variable(
    targets: Iterable[Object], stack: Stack, release: Release, override: Override, image_of: ImageOf
) -> None:
    found = [
        container
        for entry in targets
        for pod, _ in pod_specs(entry)
        for container, _ in containers(pod)
        if container.get("name") == override.container
    ]
    if not found:
        raise RenderFailed(
            release=release.name,
            detail=f"override {override.env}: there is no container {override.container} in {override.object}",
        )
    assert override.image is not None
    for container in found:
        wanted = {"name": override.env, "value": image_of(stack.images[override.image])}
        variables = [wanted if v.get("name") == override.env else v for v in container.get("env") or ()]
        container["env"] = variables if wanted in variables else [*variables, wanted]


def _prepare_pod(pod: Object, pull_secret: str | None) -> None:
    for container, _ in containers(pod):
        if container.get("image"):
            # References carry digests: asking the registry again could only fail.
            container["imagePullPolicy"] = "IfNotPresent"
    if pull_secret is not None:
        named = [entry for entry in pod.get("imagePullSecrets") or () if entry.get("name") != pull_secret]
        pod["imagePullSecrets"] = [*named, {"name": pull_secret}]


def _mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    except (OSError, yaml.YAMLError) as fault:
        raise StackInvalid(path=path, detail=str(fault)) from fault
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise StackInvalid(path=path, detail="a mapping is expected")
    return content


def _nested(path: str, value: Any) -> dict[str, Any]:
    for part in reversed(path.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value

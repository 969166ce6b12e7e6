"""Every place where an object names an image: PodSpecs by structure, custom resources by table, operators' variables.

Pure: objects in, places out. What a reference means, and whether it may stay, is decided elsewhere.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sitebundle.operands import Default, Operands, Operator, UsedBy
from sitebundle.reference import Reference

CONTAINER_LISTS = ("initContainers", "containers", "ephemeralContainers")
IMAGE_VARIABLE = re.compile(r"(?:^|_)IMAGE(?:_NAME)?$|^RELATED_IMAGE_")
"""Variables that tell an operator what to run: OPERATOR_IMAGE_NAME, OPERATOR_SIDECAR_IMAGE, RELATED_IMAGE_X."""

ImageOf = Callable[[str], str]
Object = dict[str, Any]


@dataclass(frozen=True)
class ImageUse:
    """One use of an image: `object` is `Kind/namespace/name`, `field` like `spec.containers[0].image`."""

    reference: str
    release: str
    object: str
    field: str

    def __str__(self) -> str:
        return f"{self.release} {self.object} {self.field}"


@dataclass(frozen=True)
class UnnamedDefault:
    """An image compiled into an operator that would be used, because nothing names it."""

    operator: str
    object: str
    default: Default
    used_by: str


@dataclass(frozen=True)
class _Place:
    holder: Any
    key: Any
    field: str

    @property
    def value(self) -> str:
        found: str = self.holder[self.key]
        return found


def flattened(objects: Iterable[Any]) -> Iterator[Object]:
    """The objects themselves: `List` kinds opened, empty documents dropped."""
    for entry in objects:
        if not isinstance(entry, dict) or not entry:
            continue
        if str(entry.get("kind", "")).endswith("List") and isinstance(entry.get("items"), list):
            yield from flattened(entry["items"])
        else:
            yield entry


def name_of_object(entry: Object) -> str:
    """`Kind/namespace/name`; without a namespace `Kind/name`."""
    metadata = entry.get("metadata") or {}
    parts = (entry.get("kind"), metadata.get("namespace"), metadata.get("name"))
    return "/".join(str(part) for part in parts if part)


def image_uses(objects: Iterable[Any], release: str, operands: Operands) -> list[ImageUse]:
    """Every image that the objects of `release` name, in the order of the objects."""
    return [
        ImageUse(place.value, release, name_of_object(entry), place.field)
        for entry in flattened(objects)
        for place in _places(entry, operands)
    ]


def rewrite_images(objects: Iterable[Any], image_of: ImageOf, operands: Operands) -> list[Object]:
    """Copies of the objects in which every image is what `image_of` makes of it; `List` kinds opened."""
    copies = copy.deepcopy(list(flattened(objects)))
    for entry in copies:
        for place in _places(entry, operands):
            place.holder[place.key] = image_of(place.value)
    return copies


def pod_specs(entry: Object) -> Iterator[tuple[Object, str]]:
    """Every PodSpec inside an object, with its path: whatever the kind, custom resources' templates included."""
    if entry.get("kind") != "CustomResourceDefinition":
        yield from _pod_specs(entry, "")


def containers(pod: Object) -> Iterator[tuple[Object, str]]:
    """The containers of a PodSpec, init and ephemeral ones included, with their path inside it."""
    for key in CONTAINER_LISTS:
        for index, container in enumerate(pod.get(key) or ()):
            if isinstance(container, dict):
                yield container, f"{key}[{index}]"


def unnamed_defaults(objects: Iterable[Any], operands: Operands) -> list[UnnamedDefault]:
    """What operators among `objects` would run by a compiled-in default, for nothing else names it.

    A default is named by its variable on the operator's container, or by a field of each resource that needs it.
    """
    entries = list(flattened(objects))
    return [
        UnnamedDefault(operator.repository, name_of_object(entry), default, needed)
        for entry in entries
        for pod, _ in pod_specs(entry)
        for container, _ in containers(pod)
        for operator in _operators_of(container, operands)
        for default in operator.defaults
        if not any(variable.get("name") == default.env for variable in container.get("env") or ())
        and (needed := _needed_by(default, entries)) is not None
    ]


def _operators_of(container: Object, operands: Operands) -> Iterator[Operator]:
    try:
        reference = Reference.parse(str(container.get("image")))
    except ValueError:
        return
    # At a site the upstream name is the end of the name: REGISTRY/PREFIX/ghcr.io/a/b.
    yield from (o for o in operands.operators if f"/{reference.name}".endswith(f"/{o.repository}"))


def _needed_by(default: Default, entries: Iterable[Object]) -> str | None:
    if not isinstance(default.used_by, UsedBy):
        return "every pod that it makes"
    wanted = default.used_by
    for entry in entries:
        group = str(entry.get("apiVersion", "")).rpartition("/")[0]
        if (group, entry.get("kind")) == (wanted.group, wanted.kind) and not any(
            _at(entry, path.split(".")) for path in wanted.unless
        ):
            return name_of_object(entry)
    return None


def _at(entry: Any, path: list[str]) -> Any:
    for part in path:
        entry = entry.get(part) if isinstance(entry, dict) else None
    return entry


def _places(entry: Object, operands: Operands) -> Iterator[_Place]:
    for pod, path in pod_specs(entry):
        for container, inside in containers(pod):
            if container.get("image"):
                yield _Place(container, "image", f"{path}.{inside}.image")
            for index, variable in enumerate(container.get("env") or ()):
                if _names_an_image(variable):
                    yield _Place(variable, "value", f"{path}.{inside}.env[{index}].value")
        for index, volume in enumerate(pod.get("volumes") or ()):
            source = volume.get("image") if isinstance(volume, dict) else None
            if isinstance(source, dict) and source.get("reference"):
                yield _Place(source, "reference", f"{path}.volumes[{index}].image.reference")
    for field in operands.fields_of(str(entry.get("apiVersion", "")), str(entry.get("kind", ""))):
        yield from _fields(entry, field.path.split("."), "")


def _names_an_image(variable: Any) -> bool:
    if not isinstance(variable, dict) or not IMAGE_VARIABLE.search(str(variable.get("name", ""))):
        return False
    value = variable.get("value")
    if not isinstance(value, str) or not set("/:") & set(value):
        return False
    try:
        Reference.parse(value)
    except ValueError:
        return False
    return True


def _pod_specs(node: Any, path: str) -> Iterator[tuple[Object, str]]:
    if isinstance(node, dict):
        listed = node.get("containers")
        if isinstance(listed, list) and all(isinstance(item, dict) and "name" in item for item in listed) and listed:
            yield node, path
            return
        for key, child in node.items():
            yield from _pod_specs(child, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from _pod_specs(child, f"{path}[{index}]")


def _fields(node: Any, path: list[str], seen: str) -> Iterator[_Place]:
    if not isinstance(node, dict):
        return
    key, _, many = path[0].partition("[")
    child, here = node.get(key), f"{seen}.{key}" if seen else key
    if child is None:
        return
    if many:
        for index, item in enumerate(child if isinstance(child, list) else ()):
            if len(path) > 1:
                yield from _fields(item, path[1:], f"{here}[{index}]")
            elif isinstance(item, str) and item:
                yield _Place(child, index, f"{here}[{index}]")
    elif len(path) > 1:
        yield from _fields(child, path[1:], here)
    elif isinstance(child, str) and child:
        yield _Place(node, key, here)

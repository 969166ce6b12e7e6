"""`manifests/operands/*.yaml`: where custom resources name images, and what operators have compiled in.

Data and its reading; walking objects with it is `podspecs`. Format: docs/reference/operands-format.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError

from sitebundle.errors import StackInvalid
from sitebundle.manifest import Value


class ImageField(Value):
    """One field of a custom resource that holds an image reference; `path` as `spec.images[].image`."""

    group: str
    kind: str
    path: str


class UsedBy(Value):
    """The custom resources for which an operator needs a default, unless one of the fields in `unless` is set."""

    group: str
    kind: str
    unless: tuple[str, ...]


class Default(Value):
    """An image that is compiled into an operator: what it is, which variable replaces it, and when it is used.

    `source`: the line of the operator's code that says so.
    """

    env: str
    default: str
    used_by: UsedBy | Literal["always"]
    source: str


class Operator(Value):
    """An operator, known by the repository of its own image; `versions` are the ones whose code was read."""

    repository: str
    versions: tuple[str, ...]
    defaults: tuple[Default, ...]


class Spread(Value):
    """The field that says whether two pods may share a node, and its value when they must not."""

    path: str
    hard: str


class PodsOf(Value):
    """A custom resource that an operator makes pods of, and the fields that decide about them.

    labels: of the pods; `{path}` is a field of the resource, `*` any value. template: where it may carry a PodSpec.
    strategy: the field of a Deployment's update strategy, where they are of a Deployment.
    budgets: the field that turns the operator's own disruption budgets off; None where it makes none.
    secrets: paths that name Secrets of the same namespace.
    """

    group: str
    kind: str
    replicas: str
    labels: dict[str, str]
    pull_secrets: str = Field(alias="pullSecrets")
    pull_policy: str | None = Field(default=None, alias="pullPolicy")
    template: str | None = None
    strategy: str | None = None
    budgets: str | None = None
    spread: Spread | None = None
    secrets: tuple[str, ...] = ()


class Ignored(Value):
    """Text that looks like an image reference and is none that anything would pull."""

    text: str
    reason: str


class Catalogue(Value):
    """One file of the folder."""

    fields: tuple[ImageField, ...] = ()
    operators: tuple[Operator, ...] = ()
    pods: tuple[PodsOf, ...] = ()
    ignored: tuple[Ignored, ...] = ()


class Operands(Value):
    """All files of the folder together."""

    fields: tuple[ImageField, ...]
    operators: tuple[Operator, ...]
    ignored: tuple[Ignored, ...] = ()
    pods: tuple[PodsOf, ...] = ()

    @property
    def ignored_texts(self) -> frozenset[str]:
        """The texts that are ignored."""
        return frozenset(entry.text for entry in self.ignored)

    def fields_of(self, api_version: str, kind: str) -> tuple[ImageField, ...]:
        """The image fields of one kind, whatever its version."""
        group = api_version.rpartition("/")[0]
        return tuple(field for field in self.fields if (field.group, field.kind) == (group, kind))

    def pods_of(self, group: str, kind: str) -> PodsOf | None:
        """How resources of one kind become pods; None for a kind that nothing is known about."""
        return next((entry for entry in self.pods if (entry.group, entry.kind) == (group, kind)), None)


def read_operands(folder: Path) -> Operands:
    """Read every `*.yaml` of `folder`. Raises StackInvalid, also for an empty folder: nothing would be found then."""
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise StackInvalid(path=folder, detail="no table of operands (*.yaml) in this folder")
    catalogues = [_read(path) for path in paths]
    return Operands(
        fields=tuple(field for catalogue in catalogues for field in catalogue.fields),
        operators=tuple(operator for catalogue in catalogues for operator in catalogue.operators),
        ignored=tuple(entry for catalogue in catalogues for entry in catalogue.ignored),
        pods=tuple(entry for catalogue in catalogues for entry in catalogue.pods),
    )


def _read(path: Path) -> Catalogue:
    try:
        return Catalogue.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as fault:
        raise StackInvalid(path=path, detail=str(fault)) from fault
    except ValidationError as fault:
        first = fault.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StackInvalid(path=path, detail=f"{place}: {first['msg']}") from fault

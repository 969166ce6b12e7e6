"""`manifests/operands/*.yaml`: where custom resources name images, and what operators have compiled in.

Data and its reading; walking objects with it is `podspecs`. Format: docs/reference/operands-format.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import ValidationError

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


class Ignored(Value):
    """Text that looks like an image reference and is none that anything would pull."""

    text: str
    reason: str


class Catalogue(Value):
    """One file of the folder."""

    fields: tuple[ImageField, ...] = ()
    operators: tuple[Operator, ...] = ()
    ignored: tuple[Ignored, ...] = ()


class Operands(Value):
    """All files of the folder together."""

    fields: tuple[ImageField, ...]
    operators: tuple[Operator, ...]
    ignored: tuple[Ignored, ...] = ()

    @property
    def ignored_texts(self) -> frozenset[str]:
        """The texts that are ignored."""
        return frozenset(entry.text for entry in self.ignored)

    def fields_of(self, api_version: str, kind: str) -> tuple[ImageField, ...]:
        """The image fields of one kind, whatever its version."""
        group = api_version.rpartition("/")[0]
        return tuple(field for field in self.fields if (field.group, field.kind) == (group, kind))


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

"""The fields of `site.yaml` as a person meets them: path, meaning, default. Read off the model; nothing is told twice.

Not here: values, or what is wrong with one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mxinstall.site.model import Site

PathParts = Sequence[str | int]


@dataclass(frozen=True)
class Leaf:
    """A field that holds a value of its own. `default` is a plain value, None also where there is none."""

    path: str
    meaning: str
    required: bool
    default: Any
    field: FieldInfo


def leaves(model: type[BaseModel] = Site, prefix: str = "", outer: BaseModel | None = None) -> Iterator[Leaf]:
    """Every leaf in the order of the file. `outer`: the default of the part of the file that `model` stands in."""
    for name, field in model.model_fields.items():
        path = prefix + spelling(name, field)
        inner = model_in(field.annotation)
        default = getattr(outer, name) if outer is not None else None if field.is_required() else _default(field)
        if inner is not None:
            yield from leaves(inner, f"{path}.", default if isinstance(default, BaseModel) else None)
            continue
        required = field.is_required() and outer is None
        yield Leaf(path, meaning(field), required, _plain(default), field)


def spelling(name: str, field: FieldInfo) -> str:
    """How the file spells a field."""
    return field.alias or name


def meaning(field: FieldInfo) -> str:
    """What a field is for, as one line."""
    return " ".join((field.description or "").split())


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model of a field: itself, or the one inside `Model | None`."""
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def model_at(path: PathParts) -> type[BaseModel] | None:
    """The model whose fields stand below `path`; None where there is none, or where names are free."""
    model: type[BaseModel] = Site
    for part in path:
        inner = model_in(known_fields(model).get(str(part)))
        if inner is None:
            return None
        model = inner
    return model


def known_fields(model: type[BaseModel]) -> dict[str, Any]:
    """Spelling → annotation."""
    return {spelling(name, field): field.annotation for name, field in model.model_fields.items()}


def meaning_of(path: str) -> str:
    """What the leaf at a dotted path is for; empty where there is none."""
    return next((leaf.meaning for leaf in leaves() if leaf.path == path), "")


def plain_text(markdown: str) -> str:
    """Without links, for places that show none."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown)


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value

"""A `site.yaml` as text that explains itself: above each field what it is for, and where its value came from.

What is not set stands as a comment, so that every field can be found. Not here: choosing values, writing files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from mxinstall.site.fields import meaning, model_in, plain_text, spelling
from mxinstall.site.model import Site
from mxinstall.site.schema import FILE as SCHEMA_FILE

_DEFAULT = "the default"
_LONGEST = 140


def commented(site: Site, origins: Mapping[str, str], notes: Sequence[str] = ()) -> str:
    """The file. `origins`: dotted path → where the value came from; a path without one has its default."""
    head = [
        f"# yaml-language-server: $schema={SCHEMA_FILE}",
        "# site.yaml: this site's answers. Edit it freely; mxinstall reads it and never rewrites it.",
        "# Above each field: what it is for, and in brackets where its value came from. Check it: mxinstall site check",
        *(f"# {note}" for note in notes),
    ]
    return "\n".join([*head, *_part(Site, site.as_mapping(), origins, "", 0)]) + "\n"


def _part(
    model: type[BaseModel], values: Mapping[str, Any], origins: Mapping[str, str], prefix: str, depth: int
) -> Iterator[str]:
    indent = "  " * depth
    for name, field in model.model_fields.items():
        key = spelling(name, field)
        path = f"{prefix}{key}"
        inner = model_in(field.annotation)
        if (not values.get(key, {}) and inner is not None) or key not in values:
            yield f"{indent}# {_brief(meaning(field))} [not set]"
            yield f"{indent}# {key}:"
            yield from (f"{indent}#   {line}" for line in _template(inner))
        elif inner is not None:
            if depth == 1:
                yield ""
            yield f"{indent}{key}:"
            yield from _part(inner, values[key], origins, f"{path}.", depth + 1)
        else:
            if depth:
                yield f"{indent}# {_brief(meaning(field))} [{_origin(origins, path)}]"
            yield from (f"{indent}{line}" for line in _value(key, values[key]))


def _template(model: type[BaseModel] | None) -> Iterator[str]:
    """The fields of a part that is not there, to be filled in."""
    for name, field in model.model_fields.items() if model else ():
        yield f"# {_brief(meaning(field))}"
        yield f"{spelling(name, field)}:"
        yield from (f"  {line}" for line in _template(model_in(field.annotation)))


def _value(key: str, value: Any) -> list[str]:
    """`key: value`: a list on the same line, a mapping with contents below its key."""
    if isinstance(value, list) or value == {}:
        return [f"{key}: {yaml.safe_dump(value, allow_unicode=True, default_flow_style=True, width=10_000).strip()}"]
    text = yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, default_flow_style=False)
    return text.rstrip("\n").splitlines()


def _brief(text: str) -> str:
    """As many whole sentences as fit on a line, and at least the first one."""
    sentences = re.split(r"(?<=[.;]) ", plain_text(text))
    brief = sentences[0]
    for sentence in sentences[1:]:
        if len(brief) + len(sentence) >= _LONGEST:
            break
        brief += f" {sentence}"
    return brief.rstrip(".;") + "."


def _origin(origins: Mapping[str, str], path: str) -> str:
    while path:
        if path in origins:
            return origins[path]
        path = path.rpartition(".")[0]
    return _DEFAULT

"""Reading and writing `site.yaml`, and where this host keeps a site's state.

A given `site.yaml` is never rewritten. Faults name the field, its line and column, and a near match.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mxinstall.site.model import KEPT, Site
from sitebundle.atomic import create_durably
from sitebundle.errors import SiteInvalid

FILE = "site.yaml"
_PathParts = tuple[str | int, ...]


def state_root() -> Path:
    """Where this host keeps what it knows about sites: `$MXINSTALL_STATE`, or /var/lib/mxinstall."""
    return Path(os.environ.get("MXINSTALL_STATE") or "/var/lib/mxinstall")


def state_directory(name: str) -> Path:
    """The state directory of site `name`, made when missing, for this user only."""
    directory = state_root() / name
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory


def known_site(path: Path | None) -> Site:
    """The site in `path`; without one, the only site that this host keeps. Raises SiteInvalid."""
    if path is not None:
        return read_site(path)
    kept = sorted(state_root().glob(f"*/{FILE}"))
    if len(kept) != 1:
        names = ", ".join(place.parent.name for place in kept) or "none"
        raise SiteInvalid(path=state_root(), detail=f"this host keeps {len(kept)} sites ({names}): say --site FILE")
    return read_site(kept[0], kept=True)


def read_site(path: Path, *, kept: bool = False) -> Site:
    """Read and check a `site.yaml`; with `kept` as that of a system that was installed, not of one that is to be.

    Raises SiteInvalid with field, line and column of the first fault.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, ValueError) as fault:
        raise SiteInvalid(path=path, detail=str(fault)) from fault
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise SiteInvalid(path=path, detail=f"{place}{fault.problem or fault.context}") from fault
    except yaml.YAMLError as fault:
        raise SiteInvalid(path=path, detail=str(fault)) from fault
    if not isinstance(content, dict):
        raise SiteInvalid(path=path, detail="line 1, column 1: this is not a mapping with apiVersion, kind and spec")
    repeated = _repeated_key(tree)
    if repeated:
        raise SiteInvalid(path=path, detail=repeated)
    try:
        return Site.model_validate(content, context=KEPT if kept else None)
    except ValidationError as fault:
        first = min(fault.errors(), key=lambda error: error["type"] != "extra_forbidden")
        raise SiteInvalid(path=path, detail=_explain(first, tree)) from fault


def write_site(site: Site, notes: Iterable[str], path: Path) -> None:
    """Write `site` to `path` with `notes` as comments. Raises FileExistsError when there is such a file."""
    lines = ["# site.yaml: this site's answers. Edit it freely; mxinstall reads it and never rewrites it.", "#"]
    lines += [f"# - {note}" for note in notes]
    body = yaml.safe_dump(site.as_mapping(), sort_keys=False, allow_unicode=True)
    create_durably(path, ("\n".join(lines) + "\n" + body).encode())


def _explain(error: ErrorDetails, tree: yaml.Node | None) -> str:
    location: _PathParts = tuple(error["loc"])
    mark = _place(tree, location)
    place = f"line {mark[0]}, column {mark[1]}: " if mark else ""
    field = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        return f"{place}{field} is not a field of site.yaml{_near(location)}"
    if error["type"] == "missing":
        return f"{place}{field} is missing"
    if error["type"] == "string_pattern_mismatch":
        return f"{place}{field}: {str(error['input'])[:80]!r} is not written as this field wants it"
    message = re.sub(r"^Value error, ", "", error["msg"])
    message = message[:1].lower() + message[1:]
    return f"{place}{field}: {message}, seen {str(error['input'])[:80]!r}"


def _near(location: _PathParts) -> str:
    model = _model_at(location[:-1])
    if model is None:
        return ""
    known = [field.alias or name for name, field in model.model_fields.items()]
    close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}"


def _model_at(location: _PathParts) -> type[BaseModel] | None:
    model: type[BaseModel] = Site
    for part in location:
        fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
        inner = _model_in(fields.get(str(part)))
        if inner is None:
            return None
        model = inner
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model of a field: itself, or the one inside `Model | None`."""
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _place(tree: yaml.Node | None, location: _PathParts) -> tuple[int, int] | None:
    """Line and column, from 1, of the deepest part of `location` that the file has."""
    node, mark = tree, tree.start_mark if tree else None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                break
            mark, node = found[0].start_mark, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            mark = node.start_mark
        else:
            break
    return (mark.line + 1, mark.column + 1) if mark else None


def _repeated_key(node: yaml.Node | None) -> str | None:
    """YAML lets the last of two equal keys win in silence; an operator would not see which one counts."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                return f"line {key.start_mark.line + 1}, column {key.start_mark.column + 1}: {key.value} is given twice"
            seen.add(key.value)
            inner = _repeated_key(value)
            if inner:
                return inner
    if isinstance(node, yaml.SequenceNode):
        return next((found for item in node.value if (found := _repeated_key(item))), None)
    return None

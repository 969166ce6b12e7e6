"""From plain values to a Site, or to every fault in them: field, what was seen, what to do, with near misses.

Pure. Not here: reading files (`files`), YAML (`source`), values against each other (`agreement`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mxinstall.site.faults import Fault
from mxinstall.site.fields import leaves, meaning, model_at, plain_text, spelling
from mxinstall.site.model import HOW_WRITTEN, KEPT, PORT_RANGE, Site
from mxinstall.site.source import PathParts, Source, as_read, dotted

_LONGEST_SEEN = 80
_ENVELOPE = {
    "apiVersion": "this program reads mxbundle.io/v1alpha1; another one needs another mxinstall",
    "kind": "write `kind: Site`",
}
_BUILT = {"spec.tls.issuer": "'generated'"}
"""Where the model knows choices that are refused."""
_NO_NUMBER = ("no whole number", "write the number alone, without quotes")
_NO_PORT = ("no port: ports are 1 to 65535", "choose another one")
_NO_BOOLEAN = ("neither true nor false", "write true or false")
_IN_WORDS = {
    "int_parsing": _NO_NUMBER,
    "int_type": _NO_NUMBER,
    "int_from_float": _NO_NUMBER,
    "bool_parsing": _NO_BOOLEAN,
    "bool_type": _NO_BOOLEAN,
    # Ports are the only numbers of site.yaml.
    "greater_than_equal": _NO_PORT,
    "less_than_equal": _NO_PORT,
    "string_type": ("no text", "write one value here, in quotes where it looks like a number"),
}
_ADVICE = {
    "host bits": "write the first address of the range, or /32 (/128) for one address",
    "range": f"wanted: {HOW_WRITTEN[PORT_RANGE]}",
    "not built yet": "take the line away",
    "at most": "write a shorter one",
    "at least": "name at least one",
}
"""By a part of the model's message."""


def site_from(source: Source, *, kept: bool) -> tuple[Site | None, list[Fault]]:
    """The site, or what keeps the values from being one. `kept`: that of a system that was installed once."""
    try:
        return Site.model_validate(source.content, context=KEPT if kept else None), []
    except ValidationError as problem:
        return None, list(_explained(problem.errors(), source))


def _explained(errors: Iterable[ErrorDetails], source: Source) -> Iterator[Fault]:
    found = list(errors)
    # A misspelt field is one fault, and not also the absence of the field that was meant.
    meant = {
        (*path[:-1], _close(path)) for error in found if error["type"] == "extra_forbidden" for path in [error["loc"]]
    }
    for error in found:
        path: PathParts = tuple(error["loc"])
        kind = error["type"]
        if kind == "invalid_key" or (kind == "missing" and path in meant):
            continue  # a name that is no text is told as YAML's own
        if kind == "extra_forbidden":
            yield _fault("field.unknown", path, "is not a field of site.yaml", _near(path), source.place(path))
        elif kind == "missing":
            yield _fault("field.missing", path, "is missing", _wanted_there(path), source.place(path[:-1]))
        else:
            seen, todo = _about_value(error, path, source)
            yield _fault("value", path, seen, todo, source.place(path, of_value=True))


def _fault(identity: str, path: PathParts, seen: str, todo: str, place: tuple[int, int]) -> Fault:
    return Fault(identity, dotted(path), seen, todo, *place)


def _about_value(error: ErrorDetails, path: PathParts, source: Source) -> tuple[str, str]:
    given = error["input"]
    if dotted(path) in _ENVELOPE:
        return f"{_shown(given)} is not known here", _ENVELOPE[dotted(path)]
    inner = model_at(path)
    names = f": {', '.join(spelling(name, field) for name, field in inner.model_fields.items())}" if inner else ""
    if given is None:
        todo = "give a value, or take the line away where the field has a default"
        return "nothing stands here", f"its fields belong below it{names}" if names else todo
    scalar = source.scalar(path)
    if error["type"] == "string_type" and scalar is not None and as_read(scalar):
        return f"YAML does not read {scalar.value} as a text{as_read(scalar)}", f'write "{scalar.value}" in quotes'
    context = error.get("ctx") or {}
    if error["type"] == "string_pattern_mismatch":
        wanted = HOW_WRITTEN.get(str(context.get("pattern")), "")
        return f"{_shown(given)} is not written as this field wants it", f"wanted: {wanted}" if wanted else ""
    if error["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'|([0-9]+)", str(context.get("expected", "")))
        words = ["".join(choice) for choice in choices]
        close = difflib.get_close_matches(str(given), words, n=1, cutoff=0.6)
        expected = _BUILT.get(dotted(path), context.get("expected"))
        todo = f"did you mean {close[0]}? " if close else ""
        return f"{_shown(given)} is not known here", f"{todo}wanted: {expected}"
    message = re.sub(r"^Value error, ", "", error["msg"])
    if error["type"] in ("model_type", "dict_type", "model_attributes_type"):
        return f"{_shown(given)} stands where fields belong", f"write them below it{names}"
    if error["type"] == "tuple_type":
        return f"{_shown(given)} stands where a list belongs", f"write [{_shown(given).strip(chr(39))}]"
    if error["type"] in _IN_WORDS:
        return f"{_shown(given)} is {_IN_WORDS[error['type']][0]}", _IN_WORDS[error["type"]][1]
    if "does not appear to be" in message:
        what = "range of addresses" if "network" in message else "address"
        return f"{_shown(given)} is no {what}", "write an address, not a name" if what == "address" else ""
    todo = next((advice for part, advice in _ADVICE.items() if part in message), "")
    said = f"{message[:1].lower()}{message[1:]}"
    return said if str(given) in said else f"{said}, seen {_shown(given)}", todo


def _near(path: PathParts) -> str:
    model = model_at(path[:-1])
    if model is None:
        return ""
    known = [spelling(name, field) for name, field in model.model_fields.items()]
    name = str(path[-1])
    if close := _close(path):
        return f"did you mean {close}?"
    elsewhere = [place for place in _all_paths() if place.rpartition(".")[2] == name]
    if elsewhere:
        return f"it belongs to {' or '.join(elsewhere[:3])}"
    return f"known here: {', '.join(known)}"


def _close(path: PathParts) -> str | None:
    model = model_at(path[:-1])
    known = [spelling(name, field) for name, field in model.model_fields.items()] if model else []
    return next(iter(difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.6)), None)


def _all_paths() -> list[str]:
    found: dict[str, None] = {}
    for leaf in leaves():
        parts = leaf.path.split(".")
        found.update(dict.fromkeys(".".join(parts[: length + 1]) for length in range(len(parts))))
    return list(found)


def _wanted_there(path: PathParts) -> str:
    model = model_at(path[:-1])
    fields = {spelling(name, field): field for name, field in model.model_fields.items()} if model else {}
    field = fields.get(str(path[-1]))
    said = plain_text(meaning(field)) if field else ""
    return f"add it: {re.split(r'[.;] ', said)[0].rstrip('.')}" if said else "add it"


def _shown(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= _LONGEST_SEEN else f"{text[:_LONGEST_SEEN]}…"

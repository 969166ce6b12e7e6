"""Answers that are given beforehand: a part of a site.yaml (`--answers FILE`), and `--set path=value`.

They are judged as a site.yaml is, but for what is missing. Not here: what is asked (`interview`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml

from mxinstall.site.faults import Fault
from mxinstall.site.fields import leaves
from mxinstall.site.files import invalid, read_part
from mxinstall.site.interview import Answers
from mxinstall.site.source import read_source
from mxinstall.site.values import site_from
from sitebundle.rendering import merged


def given_answers(file: Path | None, settings: Sequence[str]) -> Answers:
    """Both, `--set` last and over the file. Raises SiteInvalid with every fault."""
    answers = Answers()
    for setting in settings:
        path, value = _setting(setting)
        before = answers.values.get(path)
        value = merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
        answers = Answers({**answers.values, path: value}, {**answers.origins, path: "given by --set"})
    _judge(settings, answers)
    for path, value in _flat(read_part(file)) if file else ():
        answers = answers.with_(path, value, f"from {file.name}" if file else "")
    return answers


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """From dotted paths to the file's shape."""
    content: dict[str, Any] = {}
    for path, value in values.items():
        *above, name = path.split(".")
        part = content
        for word in above:
            part = part.setdefault(word, {})
        part[name] = value
    return content


def _setting(setting: str) -> tuple[str, Any]:
    path, equals, text = setting.partition("=")
    # Below workers, values and labels names are free.
    leaf = next(
        (leaf for leaf in leaves() if leaf.path == path or (leaf.default == {} and path.startswith(f"{leaf.path}."))),
        None,
    )
    if not equals or leaf is None:
        known = [leaf.path for leaf in leaves()]
        close = difflib.get_close_matches(path, known, n=1)
        seen = "is not a field of site.yaml" if equals else "is not path=value"
        todo = f"did you mean {close[0]}?" if close else "write --set spec.serverName=example.site"
        raise invalid(Path("--set"), [Fault("field.unknown", path, seen, todo)])
    # A text stays as it is typed: `no` and `5000:50` are no traps on a command line.
    value = text if _is_text(leaf.field.annotation) else _as_yaml(text)
    below = path.removeprefix(leaf.path).lstrip(".")
    return leaf.path, nested({below: value}) if below else value


def _as_yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text


def _is_text(annotation: Any) -> bool:
    """Whether a field holds one text (or none): `str`, a kind of it, or `… | None`."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return any(isinstance(part, type) and issubclass(part, str) for part in parts)


def _judge(settings: Sequence[str], answers: Answers) -> None:
    if not settings:
        return
    source, faults = read_source(yaml.safe_dump(nested(answers.values)).encode())
    if source is not None:
        _, more = site_from(source, kept=False)
        faults += [fault for fault in more if fault.id != "field.missing"]
    if faults:
        raise invalid(Path("--set"), [replace(fault, line=None, column=None) for fault in faults])


def _flat(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for leaf in leaves():
        node: Any = content
        for word in leaf.path.split("."):
            if not isinstance(node, Mapping) or word not in node:
                break
            node = node[word]
        else:
            if leaf.path not in ("apiVersion", "kind"):
                yield leaf.path, node

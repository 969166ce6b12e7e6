"""How two states of an object differ, field by field, with everything secret hidden. Pure."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mxinstall.outlook.model import FieldChange

Object = Mapping[str, Any]

_SERVERS_OWN = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink")
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""Holds the whole object once more, a Secret's values too."""
_IDENTITIES = ("name", "mountPath", "containerPort", "port", "topologyKey", "key", "ip", "type")
"""What tells entries of a list apart, the first that all of them have."""
_SECRET_WORDS = re.compile(
    r"pass(word|phrase)?|secret|token|credential|private_?key|access_?key|api_?key", re.IGNORECASE
)
_NAMES_OF_SECRETS = re.compile(r"(name|ref|path|file|from|policy|seconds|mode|type)$", re.IGNORECASE)
"""Fields like `secretName` or `tokenExpirationSeconds` say where a secret is or how it is used, not what it is."""
_WIDTH = 100
_LINES = 12


def differences(before: Object, after: Object) -> list[FieldChange]:
    """What changes from `before` to `after`, in the order of fields. A Secret's values are told by length only."""
    hidden = "Secret" in (before.get("kind"), after.get("kind"))
    return list(_walk(_content(before), _content(after), (), hidden))


def _content(obj: Object) -> dict[str, Any]:
    content = {key: value for key, value in obj.items() if key not in ("status", "apiVersion", "kind")}
    metadata = {key: value for key, value in (obj.get("metadata") or {}).items() if key not in _SERVERS_OWN}
    if annotations := metadata.get("annotations"):
        metadata["annotations"] = {key: value for key, value in annotations.items() if key != _APPLIED}
    content["metadata"] = metadata
    return content


_ABSENT = object()


def _walk(before: Any, after: Any, path: tuple[str, ...], hidden: bool) -> Iterator[FieldChange]:
    if before == after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in [*before, *(key for key in after if key not in before)]:
            inner = hidden and path != ("metadata",) and key != "metadata"
            yield from _walk(before.get(key, _ABSENT), after.get(key, _ABSENT), (*path, _quoted(key)), inner)
        return
    if isinstance(before, list) and isinstance(after, list) and (identity := _identity(before, after)):
        old, new = ({str(entry[identity]): entry for entry in entries} for entries in (before, after))
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _walk(old.get(key, _ABSENT), new.get(key, _ABSENT), (*path[:-1], f"{path[-1]}[{key}]"), hidden)
        return
    secret = (hidden and path[0] in ("data", "stringData")) or _is_secret(
        path, after if after is not _ABSENT else before
    )
    if not secret and isinstance(before, str) and isinstance(after, str) and "\n" in before + after:
        yield _lines(".".join(path), before, after)
        return
    yield FieldChange(".".join(path), _told(before, path, secret), _told(after, path, secret))


def _identity(before: Sequence[Any], after: Sequence[Any]) -> str | None:
    entries = [*before, *after]
    if not entries or not all(isinstance(entry, Mapping) for entry in entries):
        return None
    for name in _IDENTITIES:
        if all(isinstance(entry.get(name), str | int) for entry in entries) and all(
            len({str(entry[name]) for entry in one}) == len(one) for one in (before, after)
        ):
            return name
    return None


def _is_secret(path: tuple[str, ...], value: object) -> bool:
    """By the field's own name, and for `env[DB_PASSWORD].value` by the variable's; what is no text has no secret."""
    if not isinstance(value, str):
        return False
    own = path[-1].strip('"')
    if own == "value" and len(path) > 1:
        own = path[-2].partition("[")[2].rstrip("]") or path[-2]
        return bool(_SECRET_WORDS.search(own))
    return bool(_SECRET_WORDS.search(own)) and not _NAMES_OF_SECRETS.search(own)


def _told(value: Any, path: tuple[str, ...], secret: bool) -> str | None:
    if value is _ABSENT:
        return None
    shown = _hidden(value) if secret else _shown(value, path)
    text = shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)
    text = text.replace("\n", "\\n")
    if len(text) <= _WIDTH:
        return text
    return f"{text[: _WIDTH - 1]}… ({len(text)} characters, {hashlib.sha256(text.encode()).hexdigest()[:8]})"


def _hidden(value: Any) -> Any:
    """Enough to see that it is another one, not enough to try values against it."""
    if isinstance(value, Mapping):
        return {key: _hidden(inner) for key, inner in value.items()}
    return f"(hidden, {len(value)} characters)" if isinstance(value, str) else value


def _shown(value: Any, path: tuple[str, ...]) -> Any:
    """A value that is told as a whole, with what is secret inside of it hidden."""
    if isinstance(value, Mapping):
        own = f"[{value['name']}]" if isinstance(value.get("name"), str) else ""
        return {key: _shown(inner, (*path[:-1], path[-1] + own, str(key))) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shown(inner, path) for inner in value]
    if isinstance(value, str) and "\n" in value:
        return "\n".join(_line(f" {line}") for line in value.splitlines())
    return _hidden(value) if _is_secret(path, value) else value


def _lines(path: str, before: str, after: str) -> FieldChange:
    """The lines of a text that differ, without what they stand between."""
    found = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))
    gone = [_line(line) for line in found if line.startswith("-") and not line.startswith("---")]
    new = [_line(line) for line in found if line.startswith("+") and not line.startswith("+++")]
    return FieldChange(path, _some(gone) or "(other line ends)", _some(new) or "(nothing)")


def _line(line: str) -> str:
    name, colon, _ = line[1:].partition(":")
    secret = bool(colon and _SECRET_WORDS.search(name) and not _NAMES_OF_SECRETS.search(name.strip()))
    return f"{name.strip()}: (hidden)" if secret else line[1:].strip()[:_WIDTH]


def _some(lines: Sequence[str]) -> str:
    rest = f" | and {len(lines) - _LINES} lines more" if len(lines) > _LINES else ""
    return " | ".join(lines[:_LINES]) + rest


def _quoted(key: object) -> str:
    text = str(key)
    return f'"{text}"' if "." in text or "/" in text else text

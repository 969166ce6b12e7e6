"""Text that looks like an image outside the places that `podspecs` knows: arguments, ConfigMaps, unknown kinds.

Nothing here is an image for sure; each mention must be made known in `manifests/operands/`, or ignored with a reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from sitebundle.operands import Operands
from sitebundle.podspecs import ImageUse, Object, flattened, image_uses, name_of_object
from sitebundle.reference import Reference

_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})+(?::[0-9]+)?|localhost:[0-9]+)"
_PART = r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*"
_END = r"(?::[A-Za-z0-9_][\w.-]{0,127}(?:@sha256:[0-9a-f]{64})?|@sha256:[0-9a-f]{64})"
_FULL = re.compile(rf"(?<![\w./:@-]){_HOST}(?:/{_PART})+{_END}(?![\w/:@-])")
"""A host with a dot or a port, a path, and a tag or a digest. A URL is none: its host comes after a slash."""
_YAML_LINE = re.compile(r"(?m)^[ \t-]*[\"']?image[\"']?:[ \t]*[\"']?([^\s\"'{}\[\]#]+)")
_IMAGE_KEY = re.compile(r"(?:^i|I)mage(?:Name|Ref|Reference)?$")


def mentions(objects: Iterable[Any], release: str, operands: Operands) -> list[ImageUse]:
    """Every mention that is not an image use by structure or by table, and is not ignored."""
    found = []
    for entry in flattened(objects):
        if entry.get("kind") == "CustomResourceDefinition":
            continue
        known = {use.field for use in image_uses([entry], release, operands)}
        for field, text in _texts(entry):
            if field not in known and text not in operands.ignored_texts:
                found.append(ImageUse(text, release, name_of_object(entry), field))
    return found


def _texts(entry: Object) -> Iterator[tuple[str, str]]:
    for field, key, value in _nodes(entry, "", ""):
        if isinstance(value, str):
            for text in dict.fromkeys(_in_text(key, value)):
                yield field, text
        elif _IMAGE_KEY.search(key) and isinstance(value.get("repository"), str):
            yield field, ":".join(str(value[part]) for part in ("repository", "tag") if value.get(part))


def _in_text(key: str, value: str) -> Iterator[str]:
    if _IMAGE_KEY.search(key) and _names_an_image(value):
        yield value
        return
    for match in _FULL.finditer(value):
        yield match.group()
    for match in _YAML_LINE.finditer(value):
        if _names_an_image(match[1]):
            yield match[1]


def _names_an_image(value: str) -> bool:
    try:
        reference = Reference.parse(value)
    except ValueError:
        return False
    return reference.digest is not None or ":" in value


def _nodes(node: Any, field: str, key: str) -> Iterator[tuple[str, str, Any]]:
    """Strings and mappings with their path and the key that they stand under."""
    if isinstance(node, str):
        yield field, key, node
    elif isinstance(node, dict):
        yield field, key, node
        for name, child in node.items():
            yield from _nodes(child, f"{field}.{name}" if field else str(name), str(name))
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from _nodes(child, f"{field}[{index}]", key)

"""Subjects from YAML however it was made: `helm template`'s output, an export, what another tool renders."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import yaml

from mxbundle.lint.subject import Definition, Item
from mxbundle.lint.workloads import at
from sitebundle.crds import KIND
from sitebundle.errors import LintInputUnreadable
from sitebundle.podspecs import Object, flattened

_SOURCE = re.compile(r"^# Source: (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Text:
    """YAML documents of one release, or of one file under its name."""

    name: str
    content: str


def read_objects(texts: Sequence[Text]) -> tuple[list[Item], list[Definition]]:
    """The objects of all texts, and the definitions that they bring.

    A CustomResourceDefinition that Helm says it made from a template stays among the objects: it would be the
    release's. Raises LintInputUnreadable.
    """
    items: list[Item] = []
    definitions: list[Definition] = []
    for text in texts:
        for source, entry in _entries(text):
            if entry.get("kind") == KIND:
                group, kind = at(entry, "spec.group"), at(entry, "spec.names.kind")
                if not group or not kind:
                    name = entry["metadata"]["name"]
                    raise LintInputUnreadable(path=text.name, detail=f"{KIND} {name} names no group or no kind")
                definitions.append(Definition(text.name, str(group), str(kind)))
                if "/templates/" not in source:
                    continue
            items.append(Item(text.name, entry))
    return items, definitions


def _entries(text: Text) -> Iterator[tuple[str, Object]]:
    """(what Helm says it came from, object) of a text; objects that are none are refused."""
    parts = _SOURCE.split(text.content)
    for source, content in [("", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]:
        try:
            entries = list(flattened(yaml.load_all(content, yaml.CSafeLoader)))
        except (yaml.YAMLError, ValueError) as fault:
            raise LintInputUnreadable(path=text.name, detail=f"not YAML: {' '.join(str(fault).split())}") from fault
        for entry in entries:
            metadata = entry.get("metadata")
            if not entry.get("kind") or not entry.get("apiVersion") or not isinstance(metadata, dict):
                raise LintInputUnreadable(path=text.name, detail=f"not a Kubernetes object: {str(entry)[:100]}")
            if not metadata.get("name"):
                raise LintInputUnreadable(path=text.name, detail=f"a {entry['kind']} without a name")
            yield source, entry

"""A subject from files that somebody else rendered, with what the stack declares when its profile is said."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mxbundle.lint.given import Text, read_objects
from mxbundle.lint.shipped import Declared, nodes_of
from mxbundle.lint.subject import CLUSTER_SCOPED, Item, Subject
from mxbundle.lock.model import Lock
from sitebundle.errors import LintInputUnreadable
from sitebundle.operands import Operands, read_operands

STANDARD_INPUT = "-"


def subject_of(
    files: Sequence[Path],
    manifests: Path,
    profile: str | None,
    lock: Lock | None,
    registry: str | None,
    pull_secret: str | None,
    *,
    namespace: str | None = None,
    own_hosts: Sequence[str] = (),
) -> Subject:
    """The objects of all files as one subject; a file's release is its name.

    namespace: where objects go that name none, as `kubectl --namespace` puts them. own_hosts: the site's names.

    Raises LintInputUnreadable, and StackInvalid where `profile` is given and the stack cannot be read.
    """
    items, definitions = read_objects([_text(path) for path in files])
    items = [_placed(item, namespace) for item in items] if namespace else items
    if profile is None:
        # What an operator runs is the same in everybody's objects; without it a Service for its pods would match none.
        folder = manifests / "operands"
        operands = read_operands(folder) if folder.is_dir() else Operands(fields=(), operators=())
        return Subject(
            items=tuple(items),
            operands=operands,
            definitions=tuple(definitions),
            pull_secret=pull_secret,
            registry=registry,
            lock=lock,
            own_hosts=tuple(own_hosts),
        )
    declared = Declared.read(manifests)
    declared.require_profiles([profile], manifests)
    return Subject(
        items=tuple(items),
        operands=declared.operands,
        definitions=tuple(definitions),
        profile=profile,
        stack=declared.stack,
        nodes=nodes_of(manifests, profile),
        pull_secret=pull_secret,
        registry=registry,
        contracts=declared.contracts,
        lock=lock,
        own_hosts=tuple(own_hosts),
    )


def _placed(item: Item, namespace: str) -> Item:
    metadata = item.entry["metadata"]
    if metadata.get("namespace") or item.kind in CLUSTER_SCOPED:
        return item
    return replace(item, entry={**item.entry, "metadata": {**metadata, "namespace": namespace}})


def _text(path: Path) -> Text:
    try:
        content = sys.stdin.read() if str(path) == STANDARD_INPUT else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise LintInputUnreadable(path=path, detail=str(fault)) from fault
    return Text("standard input" if str(path) == STANDARD_INPUT else path.name, content)

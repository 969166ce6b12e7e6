"""The shipped stack as lint sees it, made once, and changes of it at one place: what the cases of rules are made of.

Real helm, real charts, the operator's real manifest; digests are made up.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from mxbundle.lint.shipped import Declared, Request, rendered
from mxbundle.lint.subject import Item, Nodes, Subject
from mxbundle.lock.charts import PackedChart, pack_chart
from mxbundle.lock.materials import Materials, PublishedFile
from shipped_stack import MANIFESTS, stable_name

from darksite import binaries, upstream
from sitebundle.helm import Helm

_STEP = re.compile(r'\["([^"]+)"\]|\[(\d+)\]|([^.\[\]]+)')


@cache
def declared(manifests: Path = MANIFESTS) -> Declared:
    """What the manifests say besides the releases."""
    return Declared.read(manifests)


def materials(manifests: Path = MANIFESTS) -> Materials:
    """Charts packed and manifest files read, without any network."""
    charts, files = {}, {}
    for release in declared(manifests).stack.releases:
        if release.chart is not None:
            folder = manifests / release.chart
            about = yaml.safe_load((folder / "Chart.yaml").read_text())
            content = pack_chart(folder)
            charts[release.name] = PackedChart(release.name, about["name"], about["version"], release.chart, content)
        else:
            url = str(release.manifest)
            files[release.name] = PublishedFile(release.name, url, upstream.published()[url].read_bytes())
    return Materials(charts, files)


def subjects_of(manifests: Path, profiles: Sequence[str]) -> list[Subject]:
    """The subjects of a folder of manifests."""
    request = Request(manifests, profiles)
    return rendered(declared(manifests), request, profiles, materials(manifests), Helm(binaries.ensure("helm")))


@cache
def shipped_subject(profile: str = "demo") -> Subject:
    """The shipped stack in one profile. Never change it: `changed` makes a copy."""
    (subject,) = subjects_of(MANIFESTS, [profile])
    return subject


def changed(subject: Subject, changes: Sequence[Mapping[str, Any]]) -> Subject:
    """A copy of `subject` with each change made; one that changes nothing is an error of the case."""
    items = [Item(item.release, copy.deepcopy(item.entry)) for item in subject.items]
    settings: dict[str, Any] = {}
    for change in changes:
        if "subject" in change:
            given = dict(change["subject"])
            if "nodes" in given:
                given["nodes"] = Nodes.model_validate(given["nodes"]) if given["nodes"] else None
            settings |= given
        elif "add" in change:
            items.append(Item(change.get("release", "synapse"), copy.deepcopy(change["add"])))
        elif "drop" in change:
            kept = [item for item in items if _named(item) != change["drop"]]
            assert len(kept) < len(items), f"there is no {change['drop']}"
            items = kept
        else:
            _change(_found(items, change["object"]).entry, change)
    return replace(subject, items=tuple(items), **settings)


def _named(item: Item) -> str:
    return "/".join(part for part in (item.kind, item.namespace, stable_name(item.entry)) if part)


def _found(items: Sequence[Item], name: str) -> Item:
    found = [item for item in items if _named(item) == name]
    assert len(found) == 1, f"{len(found)} objects are called {name}"
    return found[0]


def _change(entry: dict[str, Any], change: Mapping[str, Any]) -> None:
    before = copy.deepcopy(entry)
    if "file" in change:
        content = yaml.safe_load(entry["data"][change["file"]])
        _change(content, {key: value for key, value in change.items() if key != "file"})
        entry["data"][change["file"]] = yaml.safe_dump(content)
    elif "text" in change:
        holder, key = _place(entry, change["text"])
        assert change["old"] in holder[key], f"{change['old']!r} is not there"
        holder[key] = holder[key].replace(change["old"], change["new"])
    elif "remove" in change:
        holder, key = _place(entry, change["remove"])
        del holder[key]
    else:
        holder, key = _place(entry, change["set"], make=True)
        if isinstance(holder, list) and key == len(holder):
            holder.append(change["to"])
        else:
            holder[key] = change["to"]
    assert entry != before, f"{change} changes nothing"


def _place(node: Any, path: str, *, make: bool = False) -> tuple[Any, Any]:
    """What holds the last step of a path, and that step; `make` makes mappings on the way."""
    steps = [quoted or (int(index) if index else word) for quoted, index, word in _STEP.findall(path)]
    for step in steps[:-1]:
        if make and isinstance(node, dict) and node.get(step) is None:
            node[step] = {}
        node = node[step]
    return node, steps[-1]

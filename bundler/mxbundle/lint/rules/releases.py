"""Releases: CRDs before what needs them, the same bytes each time, nothing of a version in pods, a small Secret."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from mxbundle.lint.model import Hit, hit, rule
from mxbundle.lint.subject import Item, Renders, Subject
from mxbundle.lint.workloads import at, texts
from sitebundle.podspecs import flattened, name_of_object
from sitebundle.stack import Stack

BUILT_IN = frozenset(
    (
        "",
        *("apps", "batch", "autoscaling", "policy", "extensions"),
        *(
            f"{group}.k8s.io"
            for group in [
                "admissionregistration",
                "apiextensions",
                "apiregistration",
                "authentication",
                "authorization",
                "certificates",
                "coordination",
                "discovery",
                "events",
                "flowcontrol.apiserver",
                "networking",
                "node",
                "rbac.authorization",
                "resource",
                "scheduling",
                "storage",
            ]
        ),
    )
)
"""Groups that every API server has."""
SECRET_BYTES = 1 << 20
"""What the API server takes as the data of one Secret."""


@rule(
    id="releases.crd-first",
    title="A custom resource's release needs the release that brings its kind",
    protects="Before the operator is there nobody makes anything of the resource, or its webhook refuses it.",
    todo="Add the operator's release to `needs`, or turn the object off where the kind does not exist.",
    needs=("whole",),
)
def crd_first(subject: Subject) -> Iterator[Hit]:
    """Directly or by way of others; kinds that no release of the profile brings are told too."""
    assert subject.stack is not None
    brought: dict[tuple[str, str], set[str]] = {}
    for definition in subject.definitions:
        brought.setdefault((definition.group, definition.kind), set()).add(definition.release)
    for item in subject.items:
        if item.group in BUILT_IN:
            continue
        bringers = brought.get((item.group, item.kind))
        if not bringers:
            yield hit(item.entry, "apiVersion", f"no release of the profile brings {item.kind}.{item.group}")
        elif not bringers & _needed(subject.stack, item.release):
            names = " or ".join(sorted(bringers))
            yield hit(item.entry, "apiVersion", f"release {item.release} does not need {names}, which brings the kind")


@rule(
    id="releases.no-crd",
    title="No release holds a CustomResourceDefinition",
    protects="Helm would delete the definition with its release, and everything of its kind with it.",
    todo="Turn it off in the values, and bring the definition in the chart's crds/ or as a manifest.",
)
def no_crd(subject: Subject) -> Iterator[Hit]:
    """What comes from templates; definitions of crds/ and of manifests are applied apart."""
    for item in subject.of_kind("CustomResourceDefinition"):
        yield hit(item.entry, "kind", "a CustomResourceDefinition among a release's objects")


@rule(
    id="releases.no-secret",
    title="No release holds a Secret",
    protects="What is in a release is in Helm's Secret and in every bundle; passwords are made at the site.",
    todo="Declare it under `secrets` of stack.yaml: the installer makes it once.",
)
def no_secret(subject: Subject) -> Iterator[Hit]:
    """Secrets with content; an empty one that a program fills is none."""
    for item in subject.of_kind("Secret", group=""):
        if at(item.entry, "data") or at(item.entry, "stringData"):
            keys = {*(at(item.entry, "data") or {}), *(at(item.entry, "stringData") or {})}
            yield hit(item.entry, "data", f"keys {', '.join(sorted(map(str, keys)))}")


@rule(
    id="releases.same-bytes",
    title="Two renders of a release are the same bytes",
    protects="What differs each time is changed at every install: nothing could ever be said to be unchanged.",
    todo="Take random values, times and certificates out of templates; the installer makes secrets.",
    needs=("renders",),
)
def same_bytes(subject: Subject) -> Iterator[Hit]:
    """The same chart and values, rendered twice."""
    for release, renders in (subject.renders or {}).items():
        if renders.first != renders.again:
            for one, other in _pairs(renders.first, renders.again):
                if one != other:
                    path, seen = _difference(one, other)
                    yield Hit(name_of_object(one or other), path, seen)
                    break
            else:
                yield Hit(f"Release/{release}", "", "its text differs")


_SURPRISES = re.compile(
    r"\b(rand(?:AlphaNum|Alpha|Numeric|Ascii|Bytes|Int)|genCA(?:WithKey)?|genSelfSignedCert(?:WithKey)?"
    r"|genSignedCert(?:WithKey)?|genPrivateKey|uuidv4|shuffle|bcrypt|htpasswd|encryptAES|now|ago|lookup|getHostByName"
    r"|\.?Release\.(?:Revision|IsInstall|IsUpgrade))\b"
)
_ACTION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"|`[^`]*`|/\*.*?\*/', re.DOTALL)


@rule(
    id="releases.no-surprises",
    title="Templates use nothing that is different each time, or at each place",
    protects="lookup and Release.Revision answer something else on a cluster than where the bundle is planned.",
    todo="Take the function out of the template.",
    needs=("renders",),
)
def no_surprises(subject: Subject) -> Iterator[Hit]:
    """Inside `{{ }}` of every template, comments and strings aside."""
    for release, renders in (subject.renders or {}).items():
        for path, content in renders.files.items():
            if "/templates/" in f"/{path}":
                text = content.decode("utf-8", "replace")
                for action in _ACTION.finditer(text):
                    for word in _SURPRISES.finditer(_QUOTED.sub("", action[1])):
                        line = text.count("\n", 0, action.start()) + 1
                        yield Hit(f"Release/{release}", f"{path}:{line}", word[1])


_VERSION_KEYS = re.compile(r"^helm\.sh/chart$|^mxbundle\.io/generation$|checksum/chart")
_FIXED = ("spec.selector", "spec.template", "spec.jobTemplate", "spec.volumeClaimTemplates")
_FIXED_KINDS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob")


@rule(
    id="releases.version-free",
    title="Nothing of the chart's version or a generation is in selectors, pod templates or claim templates",
    protects="A new version of a chart would restart every pod, and be refused where the field cannot be changed.",
    todo="Leave helm.sh/chart and the like to the object's own labels.",
)
def version_free(subject: Subject) -> Iterator[Hit]:
    """By the keys that charts use for it, and by a render with another chart version where that is possible."""
    for item in subject.items:
        for path, key in _version_keys(item):
            yield hit(item.entry, path, key)
    for renders in (subject.renders or {}).values():
        for one, other in _pairs(renders.first, renders.other_version):
            for path in _FIXED if (one or other).get("kind") in _FIXED_KINDS else ():
                if at(one, path) != at(other, path):
                    inside, seen = _difference(at(one, path), at(other, path))
                    if not _VERSION_KEYS.search(inside.rpartition('["')[2].rstrip('"]')):
                        yield hit(one or other, f"{path}{inside and '.'}{inside}", seen)


@rule(
    id="releases.secret-size",
    title="Helm's Secret of a release stays well below its limit",
    protects="Above 1 MiB the API server refuses it, and the upgrade fails after everything was rendered.",
    todo="Make the chart smaller, or two of it.",
    needs=("renders",),
)
def secret_size(subject: Subject) -> Iterator[Hit]:
    """An estimate of what Helm stores; three quarters of the limit are the most."""
    for release, renders in (subject.renders or {}).items():
        size = release_secret_bytes(release, renders)
        if size > SECRET_BYTES * 3 // 4:
            yield Hit(f"Release/{release}", "", f"about {size} bytes of {SECRET_BYTES}")


def release_secret_bytes(name: str, renders: Renders) -> int:
    """How big Helm's Secret would be, in bytes: JSON, gzip, base64 (helm: pkg/storage/driver/util.go)."""
    encoded = [
        {"name": path, "data": base64.b64encode(content).decode()} for path, content in sorted(renders.files.items())
    ]
    release = {"name": name, "chart": {"templates": encoded}, "config": renders.config, "manifest": renders.first}
    return len(base64.b64encode(gzip.compress(json.dumps(release, default=str).encode())))


def _needed(stack: Stack, release: str) -> set[str]:
    """The release and everything that it needs, directly or not."""
    found: set[str] = set()
    open_names = [release]
    while open_names:
        name = open_names.pop()
        if name not in found:
            found.add(name)
            open_names += stack.release(name).needs
    return found


def _version_keys(item: Item) -> Iterator[tuple[str, str]]:
    if item.kind not in _FIXED_KINDS:
        return
    places = ["spec.selector.matchLabels", "spec.template.metadata.labels", "spec.template.metadata.annotations"]
    for place in places:
        for key in at(item.entry, place) or {}:
            if _VERSION_KEYS.search(str(key)):
                yield place, str(key)
    for index, claim in enumerate(at(item.entry, "spec.volumeClaimTemplates") or ()):
        for place in ("metadata.labels", "metadata.annotations"):
            for key in at(claim, place) or {}:
                if _VERSION_KEYS.search(str(key)):
                    yield f"spec.volumeClaimTemplates[{index}].{place}", str(key)


def _pairs(one: str, other: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The objects of two texts, by kind and name; an empty one where the other text has none."""
    if one == other:
        return
    ours, theirs = _objects(one), _objects(other)
    for key in dict.fromkeys([*ours, *theirs]):
        yield ours.get(key, {}), theirs.get(key, {})


def _objects(text: str) -> dict[str, dict[str, Any]]:
    return {name_of_object(entry): entry for entry in flattened(yaml.load_all(text, yaml.CSafeLoader))}


def _difference(one: Any, other: Any) -> tuple[str, str]:
    """The first place where two values differ, and what stands there."""
    ours, theirs = dict(texts(one)), dict(texts(other))
    for path in dict.fromkeys([*ours, *theirs]):
        if ours.get(path) != theirs.get(path):
            return path, f"{_short(ours.get(path))}, then {_short(theirs.get(path))}"
    return "", "something else each time"


def _short(text: str | None) -> str:
    return "nothing" if text is None else repr(text if len(text) <= 80 else f"{text[:77]}…")

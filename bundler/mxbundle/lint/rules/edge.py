"""What stands before Synapse: one limit for the size of a request."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mxbundle.lint.model import Hit, hit, rule
from mxbundle.lint.subject import Item, Subject
from mxbundle.lint.synapse import shared
from mxbundle.lint.workloads import at, joined, matches

_PROXY_LIMIT = re.compile(r"(?:content-length\)|req\.body_size)[^\n]*?\bgt\s+(\d+)")
_INGRESS_LIMITS = re.compile(r"(?:proxy-body-size|client-max-body-size|limitRequestBody)$")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
DEFAULT_UPLOAD_BYTES = 50 << 20
"""Synapse's max_upload_size where nothing is said."""


@rule(
    id="edge.body-size",
    title="One limit for the size of an upload, in Synapse and before it",
    protects="Of two limits the smaller one refuses what the other promises.",
    todo="Drive max_upload_size and the proxy's limit by one value.",
)
def body_size(subject: Subject) -> Iterator[Hit]:
    """Synapse's max_upload_size against HAProxy's configuration and Ingress annotations, in bytes."""
    limits = {
        size_bytes(file.content.get("max_upload_size", DEFAULT_UPLOAD_BYTES))
        for file in shared(subject.synapse).values()
    }
    if len(limits) != 1:
        return
    (limit,) = limits
    for item, path, seen in _proxies(subject):
        if seen != limit:
            said = "no limit" if seen is None else f"{seen} bytes"
            yield hit(item.entry, path, f"{said}; Synapse's max_upload_size is {limit} bytes")


def _proxies(subject: Subject) -> Iterator[tuple[Item, str, int | None]]:
    """Each proxy in front of Matrix paths, with its limit in bytes; None where it has none that can be read."""
    fronts: set[tuple[str, str]] = set()
    for item in subject.of_kind("ConfigMap"):
        for key, text in (at(item.entry, "data") or {}).items():
            if isinstance(text, str) and re.search(r"(?m)^frontend ", text) and "/_matrix" in _whole(item):
                fronts.add((item.namespace, item.name))
                found = _PROXY_LIMIT.findall(text)
                for size in found or [None]:
                    yield item, joined("data", str(key)), int(size) if size else None
    for item in subject.of_kind("Ingress"):
        if any(_leads_to_matrix(subject, item.namespace, name, fronts) for name in _backends(item)):
            for key, value in (at(item.entry, "metadata.annotations") or {}).items():
                if _INGRESS_LIMITS.search(key):
                    yield item, joined("metadata.annotations", key), size_bytes(value)


def _backends(item: Item) -> set[str]:
    return {
        str(at(path, "backend.service.name"))
        for entry in at(item.entry, "spec.rules") or ()
        for path in (entry.get("http") or {}).get("paths") or ()
    }


def _leads_to_matrix(subject: Subject, namespace: str, service: str, fronts: set[tuple[str, str]]) -> bool:
    """Whether a Service's pods are Synapse's, or those of a proxy in front of it."""
    found = subject.find("Service", namespace, service)
    selector = {"matchLabels": at(found.entry, "spec.selector") or {}} if found is not None else None
    behind = [load for load in subject.workloads if load.namespace == namespace and matches(selector, load.labels)]
    names = {(process.workload.namespace, process.workload.name) for process in subject.synapse}
    mounted = {
        (namespace, str(at(volume, "configMap.name")))
        for load in behind
        for volume in (load.pod or {}).get("volumes") or ()
    }
    return bool(mounted & fronts) or any((load.namespace, load.name) in names for load in behind)


def _whole(item: Item) -> str:
    return "\n".join(str(text) for text in (at(item.entry, "data") or {}).values())


def size_bytes(value: object) -> int | None:
    """`50M`, `50m`, `52428800` in bytes, by powers of 1024 as Synapse and nginx count; None for what is no size."""
    match = re.fullmatch(r"(\d+)([kKmMgG]?)[bB]?", str(value).strip())
    if match is None:
        return None
    return int(match[1]) * _UNITS[match[2].lower()]

"""From a reference to content: what its tag means now, and everything below it, as the registries say.

Bytes that are read are verified. Blobs of layers are not fetched here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mxbundle.lock.model import LockedImage, LockedPlatform
from sitebundle.digest import Digest
from sitebundle.errors import (
    BlobCorrupt,
    ContractBroken,
    ImagesUnresolvable,
    ImageUnresolvable,
    RegistryRefused,
    RegistryUnreachable,
)
from sitebundle.events import Sink, Step
from sitebundle.oci.client import Registry
from sitebundle.oci.descriptor import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from sitebundle.oci.upstream import Upstream
from sitebundle.podspecs import ImageUse
from sitebundle.reference import Reference

AT_ONCE = 8
STAGE = "resolve"

CheckConfig = Callable[[Reference, Mapping[str, Any]], None]
"""Judges an image's config document; raises ContractBroken."""


@dataclass(frozen=True)
class Wanted:
    """One image and all its uses."""

    reference: Reference
    uses: tuple[ImageUse, ...]

    @property
    def needed_by(self) -> str:
        """The uses for a message: the first, and how many more."""
        more = len(self.uses) - 1
        return str(self.uses[0]) + (f" and {more} more" if more else "")


@dataclass(frozen=True)
class _Problem:
    wanted: Wanted
    detail: str


class _Unusable(Exception):
    """The registry answered, but what it has cannot be locked."""


def wanted_images(uses: Iterable[ImageUse]) -> tuple[tuple[Wanted, ...], tuple[_Problem, ...]]:
    """The images behind the uses, by reference; and the references that nothing could be locked for."""
    found: dict[str, tuple[Reference, list[ImageUse]]] = {}
    problems = []
    for use in uses:
        try:
            reference = Reference.parse(use.reference)
        except ValueError:
            problems.append(_Problem(Wanted(Reference("", use.reference), (use,)), "it is not an image reference"))
            continue
        known = found.setdefault(reference.tagged, (reference, []))
        known[1].append(use)
        if known[0].digest != reference.digest:
            problems.append(_Problem(Wanted(reference, tuple(known[1])), "it is named with different digests"))
        elif reference.digest is None and reference.tag in (None, "latest"):
            problems.append(_Problem(Wanted(reference, (use,)), "it has no tag, or `latest`"))
    return tuple(Wanted(reference, tuple(uses)) for reference, uses in found.values()), tuple(problems)


def needed_by(image: Wanted) -> tuple[str, ...]:
    """The uses as the lock lists them, each once."""
    return tuple(dict.fromkeys(str(use) for use in image.uses))


def resolve_images(
    uses: Iterable[ImageUse],
    upstream: Upstream,
    platforms: Sequence[str],
    check: CheckConfig,
    sink: Sink,
) -> tuple[LockedImage, ...]:
    """Lock every image that is used, several at a time; `confirmed_at` is left for the caller.

    Raises ImageUnresolvable for one, ImagesUnresolvable for several, all collected before; ContractBroken.
    """
    wanted, problems = wanted_images(uses)
    if problems:
        raise _error(problems)

    def resolve(image: Wanted) -> LockedImage | _Problem | ContractBroken:
        try:
            locked = _resolve(image, upstream.registry(image.reference.host), platforms, check)
        except ContractBroken as broken:
            return broken
        except _Unusable as fault:
            return _Problem(image, str(fault))
        except (RegistryRefused, RegistryUnreachable, BlobCorrupt) as fault:
            return _Problem(image, fault.message.rstrip("."))
        sink(Step(STAGE, image.reference.tagged, "ok", locked.digest))
        return locked

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="resolve") as pool:
        outcomes = list(pool.map(resolve, wanted))
    failed = [outcome for outcome in outcomes if isinstance(outcome, _Problem)]
    for problem in failed:
        sink(Step(STAGE, _name(problem), "fail", f"{problem.detail}; needed by {problem.wanted.needed_by}"))
    if failed:
        raise _error(failed)
    for outcome in outcomes:
        if isinstance(outcome, ContractBroken):
            raise outcome
    return tuple(outcome for outcome in outcomes if isinstance(outcome, LockedImage))


def _resolve(image: Wanted, registry: Registry, platforms: Sequence[str], check: CheckConfig) -> LockedImage:
    reference = image.reference
    repository, name = reference.repository, reference.digest or reference.tag or ""
    named = registry.resolve(repository, name)
    if named is None:
        raise _Unusable(f"{registry.name} has no {repository}:{name}")
    top, body = registry.manifest(repository, named.digest)
    if top.media_type in INDEX_TYPES:
        chosen = _chosen(json.loads(body), platforms)
        locked = tuple(_platform(registry, reference, child, check, known) for known, child in chosen)
    elif top.media_type in MANIFEST_TYPES:
        locked = (_described(registry, reference, top, body, check, None),)
        if {platform for platform in platforms if not fits_platform(locked[0].platform, platform)}:
            raise _Unusable(f"it is for {locked[0].platform} alone, not for {', '.join(platforms)}")
    else:
        raise _Unusable(f"it is not an image but {top.media_type}")
    return LockedImage(
        reference=reference.tagged,
        digest=top.digest,
        media_type=top.media_type,
        size=top.size,
        needed_by=needed_by(image),
        platforms=locked,
    )


def _chosen(index: Mapping[str, Any], platforms: Sequence[str]) -> list[tuple[str, Digest]]:
    offered = {platform_name(entry.get("platform") or {}): entry for entry in reversed(index.get("manifests") or [])}
    chosen = []
    for platform in platforms:
        match = next((name for name in offered if fits_platform(name, platform)), None)
        if match is None:
            real = sorted(name for name in offered if not name.startswith("unknown"))
            raise _Unusable(f"it has no {platform}, only {', '.join(real) or 'nothing'}")
        chosen.append((platform, Digest(offered[match]["digest"])))
    return chosen


def _platform(
    registry: Registry, reference: Reference, digest: Digest, check: CheckConfig, platform: str
) -> LockedPlatform:
    descriptor, body = registry.manifest(reference.repository, digest)
    if descriptor.media_type not in MANIFEST_TYPES:
        raise _Unusable(f"its manifest for {platform} is {descriptor.media_type}")
    return _described(registry, reference, descriptor, body, check, platform)


def _described(
    registry: Registry,
    reference: Reference,
    descriptor: Descriptor,
    body: bytes,
    check: CheckConfig,
    platform: str | None,
) -> LockedPlatform:
    try:
        manifest = json.loads(body)
        config = _descriptor(manifest["config"])
        layers = tuple(_descriptor(layer) for layer in manifest["layers"])
        document = json.loads(registry.read_blob(reference.repository, config.digest))
    except (KeyError, TypeError, ValueError) as fault:
        raise _Unusable(f"its manifest {descriptor.digest} is malformed: {fault}") from fault
    if not isinstance(document, dict):
        raise _Unusable(f"its config {config.digest} is malformed")
    check(reference, document)
    return LockedPlatform(
        platform=platform or platform_name(document),
        digest=descriptor.digest,
        media_type=descriptor.media_type,
        size=descriptor.size,
        config=config,
        layers=layers,
    )


def _descriptor(entry: Mapping[str, Any]) -> Descriptor:
    return Descriptor(str(entry["mediaType"]), Digest(entry["digest"]), int(entry["size"]))


def platform_name(entry: Mapping[str, Any]) -> str:
    """`os/architecture[/variant]` of a config or of an index's entry."""
    parts = (entry.get("os"), entry.get("architecture"), entry.get("variant"))
    return "/".join(str(part) for part in parts if part) or "unknown"


def fits_platform(offered: str, asked: str) -> bool:
    """Whether an offered platform is the asked one; a variant that was not asked for does not matter."""
    return offered == asked or (asked.count("/") == 1 and offered.startswith(f"{asked}/"))


def _name(problem: _Problem) -> str:
    reference = problem.wanted.reference
    return str(reference) if reference.host else reference.repository


def _error(problems: Sequence[_Problem]) -> ImageUnresolvable | ImagesUnresolvable:
    if len(problems) == 1:
        (problem,) = problems
        return ImageUnresolvable(reference=_name(problem), detail=problem.detail, needed_by=problem.wanted.needed_by)
    return ImagesUnresolvable(
        count=len(problems),
        problems="; ".join(f"{_name(p)}: {p.detail}, needed by {p.wanted.needed_by}" for p in problems),
        references=[_name(problem) for problem in problems],
    )

"""What a bundle says about the values of one site: profiles, releases, and what each chart would really be given.

Reads the files that a bundle carries, laid out on this host. Not here: rendering, or judging (`agreement`).
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mxinstall.site.model import Site
from sitebundle.rendering import merged, values_for
from sitebundle.stack import Stack

_WORKER_TYPES = "files/worker-types.yaml"


@dataclass(frozen=True)
class WorkerType:
    """One row of the chart's table of types. `needs`: federation or presence, without which it does not run."""

    name: str
    streams: tuple[str, ...]
    single: bool
    elastic: bool
    needs: str | None


@dataclass(frozen=True)
class BundleValues:
    """`values`: release → what its chart gets, its own defaults included. Empty where the bundle lacks the profile."""

    profiles: tuple[str, ...]
    releases: tuple[str, ...]
    of_profile: tuple[str, ...] = ()
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    worker_types: tuple[WorkerType, ...] = ()

    def of(self, release: str) -> Mapping[str, Any] | None:
        """The values of a release of the profile; None where there is none."""
        return self.values.get(release)


def bundle_values(stack: Stack, folder: Path, charts: Mapping[str, Path], site: Site) -> BundleValues:
    """`folder` holds the stack's `values/` and `profiles/`; `charts`: release → folder or packed chart.

    Raises StackInvalid, and OSError, tarfile.TarError or yaml.YAMLError for a chart that cannot be read.
    """
    names = tuple(release.name for release in stack.releases)
    profile = site.spec.profile
    if profile not in stack.profiles:
        return BundleValues(stack.profiles, names)
    of_profile = stack.of_profile(profile)
    values: dict[str, Mapping[str, Any]] = {}
    types: tuple[WorkerType, ...] = ()
    for release in of_profile:
        if release.name not in charts:
            continue
        own = chart_defaults(charts, release.name)
        given = values_for(stack, release, profile, folder, lambda reference: reference, site.spec_mapping())
        values[release.name] = merged(merged(own, given), site.spec.values.get(release.name, {}))
        if table := _member(charts[release.name], _WORKER_TYPES):
            types = tuple(map(_worker_type, yaml.load(table, yaml.CSafeLoader)))
    return BundleValues(stack.profiles, names, tuple(release.name for release in of_profile), values, types)


def chart_defaults(charts: Mapping[str, Path], release: str) -> dict[str, Any]:
    """The chart's own `values.yaml`; nothing where there is no such chart. Raises as `bundle_values`."""
    text = _member(charts[release], "values.yaml") if release in charts else None
    return dict(yaml.load(text or "", yaml.CSafeLoader) or {})


def _worker_type(row: Mapping[str, Any]) -> WorkerType:
    return WorkerType(
        str(row["name"]),
        tuple(row.get("streams") or ()),
        bool(row.get("single")),
        bool(row.get("elastic")),
        row.get("needs"),
    )


def _member(chart: Path, name: str) -> str | None:
    """A file of a chart, by its path inside the chart's one folder; None where there is none."""
    if chart.is_dir():
        place = chart / name
        return place.read_text(encoding="utf-8") if place.is_file() else None
    with tarfile.open(chart, "r:*") as archive:
        for member in archive:
            if member.isfile() and member.name.partition("/")[2] == name:
                file = archive.extractfile(member)
                return file.read().decode("utf-8") if file else None
    return None

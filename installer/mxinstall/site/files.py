"""Reading and writing `site.yaml`, and where this host keeps a site's state.

A given `site.yaml` is never rewritten. All its faults are told at once; what a fault says is `faults` and `values`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from mxinstall.site.faults import Fault, told
from mxinstall.site.model import Site
from mxinstall.site.source import MOST_BYTES, Source, read_source
from mxinstall.site.values import site_from
from sitebundle.atomic import create_durably
from sitebundle.errors import SiteInvalid

FILE = "site.yaml"


def state_root() -> Path:
    """Where this host keeps what it knows about sites: `$MXINSTALL_STATE`, or /var/lib/mxinstall."""
    return Path(os.environ.get("MXINSTALL_STATE") or "/var/lib/mxinstall")


def state_directory(name: str) -> Path:
    """The state directory of site `name`, made when missing, for this user only."""
    directory = state_root() / name
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory


def known_site(path: Path | None) -> Site:
    """The site in `path`; without one, the only site that this host keeps. Raises SiteInvalid."""
    if path is not None:
        return read_site(path)
    kept = sorted(state_root().glob(f"*/{FILE}"))
    if len(kept) != 1:
        names = ", ".join(place.parent.name for place in kept) or "none"
        raise SiteInvalid(path=state_root(), detail=f"this host keeps {len(kept)} sites ({names}): say --site FILE")
    return read_site(kept[0], kept=True)


def read_site(path: Path, *, kept: bool = False) -> Site:
    """Read and check a `site.yaml`; with `kept` as that of a system that was installed, not of one that is to be.

    Raises SiteInvalid with every fault: field, line and column, what was seen, what to do.
    """
    site, _ = read_with_places(path, kept=kept)
    return site


def read_with_places(path: Path, *, kept: bool = False) -> tuple[Site, Source]:
    """As `read_site`, and where each value stands. Raises SiteInvalid."""
    source, site, faults = _read(path, kept)
    if faults or site is None or source is None:
        raise invalid(path, faults)
    return site, source


def read_part(path: Path) -> dict[str, Any]:
    """The plain values of a file that may lack any field, and is else a `site.yaml`. Raises SiteInvalid."""
    source, _, faults = _read(path, False)
    faults = [fault for fault in faults if fault.id != "field.missing"]
    if faults or source is None:
        raise invalid(path, faults)
    return source.content


def _read(path: Path, kept: bool) -> tuple[Source | None, Site | None, list[Fault]]:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as fault:
        raise SiteInvalid(path=path, detail=str(fault), faults=[]) from fault
    source, faults = read_source(data)
    if kept:
        # What was installed was installed with what YAML made of the number.
        faults = [fault for fault in faults if fault.id != "yaml.number"]
    if source is None:
        return None, None, faults
    site, more = site_from(source, kept=kept)
    places = {(fault.line, fault.column) for fault in faults}
    return source, site, faults + [fault for fault in more if (fault.line, fault.column) not in places]


def invalid(path: Path, faults: Sequence[Fault]) -> SiteInvalid:
    """The one error that tells all of them, by line."""
    return SiteInvalid(path=path, detail=told(faults), faults=[fault.as_json() for fault in sorted(faults)])


def write_site(site: Site, notes: Iterable[str], path: Path) -> None:
    """Write `site` to `path` with `notes` as comments. Raises FileExistsError when there is such a file."""
    lines = ["# site.yaml: this site's answers. Edit it freely; mxinstall reads it and never rewrites it.", "#"]
    lines += [f"# - {note}" for note in notes]
    body = yaml.safe_dump(site.as_mapping(), sort_keys=False, allow_unicode=True)
    create_durably(path, ("\n".join(lines) + "\n" + body).encode())

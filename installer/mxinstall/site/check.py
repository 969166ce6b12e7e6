"""A `site.yaml` looked at by itself, or beside the bundle that it is for. Changes nothing, asks no cluster."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from mxinstall.carried import unpack
from mxinstall.deploy.workdir import work_dir
from mxinstall.site.agreement import disagreements
from mxinstall.site.bundle_values import BundleValues, bundle_values
from mxinstall.site.faults import Fault
from mxinstall.site.files import invalid, read_with_places
from mxinstall.site.model import Site
from mxinstall.trust import check_signature, store_path
from sitebundle.archive import BundleReader


@dataclass(frozen=True)
class Looked:
    """A file without a fault. `warnings`: what works, but hardly as it was meant."""

    site: Site
    warnings: tuple[Fault, ...]
    beside_bundle: bool


def check_site_file(path: Path, bundle: Path | None = None, allowed_signers: Path | None = None) -> Looked:
    """Every rule that the file alone, or the file and the bundle, can break.

    Raises SiteInvalid with all faults, and what the bundle and the trust have to say.
    """
    site, source = read_with_places(path)
    known = _values(site, bundle, allowed_signers) if bundle else None
    met = disagreements(site, known)
    faults = [found.as_fault(source) for found in met if found.rule.severity == "fail"]
    if faults:
        raise invalid(path, faults)
    return Looked(site, tuple(sorted(found.as_fault(source) for found in met)), bundle is not None)


def _values(site: Site, bundle: Path, allowed_signers: Path | None) -> BundleValues:
    with contextlib.closing(BundleReader.open(bundle)) as reader, work_dir() as work:
        check_signature(reader, store_path(allowed_signers))
        carried = unpack(reader, work)
        return bundle_values(carried.stack, carried.directory, carried.charts, site)

"""Seeding as a stage of its own: open, judge, read the site, seed. The cluster is not needed."""

from __future__ import annotations

from pathlib import Path

from mxinstall.seed.run import SeedReport, seed_site
from mxinstall.site import known_site, state_root
from mxinstall.trust import admit_bundle, read_record, store_path
from sitebundle.archive import BundleReader
from sitebundle.events import Sink


def seed_alone(
    bundle: Path, site_file: Path | None, allowed_signers: Path | None, deep: bool, sink: Sink
) -> SeedReport:
    """Fill the registry of the site in `site_file` (or of the one that this host knows).

    Judges generations by the host's record alone. Raises what opening, trust, site.yaml and `seed_site` raise.
    """
    with BundleReader.open(bundle) as reader:
        site = known_site(site_file)
        admit_bundle(reader, store_path(allowed_signers), read_record(state_root() / site.name))
        return seed_site(reader, site, sink, deep)

"""From a file and a host to an admitted bundle, a site and its cluster: what every stage begins with.

Nothing is connected to before the signature is believed. Not here: changing anything but the host's own site.yaml.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mxinstall.carried import Carried, unpack
from mxinstall.cluster import Cluster
from mxinstall.deploy.admissions import read_cluster_record
from mxinstall.deploy.workdir import WorkDir, work_dir
from mxinstall.site import Site, derive, read_site, state_root, write_site
from mxinstall.trust import Admission, admit_bundle, read_record, store_path
from sitebundle.archive import BundleReader
from sitebundle.events import Note, Sink, Step, stage

DERIVED_NAME = "site-1"
"""The name of a site that nobody named."""

_SITE_FILE = "site.yaml"


@dataclass(frozen=True)
class Opening:
    """A bundle that this site admits. `operator` is the operator's own access; `state` the host's folder."""

    reader: BundleReader
    admission: Admission
    carried: Carried
    site: Site
    site_file: Path
    operator: Cluster
    work: WorkDir
    store: Path

    @property
    def state(self) -> Path:
        """What this host keeps about the site."""
        return state_root() / self.site.name


@contextlib.contextmanager
def open_site(
    bundle: Path, site_file: Path | None, allowed_signers: Path | None, kubeconfig: Path | None, sink: Sink
) -> Iterator[Opening]:
    """Open, judge, read or derive the site, connect; close at the end of the block.

    Without `site_file` the one derived at the first install is read; without that, one is derived and kept.
    Raises what the bundle, the trust, the site and the cluster have to say.
    """
    store = store_path(allowed_signers)
    with contextlib.ExitStack() as stack:
        with stage(sink, "verify", "Check who vouches for the bundle") as tally:
            reader = stack.enter_context(contextlib.closing(BundleReader.open(bundle)))
            work = stack.enter_context(work_dir())
            opening = _open(reader, work, site_file, store, kubeconfig, sink)
            manifest, admission = reader.manifest, opening.admission
            tally.detail = f"{manifest.name}, generation {manifest.generation}, signed by {admission.principal}"
            sink(Step("verify", "signature", "ok", f"{admission.principal} {admission.entry.signer}"))
        yield opening


def _open(
    reader: BundleReader, work: WorkDir, site_file: Path | None, store: Path, kubeconfig: Path | None, sink: Sink
) -> Opening:
    given = read_site(site_file) if site_file else None
    place = state_root() / (given.name if given else DERIVED_NAME)
    known = place / _SITE_FILE
    if given is None and known.is_file():
        given = read_site(known)
    host_record = read_record(place)
    admit_bundle(reader, store, host_record)
    carried = unpack(reader, work)
    operator = Cluster.connect(kubeconfig)
    if given is None:
        given, choices = derive(operator, reader.manifest, carried.stack, DERIVED_NAME)
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_site(given, [str(choice) for choice in choices], known)
        sink(Note("info", f"no site.yaml was given; {known} was derived from the cluster:"))
        for choice in choices:
            sink(Note("info", f"  {choice}"))
    admission = admit_bundle(reader, store, host_record, read_cluster_record(operator))
    for note in admission.notes:
        sink(Note("warning", note))
    return Opening(reader, admission, carried, given, site_file or known, operator, work, store)

"""From a file and a host to an admitted bundle, a site and its cluster: what every stage begins with.

Nothing is connected to before the signature is believed. Not here: changing anything but the host's own site.yaml.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mxinstall.carried import Carried, unpack
from mxinstall.cluster import Cluster
from mxinstall.deploy.admissions import read_cluster_record
from mxinstall.deploy.journal import read_accounts
from mxinstall.deploy.workdir import WorkDir, work_dir
from mxinstall.installed import site_of
from mxinstall.site import Site, derive, read_site, state_root, write_site
from mxinstall.trust import Admission, admit_bundle, read_record, store_path
from sitebundle.archive import BundleReader
from sitebundle.errors import SiteInvalid
from sitebundle.events import Note, Sink, Step, stage

DERIVED_NAME = "site-1"
"""The name of a site that nobody named."""

_SITE_FILE = "site.yaml"
_TAKEN = ["what its system was installed with; change it and run again"]


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

    Without `site_file` the one kept at the first install is read; without that, on another host, the one that the
    cluster's system was installed with is taken; for a new system one is derived. Both are kept.
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
    installed = installed_site(operator)
    if site_file is None and given is not None and installed is not None and given != installed:
        check_kept(known, operator)
    if given is None:
        given, notes = (installed, _TAKEN) if installed else _derived(operator, reader, carried)
        known = state_root() / given.name / _SITE_FILE
        given = _kept(given, notes, known, sink)
        host_record = read_record(known.parent)
    check_same_server(given, installed, site_file or known)
    admission = admit_bundle(reader, store, host_record, read_cluster_record(operator))
    for note in admission.notes:
        sink(Note("warning", note))
    return Opening(reader, admission, carried, given, site_file or known, operator, work, store)


def installed_site(cluster: Cluster) -> Site | None:
    """The site.yaml that the newest generation in the cluster was installed with; None in a new one.

    Raises SiteInvalid when this program cannot read it.
    """
    accounts = [account for account in read_accounts(cluster) if account.site]
    return site_of(accounts[-1]) if accounts else None


def _derived(operator: Cluster, reader: BundleReader, carried: Carried) -> tuple[Site, list[str]]:
    site, choices = derive(operator, reader.manifest, carried.stack, DERIVED_NAME)
    return site, [str(choice) for choice in choices]


def _kept(site: Site, notes: Sequence[str], place: Path, sink: Sink) -> Site:
    """What stands at `place`; `site` is written there when nothing does, and every choice is said.

    Raises SiteInvalid also for what was just written: an earlier install may have let through what this one refuses.
    """
    if place.exists():
        return read_site(place)
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_site(site, notes, place)
    how = "taken" if notes is _TAKEN else "derived"
    sink(Note("info", f"no site.yaml was given; {place} was {how} from the cluster:"))
    for note in notes:
        sink(Note("info", f"  {note}"))
    return read_site(place)


def check_kept(place: Path, cluster: Cluster) -> None:
    """A kept file that differs from what is installed must be newer than that install, or it would undo in silence
    what was installed from another one (by `--site`). Raises SiteInvalid.
    """
    began = [account.entries[0].began for account in read_accounts(cluster) if account.site and account.entries]
    if began and place.stat().st_mtime < began[-1]:
        seen = "it is older than the last install, which was done with another site.yaml"
        raise SiteInvalid(path=place, detail=f"{seen}; say which one counts with --site FILE")


def check_same_server(site: Site, installed: Site | None, place: Path) -> None:
    """Users, rooms and keys carry the server's name: under another one the same data is of no use."""
    if installed is not None and installed.spec.server_name != site.spec.server_name:
        seen = f"spec.serverName is {site.spec.server_name}, but this cluster's system is {installed.spec.server_name}"
        todo = "the name can never be changed (to begin anew: mxinstall uninstall --delete-data)"
        raise SiteInvalid(path=place, detail=f"{seen}; {todo}")

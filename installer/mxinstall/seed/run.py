"""Seeding: look what is there, move and verify blobs, then manifests, then ask for every reference by digest.

No manifest or tag is PUT before the last blob of the bundle has verified: a bad archive changes nothing that a
pod could pull.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mxinstall.seed.blobs import check_room, look, settle_blobs
from mxinstall.seed.manifests import missing_references, push_manifests
from mxinstall.seed.plan import SeedPlan, plan_seed, probe_repository
from mxinstall.seed.readback import Readback
from mxinstall.seed.record import SeedRecord, forget_seed_record, read_seed_record, write_seed_record
from mxinstall.seed.sessions import Sessions
from mxinstall.seed.tally import Counts, Tally
from mxinstall.seed.target import connect, ready, store_of
from mxinstall.site import Site, state_directory
from sitebundle.archive import BundleReader
from sitebundle.digest import Digest
from sitebundle.errors import RegistryUnreachable, SeedIncomplete
from sitebundle.events import Note, Sink, stage
from sitebundle.oci.client import Registry

STAGE = "seed"


@dataclass(frozen=True)
class SeedReport:
    """What seeding did. Bytes are unique ones, `moved_bytes` aside: those really went over the wire.

    quick: nothing but the references was asked for, because this registry was checked deeply since its last start.
    deep: what was there already was read back and hashed.
    """

    manifest: Digest
    registry: str
    total_bytes: int
    moved_bytes: int
    present_bytes: int
    mounted_bytes: int
    blobs: int
    references: int
    pushed_manifests: int
    quick: bool
    deep: bool
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """For `--json` and the run report."""
        return asdict(self)

    def text(self) -> str:
        """For people."""
        if not self.changed:
            how = "asked by name" if self.quick else "every blob read back" if self.deep else "every blob asked for"
            return f"{self.registry} has all {self.references} images ({how}, {self.seconds:.1f} s): nothing to do"
        return (
            f"{self.registry} has all {self.references} images: {self.moved_bytes / 1e6:.1f} MB moved, "
            f"{self.mounted_bytes / 1e6:.1f} MB mounted, {self.present_bytes / 1e6:.1f} MB were there, "
            f"{self.seconds:.1f} s"
        )

    @property
    def changed(self) -> bool:
        """Whether anything was sent."""
        return bool(self.moved_bytes or self.pushed_manifests or self.mounted_bytes)


def seed_site(reader: BundleReader, site: Site, sink: Sink, deep: bool = False) -> SeedReport:
    """Run the site's registry if it is ours, and fill it. `deep` reads every blob back, whatever is remembered.

    Raises BundleDamaged, BlobRotten, DiskTooSmall, PortTaken, RegistryServiceFailed, RegistryUnreachable,
    RegistryRefused, SeedIncomplete.
    """
    service = ready(reader, site)
    return seed(
        reader,
        site,
        connect(site, sink),
        sink,
        state=state_directory(site.name),
        start_id=service.start_id if service else None,
        store=store_of(site),
        deep=deep,
    )


def seed(
    reader: BundleReader,
    site: Site,
    registry: Registry,
    sink: Sink,
    *,
    state: Path | None = None,
    start_id: str | None = None,
    store: Path | None = None,
    deep: bool = False,
) -> SeedReport:
    """Fill `registry` from the bundle. `state` keeps the record, `start_id` names this run of the registry.

    `store` is its directory when it is our own on this host: its free space is looked at before anything is sent,
    and what it has is read back and hashed (always with `deep`, too) unless that was done since its last start.
    """
    began = time.monotonic()
    plan = plan_seed(reader.manifest, site.spec.registry.prefix)
    digest = Digest.of(reader.manifest_bytes)
    name = site.spec.registry.push
    record = SeedRecord(name, start_id or "", digest, time.time())
    counts = Counts()
    readback = Readback(registry, deep or store is not None, store, sink)
    with stage(sink, STAGE, f"Fill the registry {name}", plan.total_bytes) as told:
        quick = not deep and bool(start_id) and state is not None and _remembers(state, record)
        if quick and _answers_for_all(registry, plan):
            pushed = 0
            counts.present = plan.total_bytes
        else:
            if quick:
                sink(Note("warning", f"{name} lost references that it had: every blob is asked for again"))
            quick = False
            if state is not None:
                forget_seed_record(state)
            pushed = _fill(reader, site, readback, plan, sessions=Sessions(state, name), counts=counts)
            if state is not None and start_id:
                write_seed_record(state, record)
        told.moved_bytes = counts.moved
        told.detail = "nothing to do" if not (counts.moved or pushed or counts.mounted) else f"{pushed} manifests"
    return SeedReport(
        manifest=digest,
        registry=name,
        total_bytes=plan.total_bytes,
        moved_bytes=counts.moved,
        present_bytes=counts.present,
        mounted_bytes=counts.mounted,
        blobs=len(plan.blobs),
        references=len(plan.tops),
        pushed_manifests=pushed,
        quick=quick,
        deep=readback.deep and not quick,
        seconds=time.monotonic() - began,
    )


def _fill(
    reader: BundleReader, site: Site, readback: Readback, plan: SeedPlan, *, sessions: Sessions, counts: Counts
) -> int:
    """Everything but the quick way; how many manifests were pushed."""
    prefix = site.spec.registry.prefix
    registry, store = readback.registry, readback.store
    presence = look(registry, plan.blobs, lambda repository: probe_repository(repository, prefix), readback)
    if store is not None:
        check_room(store, sum(task.size for task in plan.blobs if not presence[task.digest]))
    tally = Tally(readback.sink, STAGE, plan.total_bytes)
    bodies = {task.digest: reader.read(task.member) for task in plan.manifests}
    settle_blobs(reader, readback, plan.blobs, presence, sessions=sessions, tally=tally, counts=counts)
    pushed = push_manifests(readback, plan, bodies, tally)
    missing = missing_references(registry, plan.manifests)
    if missing:
        raise SeedIncomplete(registry=site.spec.registry.push, count=len(missing), references=", ".join(missing[:5]))
    return pushed


def _answers_for_all(registry: Registry, plan: SeedPlan) -> bool:
    """Whether nothing is missing. A registry that runs and fails at a reference may have lost bits of a manifest."""
    try:
        return not missing_references(registry, plan.manifests)
    except RegistryUnreachable:
        return False


def _remembers(state: Path, record: SeedRecord) -> bool:
    known = read_seed_record(state)
    return known is not None and (known.registry, known.start_id, known.manifest) == (
        record.registry,
        record.start_id,
        record.manifest,
    )

"""The one image that preflight runs on the nodes: Synapse's, which has a Python; pushed before anything else is.

It goes to a place of its own below the site's prefix, so that before the bundle has verified nothing stands under
a name that the stack uses.
"""

from __future__ import annotations

from dataclasses import replace

from mxinstall.seed.blobs import check_room, look, settle_blobs
from mxinstall.seed.manifests import push_manifests
from mxinstall.seed.plan import PROBE_PREFIX, plan_seed, probe_repository
from mxinstall.seed.readback import Readback
from mxinstall.seed.sessions import Sessions
from mxinstall.seed.tally import Counts, Tally
from mxinstall.seed.target import connect, ready, store_of
from mxinstall.site import Site, state_directory
from sitebundle.archive import BundleReader
from sitebundle.errors import StackInvalid
from sitebundle.events import Sink, stage
from sitebundle.manifest import BundleManifest, Image
from sitebundle.reference import Reference, site_reference
from sitebundle.stack import Stack

IMAGE = "synapse"
"""Its key in the stack's image table."""
STAGE = "probe-image"


def probe_image(manifest: BundleManifest, stack: Stack) -> Image:
    """The carried image that has a Python. Raises StackInvalid when the stack names none."""
    wanted = Reference.parse(stack.images[IMAGE]).tagged if IMAGE in stack.images else None
    for image in manifest.images:
        if wanted and Reference.parse(image.reference).tagged == wanted:
            return image
    raise StackInvalid(path="stack/stack.yaml", detail=f"the bundle carries no image {IMAGE} to probe with")


def probe_reference(image: Image, site: Site) -> str:
    """What a probe pod names: the form that deployed references have, at the probe image's own place."""
    registry = site.spec.registry
    reference = Reference.parse(image.reference)
    if registry.images == "mirror":
        return str(reference.pinned(image.digest))
    prefix = "/".join(part for part in (registry.prefix, PROBE_PREFIX) if part)
    return site_reference(reference, image.digest, registry.pull, prefix, registry.reference_form)


def push_probe(reader: BundleReader, stack: Stack, site: Site, sink: Sink) -> str:
    """Have the probe image at the site's registry and return what a pod names it. Sends only what is missing.

    Raises what `seed_site` raises.
    """
    image = probe_image(reader.manifest, stack)
    prefix = site.spec.registry.prefix
    plan = plan_seed(reader.manifest, prefix, [image])
    ready(reader, site)
    registry = connect(site, sink)
    with stage(sink, STAGE, "Push the probe image", plan.total_bytes) as told:
        counts = Counts()
        tally = Tally(sink, STAGE, plan.total_bytes)
        if site.spec.registry.images == "rewrite":
            plan = replace(
                plan,
                blobs=tuple(replace(t, repositories=_moved(t.repositories, prefix)) for t in plan.blobs),
                children=tuple(replace(t, repository=probe_repository(t.repository, prefix)) for t in plan.children),
                tops=tuple(replace(t, repository=probe_repository(t.repository, prefix)) for t in plan.tops),
            )
        missing = [t for t in plan.manifests if registry.resolve(t.repository, t.digest) is None]
        if missing:
            store = store_of(site)
            readback = Readback(registry, False, store, sink)
            presence = look(registry, plan.blobs, readback=readback)
            if store is not None:
                check_room(store, sum(t.size for t in plan.blobs if not presence[t.digest]))
            bodies = {t.digest: reader.read(t.member) for t in plan.manifests}
            sessions = Sessions(state_directory(site.name), registry.name)
            settle_blobs(reader, readback, plan.blobs, presence, sessions=sessions, tally=tally, counts=counts)
            push_manifests(readback, plan, bodies, tally)
        told.moved_bytes = counts.moved
    return probe_reference(image, site)


def _moved(repositories: tuple[str, ...], prefix: str) -> tuple[str, ...]:
    return tuple(probe_repository(repository, prefix) for repository in repositories)

"""What would be changed: every release rendered with the site's real values, compared with what is there.

Reads only. A reference that is neither in the bundle nor at the site ends it here, before any change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxinstall.carried import Carried
from mxinstall.cluster import Cluster, Object
from mxinstall.deploy import certificates, secrets
from mxinstall.deploy.crds import KIND as CRD
from mxinstall.deploy.crds import changed_crds
from mxinstall.deploy.drift import drifted, is_hook
from mxinstall.deploy.inventory import ReleaseRecord, deployed, rendered_hash
from mxinstall.deploy.releases import Change, PlannedRelease, namespace_object
from mxinstall.deploy.rollout import Rollout, rollout_of, unfinished
from mxinstall.helm_release import check_record_size
from sitebundle.digest import Digest
from sitebundle.errors import ReferenceNotInBundle, TransportError
from sitebundle.helm import Helm
from sitebundle.manifest import BundleManifest
from sitebundle.operands import Operands
from sitebundle.podspecs import image_uses
from sitebundle.reference import Reference, site_reference
from sitebundle.rendering import Sources, merged, render, values_for
from sitebundle.stack import Release, Stack

if TYPE_CHECKING:
    from mxinstall.site import Site


@dataclass(frozen=True)
class Plan:
    """A generation against a site: what is new, changed or gone. `bytes_to_move` is what the registry lacks."""

    generation: int
    manifest_digest: Digest
    kubernetes: str
    levels: tuple[tuple[PlannedRelease, ...], ...]
    removed: tuple[str, ...]
    namespaces: tuple[str, ...]
    secrets: tuple[str, ...]
    crds: tuple[str, ...]
    certificates: tuple[str, ...] = ()
    bytes_to_move: int = 0

    @property
    def releases(self) -> tuple[PlannedRelease, ...]:
        """All releases in order."""
        return tuple(planned for level in self.levels for planned in level)

    @property
    def nothing_to_do(self) -> bool:
        """Whether the site is exactly this already."""
        waiting = (self.removed, self.namespaces, self.secrets, self.crds, self.certificates)
        return not any(waiting) and all(planned.change == "unchanged" for planned in self.releases)

    def as_json(self) -> dict[str, Any]:
        """The plan as plain values."""
        return {
            "generation": self.generation,
            "manifest": self.manifest_digest,
            "kubernetes": self.kubernetes,
            "nothing_to_do": self.nothing_to_do and not self.bytes_to_move,
            "bytes_to_move": self.bytes_to_move,
            "releases": [
                {
                    "name": planned.name,
                    "namespace": planned.release.namespace,
                    "level": level,
                    "change": planned.change,
                    "objects": len(planned.objects),
                    "images": list(planned.references),
                    "drift": list(planned.drift),
                    "rollback": planned.release.rollback,
                    "rollout": planned.rollout.as_json(),
                }
                for level, releases in enumerate(self.levels)
                for planned in releases
            ],
            "removed": list(self.removed),
            "namespaces": list(self.namespaces),
            "secrets": list(self.secrets),
            "crds": list(self.crds),
            "certificates": list(self.certificates),
        }


def make_plan(
    cluster: Cluster, carried: Carried, site: Site, helm: Path, inventory: Mapping[str, ReleaseRecord]
) -> Plan:
    """Render and compare. Raises RenderFailed, ReferenceNotInBundle, ClusterUnreachable."""
    stack, kubernetes = carried.stack, cluster.version()
    levels = stack.levels(site.spec.profile)
    wanted = stack.secrets_at(site.spec_mapping())
    rendered = render_releases(cluster, carried, site, helm)
    known = {reference for record in inventory.values() for reference in record.references}
    check_references(
        {name: objects for name, (objects, _) in rendered.items()},
        site_names(carried.manifest, site) | known,
        carried.operands,
    )
    planned = tuple(
        tuple(_compared(cluster, carried, release, *rendered[release.name], inventory) for release in level)
        for level in levels
    )
    return Plan(
        generation=carried.manifest.generation,
        manifest_digest=carried.manifest.digest,
        kubernetes=kubernetes,
        levels=planned,
        removed=tuple(sorted(set(inventory) - set(rendered))),
        namespaces=tuple(
            obj["metadata"]["name"] for obj in drifted(cluster, [namespace_object(ns) for ns in stack.namespaces])
        ),
        secrets=tuple(secrets.missing(cluster, wanted) + _copy_gaps(cluster, carried, site)),
        crds=tuple(changed_crds(cluster, carried.crds)),
        certificates=tuple(
            str(entry) for entry in [*certificates.due(cluster, wanted), *certificates.behind(cluster, wanted)]
        ),
    )


def copies(stack: Stack, site: Site) -> list[secrets.Copies]:
    """The operator's own Secrets in `mx-system` that this site names, and where they are copied to."""
    found = secrets.copies_of_given(stack.given_secrets, site.spec_mapping())
    if pull_secret := site.spec.registry.pull_secret:
        found.append(secrets.pull_secret_copies(pull_secret, [namespace.name for namespace in stack.namespaces]))
    return found


def _copy_gaps(cluster: Cluster, carried: Carried, site: Site) -> list[str]:
    return [gap for wanted in copies(carried.stack, site) for gap in secrets.copy_gaps(cluster, wanted)]


def with_bytes_to_move(plan: Plan, manifest: BundleManifest, site: Site) -> Plan:
    """The plan with the bytes that the registry lacks; all of them when it does not answer (yet)."""
    from mxinstall.registry import plan_for, status
    from mxinstall.seed import connect, look, plan_seed

    wanted = plan_seed(manifest, site.spec.registry.prefix)
    if site.spec.registry.mode == "host" and not status(plan_for(site)).answers:
        return replace(plan, bytes_to_move=wanted.total_bytes)
    try:
        presence = look(connect(site), wanted.blobs)
    except TransportError:
        return replace(plan, bytes_to_move=wanted.total_bytes)
    return replace(plan, bytes_to_move=sum(task.size for task in wanted.blobs if not presence[task.digest]))


def render_releases(
    cluster: Cluster, carried: Carried, site: Site, helm: Path
) -> dict[str, tuple[tuple[Object, ...], dict[str, Any]]]:
    """Objects and values of every release of the site's profile. Raises RenderFailed."""
    kubernetes = cluster.version()
    return {
        release.name: _rendered(cluster, carried, site, release, helm, kubernetes)
        for level in carried.stack.levels(site.spec.profile)
        for release in level
    }


def site_names(manifest: BundleManifest, site: Site) -> set[str]:
    """Every reference that a pod at this site may name: the images of the bundle, as the site calls them."""
    name_of = site_namer(manifest, site)
    return {name_of(image.reference) for image in manifest.images}


def site_namer(manifest: BundleManifest, site: Site) -> Callable[[str], str]:
    """From an upstream reference to what a pod at this site names. One that is not carried stays as it is."""
    digests = {Reference.parse(image.reference).tagged: image.digest for image in manifest.images}
    registry = site.spec.registry

    def name_of(text: str) -> str:
        reference = Reference.parse(text)
        digest = digests.get(reference.tagged)
        if digest is None or (reference.digest is not None and reference.digest != digest):
            return text
        if registry.images == "mirror":
            return str(reference.pinned(digest))
        return site_reference(reference, digest, registry.pull, registry.prefix, registry.reference_form)

    return name_of


def check_references(rendered: Mapping[str, Iterable[Object]], allowed: set[str], operands: Operands) -> None:
    """Raise ReferenceNotInBundle for the first reference that no pod at this site could pull."""
    for release, objects in rendered.items():
        for use in image_uses(objects, release, operands):
            if use.reference not in allowed:
                raise ReferenceNotInBundle(
                    release=use.release, reference=use.reference, object=use.object, field=use.field
                )


def placed(objects: Iterable[Object], namespace: str, namespaced: Callable[[Object], bool]) -> tuple[Object, ...]:
    """Objects with the release's namespace where a namespaced one names none, CRDs left out."""
    found = []
    for obj in objects:
        if obj["kind"] == CRD:
            continue
        metadata = obj["metadata"]
        if not metadata.get("namespace") and namespaced(obj):
            metadata = {**metadata, "namespace": namespace}
        found.append({**obj, "metadata": metadata})
    return tuple(found)


def _rendered(
    cluster: Cluster, carried: Carried, site: Site, release: Release, helm: Path, kubernetes: str
) -> tuple[tuple[Object, ...], dict[str, Any]]:
    name_of = site_namer(carried.manifest, site)
    values = values_for(
        carried.stack,
        release,
        site.spec.profile,
        carried.directory,
        name_of,
        site.spec_mapping(),
    )
    values = merged(values, site.spec.values.get(release.name, {}))
    sources = Sources(charts=carried.charts, files=carried.files)
    objects = render(
        carried.stack,
        release,
        sources,
        values,
        Helm(helm),
        kubernetes,
        name_of,
        carried.operands,
        site.spec.registry.pull_secret,
    )
    scopes = {
        (crd["spec"]["group"], crd["spec"]["names"]["kind"]): crd["spec"]["scope"] == "Namespaced"
        for crd in carried.crds
    }

    def namespaced(obj: Object) -> bool:
        group = obj["apiVersion"].rpartition("/")[0]
        carried_scope = scopes.get((group, obj["kind"]))
        known = carried_scope if carried_scope is not None else cluster.namespaced(obj["apiVersion"], obj["kind"])
        return True if known is None else known

    return placed(objects, release.namespace, namespaced), values


def _compared(
    cluster: Cluster,
    carried: Carried,
    release: Release,
    objects: tuple[Object, ...],
    values: dict[str, Any],
    inventory: Mapping[str, ReleaseRecord],
) -> PlannedRelease:
    record = inventory.get(release.name)
    rendered = rendered_hash(objects)
    change: Change = "unchanged"
    drift: tuple[str, ...] = ()
    if record is None:
        change = "new"
    elif record.rendered_hash != rendered:
        change = "changed"
    else:
        differing = drifted(cluster, [obj for obj in objects if not is_hook(obj)])
        drift = (*(str(deployed(obj)) for obj in differing), *unfinished(cluster, objects))
        change = "drifted" if drift else "unchanged"
    chart = carried.charts.get(release.name)
    if chart is not None:
        check_record_size(release.name, chart, values, objects)
    moves = chart is not None and change in ("changed", "drifted")
    return PlannedRelease(
        release=release,
        change=change,
        objects=objects,
        rendered_hash=rendered,
        values=values,
        chart=chart,
        references=tuple(sorted({use.reference for use in image_uses(objects, release.name, carried.operands)})),
        drift=drift,
        rollout=rollout_of(cluster, objects, record) if moves else Rollout(),
    )

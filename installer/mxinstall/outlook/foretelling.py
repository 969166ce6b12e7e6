"""Puts an outlook together: objects and pods from dry runs, images from the registry, seconds from measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mxinstall.cluster import Cluster
from mxinstall.deploy.inventory import ReleaseRecord
from mxinstall.deploy.journal import read_accounts
from mxinstall.outlook.changes import Seen, by_operators, of_release, of_removed
from mxinstall.outlook.durations import expected, read_rates
from mxinstall.outlook.model import Outlook
from mxinstall.plan import Plan
from mxinstall.site import Site
from sitebundle.errors import TransportError
from sitebundle.manifest import BundleManifest

_POSTGRES = ("postgresql.cnpg.io/v1", "Cluster")


def foretell(
    cluster: Cluster,
    plan: Plan,
    manifest: BundleManifest,
    site: Site,
    inventory: Mapping[str, ReleaseRecord],
    state: Path,
) -> Outlook:
    """What installing `plan` would do. `state`: the host's folder for the site. Reads only.

    Raises ClusterUnreachable, and ClusterRefused where reading is not allowed.
    """
    seen: dict[str, list[Seen]] = {
        planned.name: of_release(cluster, planned, inventory.get(planned.name)) for planned in plan.releases
    }
    seen |= {name: of_removed(cluster, inventory[name]) for name in plan.removed}
    everything = [entry for changes in seen.values() for entry in changes]
    restarts = [entry.restart for entry in everything if entry.restart is not None]
    known = {restart.workload for restart in restarts}
    instances = [cluster.get(*_POSTGRES, name, namespace) for name, namespace in _clusters_of(plan)]
    by_operator = by_operators(everything, [found for found in instances if found is not None])
    restarts += [restart for restart in by_operator if restart.workload not in known]
    applied = [planned.name for planned in plan.releases if planned.change != "unchanged"]
    return Outlook(
        generation=plan.generation,
        bytes_to_move=plan.bytes_to_move,
        images_missing=images_missing(manifest, site),
        images=len(manifest.images),
        objects={name: tuple(entry.change for entry in changes) for name, changes in seen.items() if changes},
        restarts=tuple(sorted(restarts, key=lambda restart: restart.workload)),
        durations=expected(plan.bytes_to_move, applied, read_accounts(cluster), read_rates(state)),
        for_good=tuple(_for_good(plan, inventory, everything)),
        around={
            "namespaces": plan.namespaces,
            "secrets": plan.secrets,
            "CRDs": plan.crds,
            "certificates": plan.certificates,
        },
    )


def images_missing(manifest: BundleManifest, site: Site) -> tuple[str, ...]:
    """The images whose top manifest the site's registry does not have; all of them while it does not answer."""
    from mxinstall.registry import plan_for, status
    from mxinstall.seed import connect, plan_seed
    from sitebundle.reference import Reference, site_repository

    everything = tuple(sorted(image.reference for image in manifest.images))
    if site.spec.registry.mode == "host" and not status(plan_for(site)).answers:
        return everything
    prefix = site.spec.registry.prefix
    try:
        registry = connect(site)
        tops = plan_seed(manifest, prefix).tops
        there = {(task.repository, task.digest) for task in tops if registry.resolve(task.repository, task.digest)}
    except TransportError:
        return everything
    return tuple(
        sorted(
            image.reference
            for image in manifest.images
            if (site_repository(Reference.parse(image.reference), prefix), image.digest) not in there
        )
    )


def _clusters_of(plan: Plan) -> list[tuple[str, str]]:
    return [
        (obj["metadata"]["name"], obj["metadata"]["namespace"])
        for planned in plan.releases
        for obj in planned.objects
        if (obj.get("apiVersion"), obj.get("kind")) == _POSTGRES
    ]


def _for_good(plan: Plan, inventory: Mapping[str, ReleaseRecord], seen: Sequence[Seen]) -> list[str]:
    """What no later command takes back."""
    newest = max((record.generation for record in inventory.values()), default=0)
    found = []
    if plan.generation > newest:
        found.append(f"generations before {plan.generation} are refused at this site from now on")
    for planned in plan.releases:
        if planned.change in ("changed", "drifted") and planned.release.rollback != "yes":
            found.append(f"{planned.name}: {_way_back(planned.release.rollback)}")
    found += [f"{name} leaves the site with all that is not data" for name in plan.removed]
    if plan.crds and inventory:
        found.append(f"{len(plan.crds)} CRDs change; what is stored is kept, older versions of them do not come back")
    gone = sum(entry.change.action == "delete" for entry in seen)
    if gone and not plan.removed:
        found.append(f"{gone} objects are deleted")
    return found


def _way_back(rollback: str) -> str:
    if rollback == "never":
        return "there is no way back to the version of before"
    return f"there is no way back once it is {rollback.removeprefix('until ').replace('-', ' ')}"

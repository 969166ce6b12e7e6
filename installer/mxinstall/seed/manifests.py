"""Naming what was brought: manifests by digest and by tag, children before the indexes that list them."""

from __future__ import annotations

from collections.abc import Sequence

from mxinstall.seed.blobs import LOOKERS, MOVERS
from mxinstall.seed.plan import ManifestTask, SeedPlan
from mxinstall.seed.readback import Readback
from mxinstall.seed.tally import Tally
from mxinstall.seed.threads import together
from sitebundle.digest import Digest
from sitebundle.oci.client import Registry


def push_manifests(readback: Readback, plan: SeedPlan, bodies: dict[Digest, bytes], tally: Tally) -> int:
    """Push what is not there yet, children first; how many were pushed."""
    registry = readback.registry
    # All of them before any is asked for by name: a registry cannot answer for a manifest that is no JSON any more.
    for task in plan.manifests:
        readback.heal_manifest(task.repository, task.digest, task.size)

    def push(task: ManifestTask) -> bool:
        sent = False
        for name in (task.digest, *task.tags):
            found = registry.resolve(task.repository, name)
            if found is None or found.digest != task.digest:
                registry.put_manifest(task.repository, name, bodies[task.digest], task.media_type)
                sent = True
        tally.complete(task.digest, task.size, task.repository)
        return sent

    return sum(sum(together(push, batch, MOVERS)) for batch in (plan.children, plan.tops))


def missing_references(registry: Registry, manifests: Sequence[ManifestTask]) -> list[str]:
    """References that the registry does not answer for with the right digest, by digest and by each tag."""

    def ask(question: tuple[ManifestTask, str]) -> str | None:
        task, name = question
        found = registry.resolve(task.repository, name)
        return None if found is not None and found.digest == task.digest else f"{task.repository}:{name}"

    asked = [(task, name) for task in manifests for name in (task.digest, *task.tags)]
    return [answer for answer in together(ask, asked, LOOKERS) if answer is not None]

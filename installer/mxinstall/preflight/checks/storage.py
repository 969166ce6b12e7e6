"""Storage: the classes that site.yaml names exist, and a volume of each can really be written."""

from __future__ import annotations

import json
import re

from mxinstall.preflight.context import Context, name_of
from mxinstall.preflight.model import Verdict, check
from mxinstall.preflight.probes import ProbeSpace
from mxinstall.seed import probe_image, probe_reference
from sitebundle.errors import StorageClassMissing

_FIELDS = ("database", "objects", "default")
_PROBE_SIZE = "64Mi"
_SCRIPT = """\
import json, os, time
block = os.urandom(1 << 20)
path = "/volume/mx-preflight"
slowest = 0.0
began = time.monotonic()
with open(path, "wb", buffering=0) as file:
    for _ in range(8):
        file.write(block)
        before = time.monotonic()
        os.fsync(file.fileno())
        slowest = max(slowest, time.monotonic() - before)
seconds = time.monotonic() - began
with open(path, "rb") as file:
    for _ in range(8):
        assert file.read(1 << 20) == block, "what was read is not what was written"
os.unlink(path)
print(json.dumps({"slowest_fsync_ms": round(slowest * 1000, 1), "mib_per_second": round(8 / seconds, 1)}))
"""


def classes_in_use(context: Context) -> dict[str, list[str]]:
    """StorageClass -> the fields of site.yaml that name it, for fields that a release of the profile takes."""
    named: dict[str, list[str]] = {}
    for field in _FIELDS:
        if context.uses(f"storage.{field}"):
            named.setdefault(getattr(context.site.spec.storage, field), []).append(field)
    return named


@check(
    id="storage.classes",
    title="The StorageClasses that site.yaml names exist",
    protects="A volume of a class that does not exist stays Pending for ever, and so does its pod.",
    needs=("list storageclasses",),
)
def classes(context: Context) -> Verdict:
    """Only classes that the profile really takes count."""
    known = sorted(name_of(entry) for entry in context.storage_classes)
    missing = [
        f"{name} (spec.storage.{', spec.storage.'.join(fields)})"
        for name, fields in classes_in_use(context).items()
        if name not in known
    ]
    return Verdict.judge(
        not missing,
        seen=f"missing: {', '.join(missing)}; there are: {', '.join(known) or 'none'}" if missing else ", ".join(known),
        expected=", ".join(classes_in_use(context)) or "none is used",
        todo="Name existing classes in site.yaml, or install the provisioner.",
        error=StorageClassMissing(wanted=", ".join(missing), known=", ".join(known) or "none"),
    )


@check(
    id="storage.write",
    title="A volume of each class is bound, written, synced and read back",
    protects="A class may exist without a provisioner that lives, or give volumes that cannot be written.",
    needs=("create namespaces, pods, persistentvolumeclaims",),
    active=True,
    applies=lambda context: bool(classes_in_use(context)),
)
def write(context: Context) -> Verdict:
    """One claim and one pod per class; the pod runs where the provisioner wants it."""
    space = context.space
    assert space is not None
    image = probe_reference(probe_image(context.manifest, context.stack), context.site)
    names = {f"storage-{_slug(name)}": name for name in classes_in_use(context)}
    for pod, storage_class in names.items():
        _claim(space, pod, storage_class)
        space.start(pod, image, _SCRIPT, claim=pod)
    seen, bad = [], []
    for outcome in space.wait(list(names)):
        storage_class = names[outcome.name]
        if outcome.trouble:
            detail = space.events(outcome.name) or outcome.trouble
            bad.append(f"{storage_class}: {detail}")
            continue
        measured = json.loads(outcome.log.strip().splitlines()[-1])
        seen.append(
            f"{storage_class} on {outcome.node}: slowest fsync {measured['slowest_fsync_ms']} ms, "
            f"{measured['mib_per_second']} MiB/s"
        )
    return Verdict.judge(
        not bad,
        seen="; ".join(bad or seen),
        expected="8 MiB written, synced and read back in each class",
        todo="Look at the provisioner's pods and the claim's events; then run preflight again.",
    )


def _claim(space: ProbeSpace, name: str, storage_class: str) -> None:
    space.put(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": storage_class,
                "resources": {"requests": {"storage": _PROBE_SIZE}},
            },
        }
    )


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9-]", "-", name)[:40].strip("-")

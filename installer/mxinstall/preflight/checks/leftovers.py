"""Leftovers: what others, or an install that did not end, have put where the stack goes."""

from __future__ import annotations

from mxinstall.deploy.names import NAMESPACE as SYSTEM
from mxinstall.deploy.names import OURS
from mxinstall.preflight.context import Context, name_of
from mxinstall.preflight.model import Verdict, check

_OF_THE_STACK = "mxbundle.io/stack"
_APPLIERS = frozenset({"Apply", "Update"})
_BYSTANDERS = frozenset({"kube-apiserver", "mxinstall", "manager", "cert-manager-cainjector"})
"""Field managers that write into a CRD without owning it: status, CA bundles, an operator's conversion settings."""
_PENDING = ("pending-install", "pending-upgrade", "pending-rollback", "uninstalling")


@check(
    id="leftovers.namespaces",
    title="The stack's namespaces are ours, or not there yet",
    protects="Installing into somebody else's namespace mixes two owners; a terminating one takes everything with it.",
    needs=("get namespaces",),
)
def namespaces(context: Context) -> Verdict:
    """The labels that the installer puts on its own."""
    ending, foreign = [], []
    names = dict.fromkeys((SYSTEM, *context.our_namespaces))
    for name in names:
        found = context.cluster.get("v1", "Namespace", name)
        if found is None:
            continue
        labels = found["metadata"].get("labels") or {}
        if found.get("status", {}).get("phase") == "Terminating":
            ending.append(name)
        elif name == SYSTEM and (context.site.spec.registry.pull_secret or context.site.spec.backups.s3):
            continue  # The operator makes it, to put the pull secret or the backups' keys there.
        elif not (labels.get(_OF_THE_STACK) == "true" or OURS.items() <= labels.items()):
            foreign.append(name)
    told = [f"{name} is being deleted" for name in ending] + [f"{name} was made by somebody else" for name in foreign]
    return Verdict.judge(
        not told,
        seen="; ".join(told) or "nothing foreign",
        expected=f"{', '.join(names)} absent or labelled as ours",
        todo="Wait until deleting ends; move what is in a foreign namespace away, or delete it.",
    )


@check(
    id="leftovers.releases",
    title="No Helm release of the stack is stuck, and none is in the way",
    protects="Helm refuses to touch a release whose last operation never ended.",
    severity="warn",
    needs=("list secrets",),
)
def releases(context: Context) -> Verdict:
    """Helm's own records in the stack's namespaces."""
    stuck, foreign = [], []
    ours = {release.name for release in context.stack.releases}
    for namespace in context.our_namespaces:
        for secret in context.cluster.list("v1", "Secret", namespace, "owner=helm"):
            labels = secret["metadata"].get("labels") or {}
            name = f"{namespace}/{labels.get('name')} revision {labels.get('version')}"
            if labels.get("status") in _PENDING:
                stuck.append(f"{name} is {labels['status']}")
            elif labels.get("name") not in ours:
                foreign.append(f"{name} is not of this stack")
    return Verdict.judge(
        not stuck and not foreign,
        seen="; ".join(stuck + foreign) or "none",
        expected="no release pending, none of others",
        todo="A pending release of ours is taken up again by the install; remove releases of others with helm.",
    )


@check(
    id="leftovers.crds",
    title="No CRD that the bundle brings belongs to somebody else",
    protects="Two owners of a CRD undo each other's versions; the older one may drop fields that are stored.",
    needs=("get customresourcedefinitions",),
)
def crds(context: Context) -> Verdict:
    """Who has applied it, by its managed fields and Helm's annotation."""
    foreign = []
    for carried in context.manifest.crds:
        found = context.cluster.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", carried.name)
        if found is None:
            continue
        metadata = found["metadata"]
        release = (metadata.get("annotations") or {}).get("meta.helm.sh/release-name")
        managers = {
            entry.get("manager", "?")
            for entry in metadata.get("managedFields") or ()
            if entry.get("operation") in _APPLIERS
            and entry.get("subresource") != "status"
            and "f:versions" in (entry.get("fieldsV1") or {}).get("f:spec", {})
        } - _BYSTANDERS
        if release or managers:
            owner = f"Helm release {release}" if release else ", ".join(sorted(managers))
            foreign.append(f"{name_of(found)} ({owner})")
    return Verdict.judge(
        not foreign,
        seen=", ".join(foreign) or f"{len(context.manifest.crds)} CRDs, none foreign",
        expected="absent, or applied by mxinstall",
        todo="Remove the other operator with its CRDs if nothing uses it, or install this stack on another cluster.",
    )

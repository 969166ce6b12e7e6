"""Kubernetes itself: its version, how far the kubelets are behind, and what we may do."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

from mxinstall.preflight.context import Context, name_of
from mxinstall.preflight.model import Verdict, check

_NEEDED = (
    ("create", "namespaces", ""),
    ("create", "secrets", ""),
    ("patch", "secrets", ""),
    ("create", "configmaps", ""),
    ("create", "services", ""),
    ("create", "serviceaccounts", ""),
    ("create", "serviceaccounts/token", ""),
    ("create", "persistentvolumeclaims", ""),
    ("create", "pods", ""),
    ("delete", "pods", ""),
    ("get", "pods/log", ""),
    ("get", "pods/proxy", ""),
    ("get", "services/proxy", ""),
    ("list", "nodes", ""),
    ("list", "storageclasses", "storage.k8s.io"),
    ("create", "deployments", "apps"),
    ("create", "statefulsets", "apps"),
    ("create", "jobs", "batch"),
    ("create", "poddisruptionbudgets", "policy"),
    ("create", "networkpolicies", "networking.k8s.io"),
    ("create", "leases", "coordination.k8s.io"),
    ("create", "clusterroles", "rbac.authorization.k8s.io"),
    ("escalate", "clusterroles", "rbac.authorization.k8s.io"),
    ("create", "clusterrolebindings", "rbac.authorization.k8s.io"),
    ("create", "customresourcedefinitions", "apiextensions.k8s.io"),
    ("create", "validatingwebhookconfigurations", "admissionregistration.k8s.io"),
    ("create", "mutatingwebhookconfigurations", "admissionregistration.k8s.io"),
)
_SKEW_MINORS = 3
"""A kubelet may be three minors older than the API server, never newer: Kubernetes' version skew policy."""
_COMPARISONS = {
    ">=": lambda seen, wanted: seen >= wanted,
    "<=": lambda seen, wanted: seen <= wanted,
    ">": lambda seen, wanted: seen > wanted,
    "<": lambda seen, wanted: seen < wanted,
    "==": lambda seen, wanted: seen == wanted,
}


def minor(version: str) -> tuple[int, int]:
    """Major and minor of `v1.36.3`. Raises ValueError."""
    match = re.match(r"v?(\d+)\.(\d+)", version)
    if match is None:
        raise ValueError(f"not a version: {version!r}")
    return int(match[1]), int(match[2])


def in_window(version: str, window: str) -> bool:
    """Whether a version's minor is in a window like `>=1.33,<1.38`. Raises ValueError for what is no window."""
    for part in filter(None, (piece.strip() for piece in window.split(","))):
        match = re.fullmatch(r"(>=|<=|>|<|==)\s*(.+)", part)
        if match is None:
            raise ValueError(f"not a comparison: {part!r}")
        if not _COMPARISONS[match[1]](minor(version), minor(match[2])):
            return False
    return True


@check(
    id="kubernetes.version",
    title="The API server's version is one that the stack was made for",
    protects="Objects of versions that this API server does not know, or has dropped, fail halfway.",
)
def version(context: Context) -> Verdict:
    """The window of stack.yaml."""
    return Verdict.judge(
        in_window(context.version, context.stack.kubernetes),
        seen=context.version,
        expected=context.stack.kubernetes,
        todo="Upgrade or choose a cluster of this version, or use a bundle made for the version that is there.",
    )


@check(
    id="kubernetes.skew",
    title="No kubelet is newer than the API server or too far behind it",
    protects="A kubelet outside the supported skew may refuse or misread pods.",
    needs=("list nodes",),
)
def skew(context: Context) -> Verdict:
    """Kubernetes' own rule."""
    major, server = minor(context.version)
    outside = [
        f"{name_of(node)} {node['status']['nodeInfo']['kubeletVersion']}"
        for node in context.nodes
        if not (major, server - _SKEW_MINORS) <= minor(node["status"]["nodeInfo"]["kubeletVersion"]) <= (major, server)
    ]
    versions = sorted({node["status"]["nodeInfo"]["kubeletVersion"] for node in context.nodes})
    return Verdict.judge(
        not outside,
        seen=", ".join(outside or versions),
        expected=f"{major}.{server - _SKEW_MINORS} to {major}.{server}",
        todo="Upgrade the kubelets named above.",
    )


@check(
    id="kubernetes.permissions",
    title="This identity may do what the install does",
    protects="An install that is refused in the middle stays half done.",
)
def permissions(context: Context) -> Verdict:
    """The API server's own answers (SelfSubjectAccessReview), for all namespaces."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda need: context.cluster.can_i(*need), _NEEDED))
    missing = [
        f"{verb} {resource}{'.' + group if group else ''}"
        for (verb, resource, group), allowed in zip(_NEEDED, answers, strict=True)
        if not allowed
    ]
    return Verdict.judge(
        not missing,
        seen=f"{len(_NEEDED) - len(missing)} of {len(_NEEDED)} allowed"
        + (f", not: {', '.join(missing)}" if missing else ""),
        expected="all allowed",
        todo="Use a kubeconfig with cluster-admin, or have the permissions named above granted.",
    )

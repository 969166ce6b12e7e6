"""The registry: room for its blobs, an address that is ours to use, and a pull from every node."""

from __future__ import annotations

import re
import shutil
import socket

from mxinstall.deploy.names import NAMESPACE as SYSTEM
from mxinstall.preflight.context import Context, closed_by, name_of
from mxinstall.preflight.model import Verdict, check
from mxinstall.registry import listener_at, plan_for, status
from mxinstall.seed import connect, needed_bytes, plan_seed, probe_image, probe_reference
from sitebundle.errors import DiskTooSmall, PortTaken, RegistryRefused, RegistryUnreachable

_GIB = 2**30
PULL_TYPES = ("kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg")
_SCRIPT = 'print("pulled and started")\n'


def _is_ours(context: Context) -> bool:
    return context.site.spec.registry.mode == "host"


@check(
    id="registry.disk",
    title="This host has room for the registry's blobs",
    protects="A full disk stops the seeding, and later the registry.",
    applies=_is_ours,
)
def disk(context: Context) -> Verdict:
    """The bundle's blobs that are not in the store yet, and 5 % for the store itself."""
    plan = plan_for(context.site)
    needed = needed_bytes(plan.store, plan_seed(context.manifest, context.site.spec.registry.prefix))
    place = next(parent for parent in (plan.store, *plan.store.parents) if parent.exists())
    free = shutil.disk_usage(place).free
    return Verdict.judge(
        free >= needed,
        seen=f"{free / _GIB:.1f} GiB free below {place}",
        expected=f"at least {needed / _GIB:.2f} GiB",
        todo="Free some space, or set MXINSTALL_STATE to a directory on a larger disk.",
        error=DiskTooSmall(path=place, free_bytes=free, needed_bytes=needed),
    )


@check(
    id="registry.address",
    title="The registry's address is free on this host, or ours already",
    protects="Nodes would pull from whatever else listens there.",
    applies=_is_ours,
)
def address(context: Context) -> Verdict:
    """Asks the kernel who listens; opens nothing that stays open."""
    plan = plan_for(context.site)
    found = listener_at(plan.host, plan.port)
    if found is not None:
        ours = status(plan)
        return Verdict.judge(
            found.pid is not None and found.pid == ours.pid,
            seen=f"our registry runs (pid {ours.pid})" if found.pid == ours.pid else str(found),
            expected=f"{plan.address} free, or held by our own registry",
            todo="Stop what listens there, or choose another port in site.yaml: spec.registry.push and .pull.",
            error=PortTaken(address=plan.address, detail=str(found)),
        )
    family = socket.AF_INET6 if ":" in plan.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((plan.host, plan.port))
        except OSError as fault:
            return Verdict(
                "fail",
                f"this host cannot listen on {plan.address}: {fault.strerror or fault}",
                "an address of this host that nodes reach",
                "Name an address of this host in site.yaml: spec.registry.push and spec.registry.pull.",
            )
    return Verdict("pass", f"{plan.address} is free", "free, or ours")


@check(
    id="registry.answers",
    title="The site's registry answers",
    protects="Nothing can be seeded into a registry that does not answer.",
    applies=lambda context: not _is_ours(context),
)
def answers(context: Context) -> Verdict:
    """The API version endpoint, with the credentials that will push."""
    name = context.site.spec.registry.push
    try:
        connect(context.site).ping()
    except (RegistryUnreachable, RegistryRefused) as fault:
        return Verdict("fail", fault.message, f"{name} answers", fault.what_to_do)
    return Verdict("pass", f"{name} answers")


@check(
    id="registry.pull-secret",
    title="The registry's pull secret is where the install takes it from",
    protects="Without it every pod of the stack waits for an image for ever.",
    needs=("get secrets in mx-system",),
    applies=lambda context: context.site.spec.registry.pull_secret is not None,
)
def pull_secret(context: Context) -> Verdict:
    """Its presence and type; whether the registry takes it, the pull shows."""
    name = context.site.spec.registry.pull_secret
    found = context.cluster.get("v1", "Secret", str(name), SYSTEM)
    kind = "missing" if found is None else found.get("type", "Opaque")
    return Verdict.judge(
        kind in PULL_TYPES,
        seen=f"Secret {SYSTEM}/{name}: {kind}",
        expected=f"Secret {SYSTEM}/{name} of type {PULL_TYPES[0]}",
        todo=f"kubectl create namespace {SYSTEM}; kubectl -n {SYSTEM} create secret docker-registry {name} "
        f"--docker-server={context.site.spec.registry.pull} --docker-username=… --docker-password=…",
    )


@check(
    id="registry.pull",
    title="Every node pulls an image from the site's registry and starts it",
    protects="A node without a way to the registry, or that refuses plain HTTP or its CA, starts no pod of the stack.",
    needs=("create namespaces, pods, configmaps",),
    active=True,
)
def pull(context: Context) -> Verdict:
    """The probe image by a reference of the form that is deployed, pinned to each node, always pulled."""
    space = context.space
    assert space is not None
    image = probe_reference(probe_image(context.manifest, context.stack), context.site)
    pods = {f"pull-{re.sub('[^a-z0-9-]', '-', name_of(node))[:50]}": name_of(node) for node in context.usable_nodes}
    for pod, node in pods.items():
        space.start(pod, image, _SCRIPT, node=node)
    bad = [f"{pods[outcome.name]}: {outcome.trouble}" for outcome in space.wait(list(pods)) if outcome.trouble]
    closed = [name_of(node) for node in context.nodes if closed_by(node)]
    beside = f" (closed, not tried: {', '.join(closed)})" if closed else ""
    return Verdict.judge(
        not bad and bool(pods),
        seen=("; ".join(bad) or f"pulled and started on {', '.join(pods.values())}") + beside,
        expected=f"{image} starts on every node",
        todo="Let the nodes reach spec.registry.pull, and let their runtime accept it: plain HTTP or its CA.",
    )

"""Nodes: ready, of a platform that the bundle carries, and with room for what will run."""

from __future__ import annotations

from mxinstall.preflight.context import Context, closed_by, is_ready, name_of
from mxinstall.preflight.model import Verdict, check
from mxinstall.preflight.quantities import Room, allocatable, first_that_does_not_fit, room_of_pod, workloads
from sitebundle.errors import ClusterTooSmall


@check(
    id="nodes.ready",
    title="Every node is Ready",
    protects="Pods of a node that comes and goes are started twice, or never.",
    severity="warn",
    needs=("list nodes",),
)
def ready(context: Context) -> Verdict:
    """The Ready condition; a cordoned node may be in that state on purpose."""
    bad = [name_of(node) for node in context.nodes if not is_ready(node)]
    good = [name_of(node) for node in context.nodes if is_ready(node)]
    return Verdict.judge(
        not bad,
        seen=f"ready: {', '.join(good) or 'none'}" + (f"; not ready: {', '.join(bad)}" if bad else ""),
        expected="all ready",
        todo="Look at `kubectl describe node` of the nodes named above, or remove them from the cluster.",
    )


@check(
    id="nodes.usable",
    title="There is a node that takes ordinary pods",
    protects="Without one nothing is ever scheduled.",
    needs=("list nodes",),
)
def usable(context: Context) -> Verdict:
    """Ready, not cordoned, no taint that closes it."""
    closed = [f"{name_of(node)} ({why})" for node in context.nodes if (why := closed_by(node))]
    names = [name_of(node) for node in context.usable_nodes]
    return Verdict.judge(
        bool(names),
        seen=f"{', '.join(names) or 'none'}" + (f"; closed: {', '.join(closed)}" if closed else ""),
        expected="at least one",
        todo="Uncordon a node or remove the taint named above.",
    )


@check(
    id="nodes.platform",
    title="The bundle carries images for every usable node",
    protects="A pod on a node of another architecture cannot start: its image has nothing for it.",
    needs=("list nodes",),
)
def platform(context: Context) -> Verdict:
    """The kubelet's own word about system and architecture."""
    seen = {
        name_of(node): "{operatingSystem}/{architecture}".format(**node["status"]["nodeInfo"])
        for node in context.usable_nodes
    }
    foreign = [f"{name} ({kind})" for name, kind in seen.items() if kind not in context.manifest.platforms]
    return Verdict.judge(
        not foreign,
        seen=", ".join(foreign) or ", ".join(sorted(set(seen.values()))),
        expected=", ".join(context.manifest.platforms),
        todo="Build the bundle with --platform for these nodes too, or cordon them.",
    )


@check(
    id="nodes.room",
    title="The nodes have room for all that will run",
    protects="Pods without room stay Pending, and the install waits for them in vain.",
    needs=("list nodes", "list pods in all namespaces"),
)
def room(context: Context) -> Verdict:
    """Requests of the rendered releases against what usable nodes have left beside other people's pods.

    Sums, and the largest pod, fail; a packing that finds no place for one warns.
    """
    left = {name_of(node): allocatable(node) for node in context.usable_nodes}
    for pod in context.pods:
        node = pod.get("spec", {}).get("nodeName")
        if node in left and pod["metadata"].get("namespace") not in context.our_namespaces:
            left[node] -= room_of_pod(pod["spec"])
    wanted = [workload for objects in context.rendered.values() for workload in workloads(objects)]
    total, free = Room(), Room()
    for workload in wanted:
        for _ in range(workload.count if workload.count >= 0 else len(left)):
            total += workload.pod
    for node_room in left.values():
        free += node_room
    expected = f"at least {total} over {len(left)} nodes"
    todo = "Add nodes or memory, stop other workloads, or choose a smaller profile in site.yaml."
    if not free.fits(total):
        return _too_small(f"free: {free}", expected, todo)
    too_large = [w for w in wanted if w.count > 0 and not any(place.fits(w.pod) for place in left.values())]
    if too_large:
        largest = too_large[0]
        return _too_small(f"no node has room for one pod of {largest.name} ({largest.pod})", expected, todo)
    crowded = [w for w in wanted if w.apart and w.count > len(left)]
    if crowded:
        first = crowded[0]
        seen = f"{len(left)} usable nodes, but {first.name} wants {first.count} pods on as many nodes"
        return _too_small(seen, expected, todo)
    homeless = first_that_does_not_fit(wanted, left)
    if homeless is not None:
        return Verdict("warn", f"free: {free}, but {homeless.name} may find no place", expected, todo)
    return Verdict("pass", f"free: {free}", expected)


def _too_small(seen: str, expected: str, todo: str) -> Verdict:
    return Verdict("fail", seen, expected, todo, ClusterTooSmall(seen=seen, wanted=expected))

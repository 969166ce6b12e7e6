"""Kubernetes quantities, and what a pod asks for by the scheduler's rules. Pure.

Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/ and the scheduler's resource
helpers: containers add up, sequential init containers count as their maximum, sidecars stay, overhead is added.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

_FACTORS = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10**3),
    **{letter: Decimal(10 ** (3 * power)) for power, letter in enumerate("MGTPE", start=2)},
    **{f"{letter}i": Decimal(2 ** (10 * power)) for power, letter in enumerate("KMGTPE", start=1)},
}

Object = Mapping[str, Any]


def quantity(value: object) -> Decimal:
    """A quantity as a number: `100m` is 0.1, `1Ki` is 1024. Raises ValueError."""
    text = str(value).strip()
    number = text.rstrip("numkKMGTPEi") if not text[-1:].isdigit() else text
    try:
        return Decimal(number) * _FACTORS[text[len(number) :]]
    except (InvalidOperation, KeyError):
        raise ValueError(f"not a quantity: {text[:40]!r}") from None


@dataclass(frozen=True)
class Room:
    """Processor (cores) and memory (bytes), asked for or to be had, and how many pods."""

    cpu: Decimal = Decimal(0)
    memory: Decimal = Decimal(0)
    pods: int = 0

    def __add__(self, other: Room) -> Room:
        return Room(self.cpu + other.cpu, self.memory + other.memory, self.pods + other.pods)

    def __sub__(self, other: Room) -> Room:
        return Room(self.cpu - other.cpu, self.memory - other.memory, self.pods - other.pods)

    def fits(self, other: Room) -> bool:
        """Whether `other` can be taken out of this."""
        return other.cpu <= self.cpu and other.memory <= self.memory and other.pods <= self.pods

    def most(self, other: Room) -> Room:
        """The larger of each."""
        return Room(max(self.cpu, other.cpu), max(self.memory, other.memory), max(self.pods, other.pods))

    def __str__(self) -> str:
        return f"{float(self.cpu):.2f} cores, {float(self.memory) / 2**20:.0f} MiB, {self.pods} pods"


def room_of_pod(spec: Object) -> Room:
    """What the scheduler reserves for a pod."""
    always = sum((_requests(container) for container in spec.get("containers") or ()), Room())
    sidecars = Room()
    most_at_start = Room()
    for container in spec.get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            sidecars += _requests(container)
        else:
            most_at_start = most_at_start.most(_requests(container) + sidecars)
    overhead = _amounts(spec.get("overhead") or {})
    total = (always + sidecars).most(most_at_start) + overhead
    return Room(total.cpu, total.memory, 1)


def _requests(container: Object) -> Room:
    resources = container.get("resources") or {}
    # A limit without a request is a request.
    return _amounts({**(resources.get("limits") or {}), **(resources.get("requests") or {})})


def _amounts(entries: Object) -> Room:
    return Room(quantity(entries.get("cpu", 0)), quantity(entries.get("memory", 0)))


def allocatable(node: Object) -> Room:
    """What a node has for pods."""
    entries = (node.get("status") or {}).get("allocatable") or {}
    return Room(quantity(entries.get("cpu", 0)), quantity(entries.get("memory", 0)), int(entries.get("pods", 110)))


@dataclass(frozen=True)
class Workload:
    """Pods of one shape. `count` -1: one on every node. `apart`: no two of them on one node."""

    name: str
    pod: Room
    count: int
    apart: bool = False


def workloads(objects: Iterable[Object]) -> Iterator[Workload]:
    """What rendered objects will run: the kinds with pod templates, and CloudNativePG's clusters and poolers."""
    for obj in objects:
        kind, name, spec = obj.get("kind"), str(obj.get("metadata", {}).get("name")), obj.get("spec") or {}
        if kind in ("Deployment", "StatefulSet", "ReplicaSet"):
            template = spec["template"]["spec"]
            count = int(spec.get("replicas", 1))
            yield Workload(f"{kind}/{name}", room_of_pod(template), count, _is_apart(template))
        elif kind == "Pooler" and str(obj.get("apiVersion", "")).startswith("postgresql.cnpg.io/"):
            template = spec["template"]["spec"]
            yield Workload(f"{kind}/{name}", room_of_pod(template), int(spec["instances"]), _is_apart(template))
        elif kind == "DaemonSet":
            yield Workload(f"{kind}/{name}", room_of_pod(spec["template"]["spec"]), -1)
        elif kind == "Cluster" and str(obj.get("apiVersion", "")).startswith("postgresql.cnpg.io/"):
            affinity = spec.get("affinity") or {}
            apart = affinity.get("enablePodAntiAffinity", True) and affinity.get("podAntiAffinityType") == "required"
            pod = Room(pods=1) + _requests({"resources": spec.get("resources") or {}})
            yield Workload(f"{kind}/{name}", pod, int(spec.get("instances", 1)), bool(apart))


def _is_apart(template: Object) -> bool:
    rules = (template.get("affinity") or {}).get("podAntiAffinity") or {}
    required = rules.get("requiredDuringSchedulingIgnoredDuringExecution") or ()
    spread = template.get("topologySpreadConstraints") or ()
    return any(term.get("topologyKey") == "kubernetes.io/hostname" for term in required) and not any(
        rule.get("maxSkew", 1) > 1 for rule in spread
    )


def first_that_does_not_fit(wanted: Iterable[Workload], nodes: Mapping[str, Room]) -> Workload | None:
    """Place pods, largest first, each on the node with the most memory left; the first without a place.

    A heuristic: a place may exist where it finds none, so that its answer is a warning and never a failure.
    """
    left = dict(nodes)
    for workload in wanted:
        if workload.count < 0:
            left = {name: room - workload.pod for name, room in left.items()}
    counted = [workload for workload in wanted if workload.count > 0]
    for workload in sorted(counted, key=lambda w: (w.apart, w.pod.memory, w.pod.cpu), reverse=True):
        used: set[str] = set()
        for _ in range(workload.count):
            fitting = [
                name for name, room in left.items() if room.fits(workload.pod) and not (workload.apart and name in used)
            ]
            if not fitting:
                return workload
            place = max(fitting, key=lambda name: left[name].memory)
            left[place] -= workload.pod
            used.add(place)
    return None

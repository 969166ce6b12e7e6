"""What makes pods: how many, with which labels, by which template. Workloads by structure, operands by their table.

A HorizontalPodAutoscaler counts with its bounds. Not here: what of it is right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sitebundle.operands import Operands, PodsOf
from sitebundle.podspecs import Object

if TYPE_CHECKING:
    from mxbundle.lint.subject import Item

_TEMPLATES = {
    "Deployment": "spec.template",
    "StatefulSet": "spec.template",
    "ReplicaSet": "spec.template",
    "DaemonSet": "spec.template",
    "Job": "spec.template",
    "CronJob": "spec.jobTemplate.spec.template",
    "Pod": "",
}
LASTING = ("Deployment", "StatefulSet", "ReplicaSet")
"""Kinds whose pods are counted and are meant to stay."""
HOSTNAME = "kubernetes.io/hostname"
ANY = "*"
"""The value of a label that differs from pod to pod."""
POD_NAME = "statefulset.kubernetes.io/pod-name"
"""The label by which Kubernetes tells the pods of a StatefulSet apart."""


@dataclass(frozen=True)
class Workload:
    """One maker of pods. `replicas` is the least, `most` the greatest number of pods that it keeps.

    pod: the PodSpec at `path`, None where an operator writes it; then `operand` is the operand's entry.
    """

    item: Item
    labels: Mapping[str, str]
    replicas: int
    most: int
    path: str
    pod: Object | None
    operand: PodsOf | None = None

    @property
    def kind(self) -> str:
        """Kind of the object."""
        return self.item.kind

    @property
    def name(self) -> str:
        """Name of the object."""
        return self.item.name

    @property
    def namespace(self) -> str:
        """Where the pods are."""
        return self.item.namespace

    @property
    def lasting(self) -> bool:
        """Whether a number of pods is kept, so that disruptions can be budgeted."""
        return self.operand is not None or self.kind in LASTING

    def pod_names(self) -> tuple[str, ...]:
        """The names of a StatefulSet's pods at its least number; empty for what gives pods no stable names."""
        if self.kind != "StatefulSet":
            return ()
        start = int(at(self.item.entry, "spec.ordinals.start") or 0)
        return tuple(f"{self.name}-{start + ordinal}" for ordinal in range(self.replicas))

    @property
    def surge(self) -> int:
        """How many pods more than `most` a rolling update starts before it may end an old one."""
        path = "spec.strategy" if self.kind == "Deployment" else self.operand.strategy if self.operand else None
        strategy: Mapping[str, Any] = (at(self.item.entry, path) or {}) if path else {"type": "none"}
        if strategy.get("type", "RollingUpdate") != "RollingUpdate":
            return 0
        rolling = strategy.get("rollingUpdate") or {}
        if share(_or_default(rolling.get("maxUnavailable")), self.most, up=False) > 0:
            return 0
        return max(1, share(_or_default(rolling.get("maxSurge")), self.most, up=True))


def workloads_of(items: Iterable[Item], operands: Operands) -> Iterator[Workload]:
    """Every workload among `items`."""
    entries = list(items)
    scaled = {
        (item.namespace, str(target.get("kind")), str(target.get("name"))): at(item.entry, "spec") or {}
        for item in entries
        if item.kind == "HorizontalPodAutoscaler"
        for target in [at(item.entry, "spec.scaleTargetRef") or {}]
    }
    for item in entries:
        operand = operands.pods_of(item.group, item.kind)
        if operand is not None:
            count = int(at(item.entry, operand.replicas) or 1)
            labels = {key: _filled(value, item.entry) for key, value in operand.labels.items()}
            labels |= {str(key): str(value) for key, value in (at(item.entry, _MORE_LABELS) or {}).items()}
            pod = at(item.entry, operand.template) if operand.template else None
            yield Workload(item, labels, count, count, operand.template or "spec", pod or None, operand)
        elif item.kind in _TEMPLATES and item.group in ("", "apps", "batch"):
            path = _TEMPLATES[item.kind]
            template = at(item.entry, path) if path else item.entry
            least, most = _numbers(item.entry, scaled.get((item.namespace, item.kind, item.name)))
            labels = {str(key): str(value) for key, value in (at(template, "metadata.labels") or {}).items()}
            if item.kind == "StatefulSet":
                labels[POD_NAME] = ANY
            pod = at(template, "spec") or {}
            yield Workload(item, labels, least, most, f"{path}.spec" if path else "spec", pod)


_MORE_LABELS = "spec.template.metadata.labels"


def _filled(value: str, entry: Object) -> str:
    return str(at(entry, value[1:-1]) or "") if value.startswith("{") else value


def _numbers(entry: Object, scaler: Mapping[str, Any] | None) -> tuple[int, int]:
    written = at(entry, "spec.replicas")
    count = 1 if written is None else int(written)
    if scaler is None:
        return count, count
    return int(scaler.get("minReplicas") or 1), int(scaler.get("maxReplicas") or 1)


def _or_default(value: Any) -> Any:
    """What Kubernetes takes where nothing, or null, stands; 0 stands for itself."""
    return "25%" if value is None else value


def share(value: Any, total: int, *, up: bool) -> int:
    """A count or a percentage of `total` as a count, rounded `up` or down as Kubernetes does in that field."""
    text = str(value)
    if text.endswith("%"):
        exact = total * int(text[:-1]) / 100
        return math.ceil(exact) if up else math.floor(exact)
    return int(text)


def at(node: Any, path: str) -> Any:
    """What stands at a dotted path of mappings; None where the path ends early."""
    for part in path.split(".") if path else ():
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def matches(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector matches; an empty one matches everything, none nothing."""
    if selector is None:
        return False
    wanted = selector.get("matchLabels") or {}
    if any(labels.get(str(key)) not in (str(value), ANY) for key, value in wanted.items()):
        return False
    return all(_met(expression, labels) for expression in selector.get("matchExpressions") or ())


def _met(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, operator = str(expression.get("key")), expression.get("operator")
    values = {str(value) for value in expression.get("values") or ()}
    if operator == "In":
        return labels.get(key) in values | {ANY}
    if operator == "NotIn":
        return labels.get(key) not in values
    return (key in labels) == (operator == "Exists")


def texts(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every string inside a value, keys aside, with its path."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, Mapping):
        for key, child in node.items():
            yield from texts(child, joined(path, str(key)))
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from texts(child, f"{path}[{index}]")


def joined(path: str, key: str) -> str:
    """`path.key`; a key with dots or slashes stands in brackets, so that the path can be read back."""
    shown = key if re.fullmatch(r"[\w-]+", key) else f'["{key}"]'
    return f"{path}{shown}" if shown.startswith("[") and path else f"{path}.{shown}" if path else shown

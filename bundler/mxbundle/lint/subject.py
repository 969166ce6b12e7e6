"""What rules look at: all objects of one profile, or of files, and whatever else is known about where they come from.

Pure: how a subject is made of the stack is `mxbundle.lint.shipped`, of files `mxbundle.lint.given`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ConfigDict, Field, ValidationError

from mxbundle.lint.model import Need
from mxbundle.lint.workloads import Workload, workloads_of
from mxbundle.lock.contracts import Contracts
from mxbundle.lock.model import Lock
from sitebundle.errors import StackInvalid
from sitebundle.manifest import Value
from sitebundle.operands import Operands
from sitebundle.podspecs import Object, containers, pod_specs
from sitebundle.stack import Stack

if TYPE_CHECKING:
    from mxbundle.lint.synapse import Process

CLUSTER_SCOPED = frozenset(
    [
        "Namespace",
        "Node",
        "PersistentVolume",
        "StorageClass",
        "PriorityClass",
        "ClusterRole",
        "ClusterRoleBinding",
        "IngressClass",
        "CSIDriver",
        "ValidatingWebhookConfiguration",
        "MutatingWebhookConfiguration",
        "APIService",
        "RuntimeClass",
        "CustomResourceDefinition",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ClusterImageCatalog",
        "ClusterIssuer",
    ]
)


@dataclass(frozen=True)
class Item:
    """One object and the release that it belongs to (for files: the file's name)."""

    release: str
    entry: Object

    @property
    def kind(self) -> str:
        """The object's kind."""
        return str(self.entry.get("kind"))

    @property
    def group(self) -> str:
        """The group of its apiVersion; empty for the core group."""
        return str(self.entry.get("apiVersion", "")).rpartition("/")[0]

    @property
    def name(self) -> str:
        """The object's name."""
        return str(self.entry["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """The object's namespace; empty for what has none, `default` where a file leaves it open."""
        given = self.entry["metadata"].get("namespace")
        return str(given) if given else "" if self.kind in CLUSTER_SCOPED else "default"


@dataclass(frozen=True)
class Definition:
    """That a release brings the CustomResourceDefinition of a kind."""

    release: str
    group: str
    kind: str


class Nodes(Value):
    """The nodes that a profile is made for: `nodes:` of its file. `roles`: how many of them serve only that role.

    A role `database` is the label `mxbundle.io/database`; `control-plane` takes no ordinary pods.
    """

    model_config = ConfigDict(extra="forbid")

    count: int = Field(ge=1)
    roles: dict[str, int] = Field(default_factory=dict)

    @property
    def ordinary(self) -> int:
        """How many nodes take pods that ask for no role."""
        return self.count - sum(self.roles.values())


@dataclass(frozen=True)
class Renders:
    """A chart release rendered again, and what it is made of.

    first, again: the same values twice. other_version: with another version of the chart and nothing else changed.
    files: path inside the chart -> content. config: the values given to helm.
    """

    first: str
    again: str
    other_version: str
    files: Mapping[str, bytes]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """All objects of one profile (CRDs apart), with what is known besides them; what is not known is None or empty."""

    items: tuple[Item, ...]
    operands: Operands
    definitions: tuple[Definition, ...] = ()
    profile: str | None = None
    stack: Stack | None = None
    nodes: Nodes | None = None
    site: Mapping[str, Any] = field(default_factory=dict)
    pull_secret: str | None = None
    registry: str | None = None
    contracts: Contracts = field(default_factory=lambda: Contracts({}))
    lock: Lock | None = None
    renders: Mapping[str, Renders] | None = None
    own_hosts: tuple[str, ...] = ()

    def has(self, need: Need) -> bool:
        """Whether what a rule needs is there."""
        return {
            "stack": self.stack is not None,
            "whole": self.stack is not None and self.renders is not None,
            "renders": self.renders is not None,
            "lock": self.lock is not None,
            "registry": self.registry is not None,
            "pull-secret": self.pull_secret is not None,
        }[need]

    def of_kind(self, *kinds: str, group: str | None = None) -> Iterator[Item]:
        """The objects of these kinds; with `group`, only of that API group."""
        for item in self.items:
            if item.kind in kinds and group in (None, item.group):
                yield item

    def find(self, kind: str, namespace: str, name: str) -> Item | None:
        """The one object with that kind, namespace and name."""
        return self._index.get((kind, namespace, name))

    @cached_property
    def _index(self) -> dict[tuple[str, str, str], Item]:
        return {(item.kind, item.namespace, item.name): item for item in self.items}

    @cached_property
    def workloads(self) -> tuple[Workload, ...]:
        """Everything that makes pods: by structure, and by the table of operands."""
        return tuple(workloads_of(self.items, self.operands))

    @cached_property
    def synapse(self) -> tuple[Process, ...]:
        """Every Synapse process, with the configuration that it would read."""
        from mxbundle.lint.synapse import processes

        return tuple(processes(self))

    def pods(self) -> Iterator[tuple[Item, Object, str]]:
        """Every PodSpec that is written out, with its object and its path."""
        for item in self.items:
            for pod, path in pod_specs(item.entry):
                yield item, pod, path

    def containers(self) -> Iterator[tuple[Item, Object, Object, str]]:
        """Every container that is written out: object, its PodSpec, the container, its path."""
        for item, pod, path in self.pods():
            for container, inside in containers(pod):
                yield item, pod, container, f"{path}.{inside}" if path else inside


def read_nodes(path: Path) -> Nodes | None:
    """The `nodes` of a profile's file; None when it says nothing. Raises StackInvalid."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return Nodes.model_validate(content["nodes"]) if "nodes" in content else None
    except (OSError, yaml.YAMLError) as fault:
        raise StackInvalid(path=path, detail=str(fault)) from fault
    except ValidationError as fault:
        first = fault.errors()[0]
        place = ".".join(str(part) for part in ("nodes", *first["loc"]))
        raise StackInvalid(path=path, detail=f"{place}: {first['msg']}") from fault

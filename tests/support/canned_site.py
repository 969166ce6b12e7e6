"""A cluster of canned answers and the context around it: the outside of what preflight's tests are about."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from mxinstall.cluster import Cluster
from mxinstall.preflight import Context
from mxinstall.site import Site

from sitebundle.digest import Digest
from sitebundle.errors import ClusterRefused
from sitebundle.manifest import BundleManifest, Crd
from sitebundle.stack import Stack

Facts = dict[str, Any]


class Answers:
    """A cluster that answers from facts: the outside of what is tested here."""

    server = "https://192.0.2.1:6443"

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self._objects = {
            "Node": [_node(node) for node in facts.get("nodes", [{"name": "n1"}, {"name": "n2"}])],
            "Pod": [_pod(pod) for pod in facts.get("pods", [])],
            "StorageClass": [{"metadata": {"name": name}} for name in facts.get("storage_classes", ["standard"])],
            "Service": [_service(service) for service in facts.get("services", [])],
            "Namespace": [_namespace(namespace) for namespace in facts.get("namespaces", [])],
            "Secret": [*map(_helm_secret, facts.get("helm", [])), *map(_secret, facts.get("secrets", []))],
            "CustomResourceDefinition": [_crd(crd) for crd in facts.get("crds", [])],
            "Lease": [_lease(name, age) for name, age in facts.get("leases", {"n1": 1, "n2": 1}).items()],
        }

    def version(self) -> str:
        return str(self.facts.get("version", "v1.36.3"))

    def list(
        self, api_version: str, kind: str, namespace: str | None = None, labels: str | None = None
    ) -> list[dict[str, Any]]:
        if kind in self.facts.get("refuses", []):
            raise ClusterRefused(server=self.server, action=f"GET {kind}", status=403, detail="forbidden")
        return [obj for obj in self._objects[kind] if namespace in (None, obj["metadata"].get("namespace", namespace))]

    def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        return next((obj for obj in self.list(api_version, kind, namespace) if obj["metadata"]["name"] == name), None)

    def can_i(self, verb: str, resource: str, group: str = "", namespace: str | None = None) -> bool:
        return f"{verb} {resource}" not in self.facts.get("forbidden", [])


def _node(fact: Facts) -> Facts:
    return {
        "metadata": {"name": fact["name"]},
        "spec": {"unschedulable": fact.get("cordoned", False), "taints": fact.get("taints", [])},
        "status": {
            "conditions": [{"type": "Ready", "status": "True" if fact.get("ready", True) else "False"}],
            "nodeInfo": {
                "kubeletVersion": fact.get("kubelet", "v1.36.3"),
                "operatingSystem": "linux",
                "architecture": fact.get("architecture", "amd64"),
            },
            "allocatable": {
                "cpu": fact.get("cpu", "4"),
                "memory": fact.get("memory", "8Gi"),
                "pods": fact.get("pods", "110"),
            },
        },
    }


def _template(fact: Facts) -> Facts:
    requests = {"cpu": fact.get("cpu", "0"), "memory": fact.get("memory", "0")}
    return {"containers": [{"name": "main", "resources": {"requests": requests}}]}


def _pod(fact: Facts) -> Facts:
    return {
        "metadata": {"name": "pod", "namespace": fact["namespace"]},
        "spec": {"nodeName": fact["node"], **_template(fact)},
        "status": {"phase": "Running"},
    }


def _workload(fact: Facts) -> Facts:
    metadata = {"name": fact.get("name", "thing"), "namespace": "matrix"}
    if fact["kind"] == "Cluster":
        spec: Facts = {
            "instances": fact["replicas"],
            "resources": _template(fact)["containers"][0]["resources"],
            "affinity": {"podAntiAffinityType": "required" if fact.get("apart") else "preferred"},
        }
        return {"apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "metadata": metadata, "spec": spec}
    spec = {"replicas": fact["replicas"], "template": {"spec": _template(fact)}}
    return {"apiVersion": "apps/v1", "kind": fact["kind"], "metadata": metadata, "spec": spec}


def _service(fact: Facts) -> Facts:
    return {
        "kind": "Service",
        "metadata": {"name": fact["name"], "namespace": fact["namespace"]},
        "spec": {"ports": [{"port": 80, "nodePort": fact["node_port"]}]},
    }


def _namespace(fact: Facts) -> Facts:
    return {
        "metadata": {"name": fact["name"], "labels": fact.get("labels", {})},
        "status": {"phase": fact.get("phase", "Active")},
    }


def _helm_secret(fact: Facts) -> Facts:
    labels = {"owner": "helm", "name": fact["name"], "status": fact["status"], "version": "1"}
    return {"metadata": {"name": "sh.helm.release", "namespace": fact["namespace"], "labels": labels}}


def _secret(fact: Facts) -> Facts:
    metadata = {"name": fact["name"], "namespace": fact["namespace"]}
    return {"metadata": metadata, "type": fact.get("type", "Opaque"), "data": dict.fromkeys(fact.get("keys", []), "")}


def _crd(fact: Facts) -> Facts:
    return {
        "metadata": {
            "name": "things.example.org",
            "annotations": {"meta.helm.sh/release-name": fact["helm"]} if "helm" in fact else {},
            "managedFields": [
                {"manager": fact["manager"], "operation": "Apply", "fieldsV1": {"f:spec": {"f:versions": {}}}},
                {"manager": "other", "operation": "Update", "fieldsV1": {"f:spec": {"f:conversion": {}}}},
            ],
        }
    }


def _lease(name: str, age_seconds: float) -> Facts:
    renewed = datetime.fromtimestamp(time.time() - age_seconds, UTC).isoformat(timespec="microseconds")
    return {"metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": {"renewTime": renewed}}


def context_of(facts: Facts, state: Path) -> Context:
    site = Site.model_validate(
        {
            "apiVersion": "mxbundle.io/v1alpha1",
            "kind": "Site",
            "metadata": {"name": "test"},
            "spec": {
                "profile": "demo",
                "serverName": "test.site",
                "hosts": {"matrix": "matrix.test.site"},
                "registry": {"push": "127.0.0.1:5000", "pull": "127.0.0.1:5000", **facts.get("registry", {})},
                "storage": {"default": "unused", "database": "standard", "objects": "unused"},
                "edge": {"address": "192.0.2.1"},
                "ports": facts.get("ports", {}),
                "backups": facts.get("backups", {}),
            },
        }
    )
    stack = Stack.model_validate(
        {
            "apiVersion": "mxbundle.io/v1alpha1",
            "kind": "Stack",
            "name": "matrix",
            "kubernetes": facts.get("window", ">=1.33"),
            "profiles": ["demo"],
            "images": {},
            "namespaces": [{"name": "matrix", "podSecurity": "restricted"}],
            "releases": [
                {
                    "name": "synapse",
                    "namespace": "matrix",
                    "chart": "./charts/synapse",
                    "site": {
                        "storage.className": "storage.database",
                        "turn.ports": "ports",
                        "backup.endpoint": "backups.s3.endpoint",
                    },
                }
            ],
        }
    )
    crd = Crd(
        name="things.example.org",
        group="example.org",
        kind="Thing",
        versions=("v1",),
        source="operator",
        member="crds/things.example.org.yaml",
        digest=Digest.of(b""),
    )
    manifest = BundleManifest(
        name="matrix",
        generation=1,
        created=int(time.time()) + facts.get("bundle_made_in_seconds", -60),
        profile="demo",
        lock_digest=Digest.of(b""),
        platforms=("linux/amd64",),
        images=(),
        charts=(),
        files=(),
        crds=(crd,),
        tools=(),
        members=(),
    )
    rendered = [_workload(workload) for workload in facts.get("workloads", [])]
    if "wanted_node_port" in facts:
        ours = {"namespace": "matrix", "name": "routing", "node_port": facts["wanted_node_port"]}
        rendered.append(_service(ours))
    cluster = cast(Cluster, Answers(facts))
    return Context(cluster, manifest, stack, site, state, render=lambda: {"synapse": tuple(rendered)})

"""What `init` meets: a cluster that only lists, from canned objects, and the shipped stack as a bundle carries it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mxinstall.carried import Carried

from sitebundle.digest import Digest
from sitebundle.errors import ClusterRefused
from sitebundle.manifest import BundleManifest
from sitebundle.operands import read_operands
from sitebundle.stack import read_stack

MANIFESTS = Path(__file__).parents[2] / "manifests"
Object = dict[str, Any]


class LookedAt:
    """Kinds without an answer are empty; those in `refused` answer 403."""

    server = "https://127.0.0.1:6443"

    def __init__(self, answers: Mapping[str, list[Object]], refused: tuple[str, ...] = ()) -> None:
        self.answers, self.refused = answers, refused

    def list(self, api_version: str, kind: str, /) -> list[Object]:
        if kind in self.refused:
            raise ClusterRefused(server=self.server, action=f"GET {kind}", status=403, detail="forbidden")
        return self.answers.get(kind, [])


def node(name: str, address: str, **status: Any) -> Object:
    conditions = [{"type": "Ready", "status": "True" if status.get("ready", True) else "False"}]
    return {
        "metadata": {"name": name, "labels": status.get("labels", {})},
        "spec": {"podCIDRs": status.get("pods", []), "taints": status.get("taints", [])},
        "status": {"addresses": [{"type": "InternalIP", "address": address}], "conditions": conditions},
    }


def storage_class(name: str, default: bool = False) -> Object:
    annotations = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
    return {"metadata": {"name": name, "annotations": annotations}, "provisioner": f"{name}.example"}


def endpoint_slice(service: str, namespace: str, ports: Mapping[str, int], *addresses: str) -> Object:
    labels = {"kubernetes.io/service-name": service}
    listed = [{"name": name, "port": port} for name, port in ports.items()]
    return {
        "metadata": {"namespace": namespace, "labels": labels},
        "endpoints": [{"addresses": list(addresses)}],
        "ports": listed,
    }


def service(name: str, namespace: str, selector: Mapping[str, str], address: str | None = None) -> Object:
    ingress = [{"ip": address}] if address else []
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": dict(selector)},
        "status": {"loadBalancer": {"ingress": ingress}},
    }


def daemon_set(name: str, *arguments: str) -> Object:
    return {
        "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {"template": {"spec": {"containers": [{"args": list(arguments)}]}}},
    }


def three_nodes(*classes: Object, **more: list[Object]) -> LookedAt:
    """Nodes on loopback, the API server elsewhere, the usual DNS."""
    answers = {
        "Node": [node(f"n{number}", f"127.0.0.{number}", pods=[f"10.42.{number}.0/24"]) for number in (1, 2, 3)],
        "StorageClass": list(classes) or [storage_class("only")],
        "Service": [service("kube-dns", "kube-system", {"k8s-app": "kube-dns"})],
        "EndpointSlice": [
            endpoint_slice("kubernetes", "default", {"https": 6443}, "10.0.0.10"),
            endpoint_slice("kube-dns", "kube-system", {"dns": 53, "dns-tcp": 53, "metrics": 9153}, "10.42.1.2"),
        ],
        **more,
    }
    return LookedAt(answers)


@cache
def shipped(profile: str = "demo") -> Carried:
    """The stack of this tree, its charts as folders, built for `profile`."""
    stack = read_stack(MANIFESTS / "stack.yaml")
    manifest = BundleManifest(
        name="matrix",
        generation=1,
        created=0,
        profile=profile,
        lock_digest=Digest.of(b"lock"),
        platforms=("linux/amd64",),
        images=(),
        charts=(),
        files=(),
        crds=(),
        tools=(),
        members=(),
    )
    return Carried(
        manifest=manifest,
        stack=stack,
        directory=MANIFESTS,
        charts={release.name: MANIFESTS / release.chart for release in stack.releases if release.chart},
        files={},
        crds=(),
        operands=read_operands(MANIFESTS / "operands"),
    )

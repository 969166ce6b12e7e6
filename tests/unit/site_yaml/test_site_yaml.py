"""`site.yaml`: what is accepted, and how each kind of fault is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from mxinstall.site import PortRange, derive, read_site, write_site

from sitebundle.errors import SiteInvalid, StorageClassMissing
from sitebundle.manifest import BundleManifest
from sitebundle.stack import Stack

EXAMPLE = """\
apiVersion: mxbundle.io/v1alpha1
kind: Site
metadata: {name: north-1}
spec:
  profile: small
  serverName: example.site
  hosts: {matrix: matrix.example.site, element: chat.example.site}
  registry: {mode: host, push: "10.90.0.100:5000", pull: "10.90.0.100:5000", prefix: mx, images: rewrite}
  storage: {database: fast, objects: bulk, default: bulk}
  tls: {issuer: generated}
  edge: {mode: haproxy, address: 10.90.0.200, trustedProxies: []}
  ports: {turn: {listen: 3478, tls: 5349, relay: 49152-49999}, livekit: {tcp: 7881, udp: 50000-50200}}
  nodes: {rtc: {label: mxbundle.io/rtc}, database: {label: mxbundle.io/database}}
  federation: {enabled: false, allow: []}
  backups: {s3: {endpoint: https://backup.example.site, bucket: matrix, secret: backup-s3}}
  workers: {synchrotron: {replicas: 4}}
"""

FAULTS = {
    "a misspelt field": (
        "database: fast",
        "databse: fast",
        ["line 9", "spec.storage.databse", "did you mean database?"],
    ),
    "a field of nowhere": ("tls: {issuer: generated}", "colour: blue", ["line 10", "spec.colour", "known here"]),
    "a missing field": ("  serverName: example.site\n", "", ["spec.serverName is missing"]),
    "an unknown choice": (
        "issuer: generated",
        "issuer: letsencrypt",
        ["spec.tls.issuer", "'generated'", "letsencrypt"],
    ),
    "a CA of somebody else's": (
        "issuer: generated",
        "issuer: intermediate",
        ["line 10", "spec.tls.issuer", "only `generated`", "not built yet", "'intermediate'"],
    ),
    "certificates of somebody else's": ("issuer: generated", "issuer: provided", ["spec.tls.issuer", "not built yet"]),
    "a range backwards": ("49152-49999", "49999-49152", ["line 12", "spec.ports.turn.relay", "goes upward"]),
    "a port too high": ("tcp: 7881", "tcp: 78810", ["spec.ports.livekit.tcp", "65535"]),
    "a port for other servers that there is not": (
        "federation: {enabled: false,",
        "federation: {enabled: false, port: 443,",
        ["spec.federation.port", "8448", "delegated"],
    ),
    "a server's name with a pattern": ("allow: []", 'allow: ["*.example"]', ["spec.federation.allow", "*.example"]),
    "a name in capitals": ("name: north-1", "name: North_1", ["line 3", "metadata.name", "North_1"]),
    "an address without port": ('push: "10.90.0.100:5000"', "push: 10.90.0.100", ["spec.registry.push"]),
    "an upper-case prefix": ("prefix: mx", "prefix: MX", ["spec.registry.prefix"]),
    "another kind": ("kind: Site", "kind: Stack", ["line 2", "kind", "Stack"]),
    "a newer version": ("v1alpha1", "v9", ["line 1", "apiVersion"]),
    "a key twice": ("  profile: small", "  profile: small\n  profile: 20k", ["line 6", "profile is given twice"]),
    "broken YAML": ("metadata: {name: north-1}", "metadata: {name: north-1", ["line "]),
    "a tab": ("  profile: small", "\tprofile: small", ["line 5"]),
    "text for a number": ("listen: 3478", "listen: many", ["spec.ports.turn.listen", "many"]),
}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    return path


def test_the_example_of_the_contract_is_accepted(tmp_path: Path) -> None:
    site = read_site(written(tmp_path, EXAMPLE))
    assert site.name == "north-1"
    assert site.spec.storage.database == "fast"
    assert site.spec.ports.turn.relay.last == 49999
    assert site.spec_mapping()["serverName"] == "example.site"


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_names_field_and_place(tmp_path: Path, name: str) -> None:
    good, bad, told = FAULTS[name]
    assert good in EXAMPLE
    with pytest.raises(SiteInvalid) as caught:
        read_site(written(tmp_path, EXAMPLE.replace(good, bad)))
    for part in told:
        assert part in caught.value.message


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SiteInvalid, match="No such file"):
        read_site(tmp_path / "site.yaml")


def test_port_ranges_overlap_at_their_ends() -> None:
    assert PortRange("10-20").overlaps(20, 30)
    assert not PortRange("10-20").overlaps(21, 30)


class LookedAt:
    """A cluster of canned answers: deriving is pure apart from asking."""

    server = "https://127.0.0.1:6443"

    def __init__(self, classes: list[dict[str, Any]]) -> None:
        self._answers = {
            "Node": [{"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}}],
            "StorageClass": classes,
            "EndpointSlice": [
                endpoint_slice("kubernetes", "default", "10.0.0.11", "10.0.0.10"),
                endpoint_slice("kubernetes", "elsewhere", "10.0.0.12"),
                endpoint_slice("other", "default", "10.0.0.13"),
            ],
        }

    def list(self, api_version: str, kind: str, /) -> list[dict[str, Any]]:
        return self._answers[kind]


def endpoint_slice(service: str, namespace: str, *addresses: str) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": service}
    return {"metadata": {"namespace": namespace, "labels": labels}, "endpoints": [{"addresses": list(addresses)}]}


def storage_class(name: str, default: bool = False) -> dict[str, Any]:
    annotations = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
    return {"metadata": {"name": name, "annotations": annotations}}


@pytest.fixture
def stack() -> Stack:
    return Stack.model_validate(
        {
            "apiVersion": "mxbundle.io/v1alpha1",
            "kind": "Stack",
            "name": "matrix",
            "kubernetes": ">=1.33,<1.38",
            "profiles": ["demo", "small"],
            "images": {},
            "namespaces": [],
            "releases": [],
        }
    )


@pytest.fixture
def manifest() -> BundleManifest:
    return BundleManifest(
        name="matrix",
        generation=1,
        created=0,
        profile="demo",
        lock_digest="sha256:" + "0" * 64,  # type: ignore[arg-type]
        platforms=("linux/amd64",),
        images=(),
        charts=(),
        files=(),
        crds=(),
        tools=(),
        members=(),
    )


def test_a_derived_site_reads_back_and_takes_the_default_class(
    tmp_path: Path, stack: Stack, manifest: BundleManifest
) -> None:
    cluster = LookedAt([storage_class("aaa"), storage_class("standard", default=True)])
    site, choices = derive(cluster, manifest, stack)
    path = tmp_path / "site.yaml"
    write_site(site, map(str, choices), path)
    assert read_site(path) == site
    assert site.spec.storage.database == "standard"
    assert site.spec.registry.push == "127.0.0.1:5000"
    assert site.spec.profile == "demo"
    assert site.spec.network.api_server == ("10.0.0.10/32", "10.0.0.11/32")
    assert "spec.serverName: site-1.site" in path.read_text()


def test_an_api_server_on_a_node_may_call_from_every_address_of_that_node(
    stack: Stack, manifest: BundleManifest
) -> None:
    def node(pods: str, *addresses: str) -> dict[str, Any]:
        told = [{"type": "InternalIP", "address": address} for address in addresses]
        return {"spec": {"podCIDRs": [pods]}, "status": {"addresses": [*told, {"type": "Hostname", "address": "n"}]}}

    cluster = LookedAt([storage_class("only")])
    cluster._answers["Node"] = [node("10.42.0.0/24", "127.0.0.1", "fd00::1"), node("10.42.1.0/24", "127.0.0.2")]
    service = {**endpoint_slice("kubernetes", "default", "127.0.0.1"), "ports": [{"name": "https", "port": 7443}]}
    cluster._answers["EndpointSlice"] = [service]
    seen = derive(cluster, manifest, stack)[0].spec.network
    assert seen.api_server == ("10.42.0.0/32", "127.0.0.1/32", "fd00::1/128")
    assert seen.api_server_ports == (443, 7443)
    cluster._answers["EndpointSlice"] = []
    unseen = derive(cluster, manifest, stack)[0].spec.network
    assert (unseen.api_server, unseen.api_server_ports) == ((), (443, 6443))


def test_a_given_site_is_never_rewritten(tmp_path: Path, stack: Stack, manifest: BundleManifest) -> None:
    site, _ = derive(LookedAt([storage_class("only")]), manifest, stack)
    path = written(tmp_path, EXAMPLE)
    with pytest.raises(FileExistsError):
        write_site(site, [], path)
    assert path.read_text() == EXAMPLE
    assert yaml.safe_load(path.read_text())["metadata"]["name"] == "north-1"


def test_a_cluster_without_storage_classes_cannot_be_derived_from(stack: Stack, manifest: BundleManifest) -> None:
    with pytest.raises(StorageClassMissing):
        derive(LookedAt([]), manifest, stack)

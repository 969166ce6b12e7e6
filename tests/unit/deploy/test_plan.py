"""Names at the site, references that cannot be pulled, and what counts as the same rendering."""

from __future__ import annotations

from typing import Any

import pytest
from mxinstall.deploy.inventory import rendered_hash
from mxinstall.deploy.releases import after_failure, in_order
from mxinstall.plan import check_references, placed, site_namer, site_names
from mxinstall.site import Site

from sitebundle.digest import Digest
from sitebundle.errors import ReferenceNotInBundle
from sitebundle.manifest import BundleManifest, Image
from sitebundle.operands import Operands

DIGEST = Digest("sha256:" + "a" * 64)
OTHER = Digest("sha256:" + "b" * 64)
NO_OPERANDS = Operands(fields=(), operators=())


def site(**registry: Any) -> Site:
    return Site.model_validate(
        {
            "metadata": {"name": "north-1"},
            "spec": {
                "profile": "demo",
                "serverName": "example.site",
                "hosts": {"matrix": "matrix.example.site"},
                "registry": {"push": "10.0.0.1:5000", "pull": "10.0.0.2:5000", **registry},
                "storage": {"default": "a", "database": "a", "objects": "a"},
                "edge": {"address": "10.0.0.3"},
            },
        }
    )


MANIFEST = BundleManifest(
    name="matrix",
    generation=1,
    created=0,
    profile="demo",
    lock_digest=DIGEST,
    platforms=("linux/amd64",),
    images=(Image(reference="docker.io/library/haproxy:3.2", digest=DIGEST, media_type="x", size=1, carried=()),),
    charts=(),
    files=(),
    crds=(),
    tools=(),
    members=(),
)


@pytest.mark.parametrize(
    ("registry", "name"),
    [
        ({}, f"10.0.0.2:5000/mx/docker.io/library/haproxy:3.2@{DIGEST}"),
        ({"referenceForm": "digest"}, f"10.0.0.2:5000/mx/docker.io/library/haproxy@{DIGEST}"),
        ({"images": "mirror"}, f"docker.io/library/haproxy:3.2@{DIGEST}"),
    ],
)
def test_an_image_is_called_as_the_site_wants_it(registry: dict[str, str], name: str) -> None:
    assert site_namer(MANIFEST, site(**registry))("haproxy:3.2") == name
    assert site_names(MANIFEST, site(**registry)) == {name}


@pytest.mark.parametrize("text", ["haproxy:3.1", f"haproxy:3.2@{OTHER}", "ghcr.io/library/haproxy:3.2"])
def test_what_is_not_carried_keeps_its_name(text: str) -> None:
    assert site_namer(MANIFEST, site())(text) == text


def test_a_reference_that_is_not_carried_is_named_with_release_object_and_field() -> None:
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "routing", "namespace": "matrix"},
        "spec": {"template": {"spec": {"containers": [{"name": "haproxy", "image": "docker.io/library/haproxy:3.1"}]}}},
    }
    with pytest.raises(ReferenceNotInBundle) as refusal:
        check_references({"synapse": [deployment]}, site_names(MANIFEST, site()), NO_OPERANDS)
    for part in ("synapse", "docker.io/library/haproxy:3.1", "Deployment/matrix/routing", "containers[0].image"):
        assert part in refusal.value.message


def config_map(name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, **more}


def test_the_rendered_hash_ignores_order_and_nothing_else() -> None:
    first, second = config_map("a", data={"x": "1", "y": "2"}), config_map("b")
    same = rendered_hash([second, config_map("a", data={"y": "2", "x": "1"})])
    assert rendered_hash([first, second]) == same
    assert rendered_hash([first, config_map("b", data={})]) != same


def test_objects_get_the_releases_namespace_and_crds_are_left_out() -> None:
    crd = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "x"}}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "r"}}
    elsewhere = {**config_map("b"), "metadata": {"name": "b", "namespace": "other"}}
    found = placed([crd, role, config_map("a"), elsewhere], "matrix", lambda obj: obj["kind"] == "ConfigMap")
    assert [obj["metadata"].get("namespace") for obj in found] == [None, "matrix", "other"]


def test_accounts_come_before_workloads_and_webhooks_last() -> None:
    kinds = ["MutatingWebhookConfiguration", "Deployment", "ServiceAccount", "Namespace"]
    ordered = in_order([{"kind": kind, "metadata": {"name": "x"}} for kind in kinds])
    assert [obj["kind"] for obj in ordered] == list(reversed(kinds))


@pytest.mark.parametrize(
    ("rollback", "told"),
    [
        ("yes", "nothing was rolled back"),
        ("never", "forward only: this release is never rolled back"),
        ("until schema-migrated", "forward only, unless schema-migrated has not come about yet"),
    ],
)
def test_a_failed_upgrade_says_what_its_releases_rollback_means(rollback: str, told: str) -> None:
    assert told in after_failure(rollback)

"""Secrets that the operator puts into mx-system: found by the name in site.yaml, complete, and the same everywhere."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
from mxinstall.cluster import Cluster
from mxinstall.deploy import secrets

from sitebundle.errors import SiteInvalid
from sitebundle.stack import GivenSecret

PLAN = GivenSecret(
    site="backups.s3.secret",
    namespaces=("matrix-data",),
    keys=("accessKeyId", "secretAccessKey"),
    labels={"cnpg.io/reload": "true"},
)
SITE = {"backups": {"s3": {"endpoint": "https://backup.test.site", "secret": "keys"}}}


class Kept:
    """A cluster that keeps Secrets."""

    def __init__(self) -> None:
        self.secrets: dict[tuple[str, str], dict[str, Any]] = {}

    def get(self, api_version: str, kind: str, name: str, namespace: str) -> dict[str, Any] | None:
        return self.secrets.get((namespace, name))

    def apply(self, obj: dict[str, Any]) -> dict[str, Any]:
        self.secrets[(obj["metadata"]["namespace"], obj["metadata"]["name"])] = copy.deepcopy(obj)
        return obj

    def given(self, *keys: str) -> None:
        self.secrets[("mx-system", "keys")] = {"type": "Opaque", "data": dict.fromkeys(keys, "eA==")}


def test_a_site_that_names_none_needs_none() -> None:
    assert secrets.copies_of_given([PLAN], {"backups": {}}) == []


def test_the_secret_is_copied_with_its_labels_and_again_when_it_was_renewed() -> None:
    kept = Kept()
    cluster = cast(Cluster, kept)
    (copies,) = secrets.copies_of_given([PLAN], SITE)
    kept.given("accessKeyId", "secretAccessKey", "ca.crt")
    assert secrets.copy_gaps(cluster, copies) == ["matrix-data/keys"]
    secrets.spread(cluster, copies)
    assert secrets.copy_gaps(cluster, copies) == []
    there = kept.secrets[("matrix-data", "keys")]
    assert set(there["data"]) == {"accessKeyId", "secretAccessKey", "ca.crt"}
    assert there["metadata"]["labels"]["cnpg.io/reload"] == "true"
    kept.secrets[("mx-system", "keys")]["data"]["accessKeyId"] = "bmV3"
    assert secrets.copy_gaps(cluster, copies) == ["matrix-data/keys"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (None, "spec.backups.s3.secret is keys, but there is no Secret mx-system/keys"),
        (("accessKeyId",), "the Secret mx-system/keys has no key secretAccessKey"),
    ],
)
def test_one_that_is_missing_or_incomplete_ends_the_plan(keys: tuple[str, ...] | None, said: str) -> None:
    kept = Kept()
    if keys is not None:
        kept.given(*keys)
    (copies,) = secrets.copies_of_given([PLAN], SITE)
    with pytest.raises(SiteInvalid, match=said):
        secrets.copy_gaps(cast(Cluster, kept), copies)

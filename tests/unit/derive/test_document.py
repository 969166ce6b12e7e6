"""Config, manifest and index of a derived image: the base's promises kept, one layer more, always the same bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mxbundle.derive.document import derived_config, derived_index, derived_layers, derived_manifest

from sitebundle.digest import Digest
from sitebundle.oci.descriptor import Descriptor

LAYER = Digest.of(b"layer")
BASE: dict[str, Any] = {
    "architecture": "amd64",
    "os": "linux",
    "created": "2026-01-02T03:04:05Z",
    "config": {"User": "991:991", "Entrypoint": ["/start.py"], "Env": ["PATH=/bin"], "Labels": {"a": "b"}},
    "rootfs": {"type": "layers", "diff_ids": [Digest.of(b"below")]},
    "history": [{"created_by": "FROM scratch"}, {"created_by": "ENV", "empty_layer": True}],
}


def config_of(base: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(derived_config(json.dumps(base).encode(), LAYER, "one 1.0"))
    return document


def test_user_entry_point_environment_and_labels_are_the_bases() -> None:
    made = config_of(BASE)
    assert made["config"] == BASE["config"]
    assert (made["os"], made["architecture"]) == ("linux", "amd64")


def test_the_layer_is_the_last_one_and_history_has_an_entry_for_it() -> None:
    made = config_of(BASE)
    assert made["rootfs"] == {"type": "layers", "diff_ids": [Digest.of(b"below"), LAYER]}
    assert [entry.get("created_by") for entry in made["history"]] == ["FROM scratch", "ENV", "mxbundle lock: one 1.0"]
    assert made["created"] == made["history"][-1]["created"] == "1970-01-01T00:00:00Z"


def test_a_base_without_history_gets_none() -> None:
    assert "history" not in config_of({key: value for key, value in BASE.items() if key != "history"})


def test_a_config_that_names_no_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="names no layers"):
        config_of({"config": {}})


def test_how_the_base_orders_its_keys_does_not_show() -> None:
    turned = dict(reversed(BASE.items()))
    assert derived_config(json.dumps(turned).encode(), LAYER, "x") == derived_config(
        json.dumps(BASE, indent=2).encode(), LAYER, "x"
    )


def test_layers_of_a_docker_base_keep_their_digests_under_ocis_names() -> None:
    docker = Descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", Digest.of(b"below"), 5)
    added = Descriptor("application/vnd.oci.image.layer.v1.tar", LAYER, 7)
    kept, last = derived_layers([docker], added)
    assert kept == Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", docker.digest, 5)
    assert last == added


def test_a_layer_that_may_not_be_passed_on_is_refused() -> None:
    foreign = Descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Digest.of(b"below"), 5)
    with pytest.raises(ValueError, match="foreign"):
        derived_layers([foreign], foreign)


def test_manifest_and_index_name_the_base_and_the_index_is_sorted_by_platform() -> None:
    config = Descriptor("application/vnd.oci.image.config.v1+json", Digest.of(b"config"), 3)
    manifest, content = derived_manifest(config, [], "ghcr.io/a/b:1", Digest.of(b"base"))
    assert manifest.digest == Digest.of(content)
    assert manifest.size == len(content)
    names = ["linux/arm64/v8", "linux/amd64"]
    index, listing = derived_index(dict.fromkeys(names, manifest), "ghcr.io/a/b:1", Digest.of(b"base"))
    assert index.digest == Digest.of(listing)
    for document in (json.loads(content), json.loads(listing)):
        assert document["annotations"] == {
            "org.opencontainers.image.base.name": "ghcr.io/a/b:1",
            "org.opencontainers.image.base.digest": Digest.of(b"base"),
        }
    assert [entry["platform"] for entry in json.loads(listing)["manifests"]] == [
        {"os": "linux", "architecture": "amd64"},
        {"os": "linux", "architecture": "arm64", "variant": "v8"},
    ]

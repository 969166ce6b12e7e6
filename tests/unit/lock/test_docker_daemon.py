"""What `docker save` gives, read in the forms that daemons have; the real one is asked in tests/integration."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from mxbundle.docker_daemon import DaemonImages, Unusable, examine, lock_from_daemon
from mxbundle.lock.resolve import Wanted

from sitebundle.digest import Digest
from sitebundle.errors import ImageUnresolvable, LockStale
from sitebundle.podspecs import ImageUse
from sitebundle.reference import Reference

NAME = "registry.example/our/bot:1.2"
LAYERS = [b"\0" * 600 + b"first", b"second" * 300_000]
WANTED = Wanted(Reference.parse(NAME), (ImageUse(NAME, "bot", "Deployment/bot", "image"),))


def config(layers: list[bytes] = LAYERS, **changes: Any) -> bytes:
    document = {"os": "linux", "architecture": "amd64", "config": {"User": "1"}}
    document["rootfs"] = {"type": "layers", "diff_ids": [Digest.of(layer) for layer in layers]}
    return json.dumps({**document, **changes}).encode()


def saved(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return content.getvalue()


def listing(config_name: str, layers: list[str]) -> bytes:
    return json.dumps([{"Config": config_name, "RepoTags": [NAME], "Layers": layers}]).encode()


def of_engine_20(config_text: bytes | None = None) -> bytes:
    """A folder for each layer, the list last."""
    return saved(
        {
            "aa/json": b"{}",
            "aa/layer.tar": LAYERS[0],
            "bb/layer.tar": LAYERS[1],
            "c0.json": config_text or config(),
            "manifest.json": listing("c0.json", ["aa/layer.tar", "bb/layer.tar"]),
        }
    )


def of_engine_25(compress: bool) -> bytes:
    """An OCI layout with the list of old; the containerd store keeps layers as they were pulled."""
    blobs = [gzip.compress(layer, mtime=0) if compress else layer for layer in LAYERS]
    names = [f"blobs/sha256/{Digest.of(blob).hex}" for blob in blobs]
    config_name = f"blobs/sha256/{Digest.of(config()).hex}"
    return saved(
        {
            **dict(zip(names, blobs, strict=True)),
            config_name: config(),
            "index.json": b"{}",
            "manifest.json": listing(config_name, names),
        }
    )


def saving(content: bytes) -> Any:
    def save(reference: str) -> Iterator[bytes]:
        assert reference == NAME
        for start in range(0, len(content), 70_001):
            yield content[start : start + 70_001]

    return save


FORMS = {"20.10": of_engine_20(), "25": of_engine_25(False), "25 with containerd's store": of_engine_25(True)}


@pytest.mark.parametrize("content", FORMS.values(), ids=FORMS.keys())
def test_every_form_gives_the_same_image_and_the_same_bytes(content: bytes) -> None:
    image = lock_from_daemon(WANTED, ["linux/amd64"], lambda *_: None, saving(content))
    assert image == lock_from_daemon(WANTED, ["linux/amd64"], lambda *_: None, saving(of_engine_20()))
    assert image.platforms[0].config.digest == Digest.of(config())
    assert [layer.digest for layer in image.platforms[0].layers] == [Digest.of(layer) for layer in LAYERS]
    images = DaemonImages([image], saving(content))
    documents = images.documents(image)
    assert {digest: Digest.of(data) for digest, data in documents.items()} == {digest: digest for digest in documents}
    assert set(documents) == {image.digest, image.platforms[0].config.digest}
    found = {digest: b"".join(chunks) for digest, chunks in images.contents([Digest.of(layer) for layer in LAYERS])}
    assert found == {Digest.of(layer): layer for layer in LAYERS}


def test_only_what_is_wanted_is_given() -> None:
    image = lock_from_daemon(WANTED, ["linux/amd64"], lambda *_: None, saving(of_engine_20()))
    images = DaemonImages([image], saving(of_engine_20()))
    assert [digest for digest, chunks in images.contents([Digest.of(LAYERS[1])]) if list(chunks)] == [
        Digest.of(LAYERS[1])
    ]
    assert list(DaemonImages([image], saving(b"is not asked")).contents([Digest.of(b"other")])) == []


def test_a_layer_that_is_a_link_to_another_is_the_other() -> None:
    content = saved(
        {
            "aa/layer.tar": LAYERS[0],
            "c0.json": config([LAYERS[0], LAYERS[0]]),
            "manifest.json": listing("c0.json", ["aa/layer.tar", "bb/layer.tar"]),
        },
        {"bb/layer.tar": "../aa/layer.tar"},
    )
    assert [layer.digest for layer in examine(NAME, saving(content)).layers] == [Digest.of(LAYERS[0])] * 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"an error page" * 100, "saves something that is no archive"),
        (saved({"aa/layer.tar": b"1"}), "in a form that is not known here"),
        (of_engine_20(config([b"another"])), "saves layers that its config does not name"),
        (of_engine_20()[:-1_000_000], "saves something that is no archive"),
    ],
)
def test_what_is_no_saved_image_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(Unusable, match=said):
        examine(NAME, saving(content))


def test_an_image_for_another_platform_is_one_error_with_who_needs_it() -> None:
    arm = of_engine_20(config(architecture="arm64", variant="v8"))
    with pytest.raises(ImageUnresolvable) as caught:
        lock_from_daemon(WANTED, ["linux/amd64"], lambda *_: None, saving(arm))
    assert "it is for linux/arm64/v8 alone, not for linux/amd64" in caught.value.message
    assert "bot Deployment/bot image" in caught.value.message


def test_an_image_that_is_another_one_by_now_is_not_carried() -> None:
    image = lock_from_daemon(WANTED, ["linux/amd64"], lambda *_: None, saving(of_engine_20()))
    later = of_engine_20(config(config={"User": "0"}))
    with pytest.raises(LockStale, match="now has sha256:"):
        DaemonImages([image], saving(later)).documents(image)

"""The checks that look at this host: its disk, its listeners, its kernel, and a registry of the site's own."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from canned_site import context_of
from mxinstall.preflight import Context, Verdict, run
from mxinstall.preflight.checks import ports
from mxinstall.seed.readback import data_of

from sitebundle.digest import Digest
from sitebundle.events import silent
from sitebundle.manifest import Image, Member, PlatformManifest


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MXINSTALL_STATE", str(tmp_path))
    return tmp_path


def verdict_of(check: str, context: Context) -> Verdict:
    (finding,) = run(context, False, silent, only=[check]).findings
    return finding.verdict


def with_registry(context: Context, **changes: Any) -> Context:
    registry = context.site.spec.registry.model_copy(update=changes)
    context.site = context.site.model_copy(update={"spec": context.site.spec.model_copy(update={"registry": registry})})
    return context


def test_a_port_held_by_another_is_seen_with_its_holder(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        held = verdict_of("registry.address", with_registry(context_of({}, tmp_path), push=address))
    free = verdict_of("registry.address", with_registry(context_of({}, tmp_path), push=address))
    assert held.status == "fail"
    assert "(pid " in held.seen
    assert free.status == "pass"


def test_an_address_of_another_host_is_no_place_for_our_registry(tmp_path: Path) -> None:
    verdict = verdict_of("registry.address", with_registry(context_of({}, tmp_path), push="192.0.2.9:5000"))
    assert verdict.status == "fail"
    assert "cannot listen on 192.0.2.9:5000" in verdict.seen


@pytest.mark.parametrize(("free_bytes", "status"), [(1049, "fail"), (1050, "pass")])
def test_the_disk_must_hold_the_blobs_and_five_per_cent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_bytes: int, status: str
) -> None:
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=free_bytes))
    assert verdict_of("registry.disk", carrying_1000_bytes(context_of({}, tmp_path))).status == status


def test_blobs_that_the_store_has_need_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = carrying_1000_bytes(context_of({}, tmp_path))
    layer = context.manifest.images[0].carried[0].layers[0]
    stored = data_of(tmp_path / "test" / "registry" / "store", layer)
    stored.parent.mkdir(parents=True)
    stored.touch()
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=500))
    assert verdict_of("registry.disk", context).status == "pass"


def carrying_1000_bytes(context: Context) -> Context:
    """The context's bundle with one image: a config of 100 bytes and a layer of 900."""
    config, layer, top = Digest.of(b"config"), Digest.of(b"layer"), Digest.of(b"manifest")
    carried = PlatformManifest(
        platform="linux/amd64", digest=top, media_type="m", size=10, config=config, config_size=100, layers=(layer,)
    )
    image = Image(reference="ghcr.io/a/b:1", digest=top, media_type="m", size=10, carried=(carried,))
    members = tuple(
        Member(name=digest.blob_path, size=size, digest=digest, storage="stored", frame_bytes=1)
        for digest, size in ((config, 100), (layer, 900), (top, 10))
    )
    context.manifest = context.manifest.model_copy(update={"images": (image,), "members": members})
    return context


def test_a_registry_of_the_site_that_does_not_answer_fails(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        verdict = verdict_of("registry.answers", with_registry(context_of({}, tmp_path), mode="external", push=address))
    assert verdict.status == "fail"
    assert address in verdict.seen


@pytest.mark.parametrize(
    ("reserved", "status"),
    [("", "warn"), ("49152-49999", "not-checked"), ("22,49000-50000", "not-checked"), ("49152-49500", "warn")],
)
def test_ports_that_this_kernel_hands_out_warn_and_what_it_does_not_says_nothing_of_the_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reserved: str, status: str
) -> None:
    (tmp_path / "range").write_text("32768\t60999\n")
    (tmp_path / "reserved").write_text(f"{reserved}\n")
    monkeypatch.setattr(ports, "_LOCAL_RANGE", tmp_path / "range")
    monkeypatch.setattr(ports, "_RESERVED", tmp_path / "reserved")
    plan = {"turn": {"relay": "49152-49999"}}
    assert verdict_of("ports.ephemeral", context_of({"ports": plan}, tmp_path)).status == status

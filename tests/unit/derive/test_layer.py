"""What wheels become in a layer: the same bytes everywhere, and nothing that an installation would not have."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from mxbundle.derive.layer import layer_chunks, measured
from mxbundle.derive.recipe import Python, Wheel
from mxbundle.derive.wheels import opened
from wheelhouse import make_wheel

from sitebundle.errors import SourceChanged, StackInvalid
from sitebundle.oci.upstream import Upstream

PYTHON = Python(
    site_packages="/usr/local/lib/python3.13/site-packages",
    scripts="/usr/local/bin",
    interpreter="/usr/local/bin/python3",
)
SITE = "usr/local/lib/python3.13/site-packages"
GOLDEN = "sha256:9712cd6128a8f81ad470c89cccaa965b3eff6eb454082e5b465a85ab539ff390"
LONG = "one/" + "/".join(f"folder-with-a-long-name-{number}" for number in range(5)) + "/data.json"
ONE = {
    "one/__init__.py": b"print('one')\n",
    "one/data.bin": bytes(range(256)) * 5,
    LONG: b"{}",
    "one/__pycache__/__init__.cpython-313.pyc": b"stale",
    "DATA/scripts/tool": b"#!python\nprint('tool')\n",
    "DATA/scripts/shell": b"#!/bin/sh\n",
    "DATA/purelib/extra.py": b"",
}
TWO = {"two.py": b"import one\n"}


def layer(wheels: Sequence[Wheel]) -> bytes:
    with opened(wheels, Upstream()) as files:
        return b"".join(layer_chunks(files, PYTHON))


def entries(content: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {member.name: member for member in tar}


def test_a_small_layer_has_the_same_digest_on_every_machine_and_every_day(tmp_path: Path) -> None:
    wheels = [make_wheel(tmp_path, "one", ONE), make_wheel(tmp_path, "two", TWO)]
    digest, size = measured([layer(wheels)])
    assert (digest, size) == (GOLDEN, 20992)


def test_neither_the_order_of_wheels_nor_what_a_zip_says_of_its_files_shows(tmp_path: Path) -> None:
    first = [make_wheel(tmp_path / "a", "one", ONE), make_wheel(tmp_path / "a", "two", TWO)]
    again = [
        make_wheel(tmp_path / "b", "two", TWO, year=2025),
        make_wheel(tmp_path / "b", "one", dict(reversed(ONE.items())), year=2025),
    ]
    assert first[0].sha256 != again[1].sha256
    assert layer(first) == layer(again)


def test_files_are_where_an_installation_has_them_owned_by_root_with_two_modes_and_one_time(tmp_path: Path) -> None:
    found = entries(layer([make_wheel(tmp_path, "one", ONE)]))
    assert list(found) == sorted(found)
    files = {name: member for name, member in found.items() if member.isfile()}
    assert {name: oct(member.mode) for name, member in files.items()} == {
        "usr/local/bin/shell": "0o755",
        "usr/local/bin/tool": "0o755",
        f"{SITE}/extra.py": "0o644",
        f"{SITE}/one/__init__.py": "0o644",
        f"{SITE}/one/data.bin": "0o644",
        f"{SITE}/{LONG}": "0o644",
        f"{SITE}/one-1.0.dist-info/METADATA": "0o644",
        f"{SITE}/one-1.0.dist-info/WHEEL": "0o644",
    }
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in found.values()} == {(0, 0, "", "", 0)}


def test_folders_of_the_base_are_not_named_and_so_keep_their_owner_and_mode(tmp_path: Path) -> None:
    found = entries(layer([make_wheel(tmp_path, "one", ONE)]))
    folders = {name for name, member in found.items() if member.isdir()}
    assert f"{SITE}/one" in folders
    assert all(name.startswith(f"{SITE}/") for name in folders)


def test_a_program_is_started_by_the_bases_interpreter_and_another_shebang_stays(tmp_path: Path) -> None:
    content = layer([make_wheel(tmp_path, "one", ONE)])
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        programs = {name: tar.extractfile(f"usr/local/bin/{name}") for name in ("tool", "shell")}
        read = {name: file.read() for name, file in programs.items() if file is not None}
    assert read == {"tool": b"#!/usr/local/bin/python3\nprint('tool')\n", "shell": b"#!/bin/sh\n"}


def test_a_wheel_that_is_not_the_pinned_one_is_one_error_with_both_digests(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "one", ONE)
    other = make_wheel(tmp_path, "one", TWO)
    with pytest.raises(SourceChanged) as caught:
        layer([wheel])
    assert (caught.value.fields["seen"].hex, caught.value.fields["expected"].hex) == (other.sha256, wheel.sha256)


@pytest.mark.parametrize(
    ("files", "changes", "said"),
    [
        ({"one.py": b""}, {"said": "another"}, "it is another 1.0, not one 1.0"),
        ({"one.so": b""}, {"tag": "cp313-cp313-manylinux_2_28_x86_64"}, "say for which `platforms`"),
        ({"../one.py": b""}, {}, "it has a file called '../one.py'"),
        ({"DATA/headers/one.h": b""}, {}, "only packages and programs go into a layer"),
    ],
)
def test_what_cannot_go_into_a_layer_is_refused(
    tmp_path: Path, files: dict[str, bytes], changes: dict[str, str], said: str
) -> None:
    with pytest.raises(StackInvalid) as caught:
        layer([make_wheel(tmp_path, "one", files, **changes)])  # type: ignore[arg-type]
    assert said in caught.value.message


def test_a_file_that_is_no_wheel_is_refused(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "one", ONE)
    place = next(tmp_path.glob("*.whl"))
    place.write_bytes(b"an error page")

    pinned = wheel.model_copy(update={"sha256": hashlib.sha256(b"an error page").hexdigest()})
    with pytest.raises(StackInvalid, match="it is not a wheel"):
        layer([pinned])


@pytest.mark.parametrize("clash", [{"two.py": b"other"}, {"two.py/inside.py": b""}])
def test_two_wheels_that_bring_one_path_are_refused(tmp_path: Path, clash: dict[str, bytes]) -> None:
    with pytest.raises(StackInvalid, match=r"two\.py"):
        layer([make_wheel(tmp_path, "two", TWO), make_wheel(tmp_path, "three", clash)])

"""keygen, sign, verify and inspect as a builder uses them, by the real program."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bundles import noise, write_bundle

MXBUNDLE = str(Path(sys.executable).with_name("mxbundle"))


def mxbundle(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [MXBUNDLE, *(str(word) for word in arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "site.tar.zst", {"l": noise(400_000, 1)}, {"stack/stack.yaml": b"a: 1\n"})


@pytest.fixture
def key(tmp_path: Path) -> Path:
    done = mxbundle("keygen", tmp_path / "key", "--json")
    assert done.returncode == 0, done.stderr
    (tmp_path / "allowed").write_text(json.loads(done.stdout)["allowed_signers"] + "\n")
    return tmp_path / "key"


def test_signed_and_verified(bundle: Path, key: Path) -> None:
    fingerprint = subprocess.run(["ssh-keygen", "-lf", f"{key}.pub"], capture_output=True, text=True, check=True)
    done = mxbundle("sign", bundle, "--key", key)
    assert done.returncode == 0, done.stderr
    done = mxbundle("verify", bundle, "--allowed-signers", key.with_name("allowed"), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["signer"]["fingerprint"] == fingerprint.stdout.split()[1]
    assert mxbundle("sign", bundle, "--key", key).stdout.count("was already signed by") == 1


def test_unsigned_is_whole_but_not_vouched_for(bundle: Path, key: Path) -> None:
    done = mxbundle("verify", bundle)
    assert (done.returncode, "not signed" in done.stdout) == (0, True)
    done = mxbundle("verify", bundle, "--allowed-signers", key.with_name("allowed"))
    assert done.returncode == 21
    assert "trust-unsigned" in done.stderr


def test_a_bundle_signed_by_a_stranger_is_refused_with_the_fingerprint(bundle: Path, key: Path, tmp_path: Path) -> None:
    other = json.loads(mxbundle("keygen", tmp_path / "other", "--json").stdout)
    mxbundle("sign", bundle, "--key", tmp_path / "other")
    done = mxbundle("verify", bundle, "--allowed-signers", key.with_name("allowed"))
    assert done.returncode == 22
    assert other["fingerprint"] in done.stderr


def test_a_trust_store_that_is_not_there_is_said_and_not_blamed_on_the_signer(bundle: Path, key: Path) -> None:
    mxbundle("sign", bundle, "--key", key)
    done = mxbundle("verify", bundle, "--allowed-signers", key.with_name("no-such-store"))
    assert done.returncode == 20
    assert "no-such-store is missing or empty" in done.stderr


def test_a_key_is_made_once(key: Path) -> None:
    done = mxbundle("keygen", key)
    assert done.returncode == 19
    assert "never overwritten" in done.stderr


def test_a_key_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = mxbundle("keygen", tmp_path / "file" / "key")
    assert done.returncode == 19
    assert "cannot be written" in done.stderr


def test_a_damaged_bundle_names_the_member(bundle: Path) -> None:
    content = bytearray(bundle.read_bytes())
    content[-300_000] ^= 1
    bundle.write_bytes(content)
    done = mxbundle("verify", bundle)
    assert done.returncode == 12
    assert "blobs/sha256/" in done.stderr
    assert "Traceback" not in done.stderr


def test_inspect_tells_people_and_programs_the_same(bundle: Path, key: Path) -> None:
    mxbundle("sign", bundle, "--key", key)
    text = mxbundle("inspect", bundle).stdout
    about = json.loads(mxbundle("inspect", bundle, "--json").stdout)
    assert about["generation"] == 1
    assert about["signatures"][0] in text
    assert about["images"][0]["bytes"] == 400_000
    assert sum(entry["archive_bytes"] for entry in about["space"]) < about["file_bytes"]
    assert "ghcr.io/a/b:1" in text
    assert f"built by an unknown program from lock {about['lock_digest']}" in text

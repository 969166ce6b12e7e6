"""Whom this host trusts: a key gets in by its fingerprint, and what ssh-keygen reads is what we write."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from mxinstall.trust import add_key, list_keys, remove_key, store_path

from sitebundle.errors import FingerprintDiffers, KeyUnreadable, TrustStoreInvalid
from sitebundle.signature import fingerprint, generate_key, sign


@pytest.fixture
def public_key(tmp_path: Path) -> Path:
    generate_key(tmp_path / "builder", "ci builder@example.org")
    return tmp_path / "builder.pub"


def test_a_key_is_trusted_with_the_fingerprint_that_was_given(tmp_path: Path, public_key: Path) -> None:
    store = tmp_path / "etc" / "allowed_signers"
    wanted = fingerprint(public_key.read_text())
    added = add_key(store, public_key, f" {wanted}\n")
    assert [key.fingerprint for key in list_keys(store)] == [wanted]
    assert added.principals == ("ci_builder@example.org",)
    assert add_key(store, public_key, wanted) == added
    assert len(store.read_text().splitlines()) == 1


def test_another_fingerprint_trusts_nothing(tmp_path: Path, public_key: Path) -> None:
    store = tmp_path / "allowed_signers"
    with pytest.raises(FingerprintDiffers) as caught:
        add_key(store, public_key, "SHA256:" + "A" * 43)
    assert caught.value.fields["seen"] == fingerprint(public_key.read_text())
    assert not store.exists()


def test_ssh_keygen_accepts_a_signature_by_the_store_that_we_wrote(tmp_path: Path, public_key: Path) -> None:
    store = tmp_path / "allowed_signers"
    add_key(store, public_key, fingerprint(public_key.read_text()))
    (tmp_path / "message.sig").write_text(sign(b"message", tmp_path / "builder", "manifest@mxbundle.io"))
    verified = subprocess.run(
        [
            *("ssh-keygen", "-Y", "verify", "-f", str(store), "-I", "ci_builder@example.org"),
            *("-n", "manifest@mxbundle.io", "-s", str(tmp_path / "message.sig")),
        ],
        input=b"message",
        capture_output=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stderr


def test_a_removed_key_is_gone_and_the_rest_stays(tmp_path: Path, public_key: Path) -> None:
    store = tmp_path / "allowed_signers"
    generate_key(tmp_path / "other", "other")
    wanted, other = fingerprint(public_key.read_text()), fingerprint((tmp_path / "other.pub").read_text())
    add_key(store, public_key, wanted)
    store.write_text("# kept by hand\n" + store.read_text())
    add_key(store, tmp_path / "other.pub", other)
    gone = remove_key(store, wanted)
    assert gone is not None
    assert gone.fingerprint == wanted
    assert [key.fingerprint for key in list_keys(store)] == [other]
    assert store.read_text().startswith("# kept by hand\n")
    assert remove_key(store, wanted) is None


@pytest.mark.parametrize("content", ["", "hello\n", "ssh-ed25519 !!!!\n", "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n"])
def test_what_is_no_public_key_is_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key.pub"
    path.write_text(content)
    with pytest.raises(KeyUnreadable):
        add_key(tmp_path / "allowed_signers", path, "SHA256:x")


def test_a_broken_store_is_told_with_its_line(tmp_path: Path) -> None:
    store = tmp_path / "allowed_signers"
    store.write_text("# fine\nnot a key\n")
    with pytest.raises(TrustStoreInvalid) as caught:
        list_keys(store)
    assert caught.value.fields["line"] == 2


def test_the_store_is_named_by_option_then_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MXINSTALL_ALLOWED_SIGNERS", raising=False)
    assert store_path() == Path("/etc/mxinstall/allowed_signers")
    monkeypatch.setenv("MXINSTALL_ALLOWED_SIGNERS", str(tmp_path / "env"))
    assert store_path() == tmp_path / "env"
    assert store_path(tmp_path / "given") == tmp_path / "given"

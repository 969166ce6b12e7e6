"""Signatures are OpenSSH's: ssh-keygen accepts ours, we accept ssh-keygen's, for every type of key."""

import base64
import hashlib
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sitebundle.errors import BadSignature, KeyExpired, KeyUnusable, TrustStoreInvalid, UnknownKey, Unsigned
from sitebundle.signature import AllowedSigners, PublicKey, Signature, fingerprint, generate_key, public_key_of, sign
from sitebundle.signature import verify as judge

NAMESPACE = "manifest@mxbundle.io"
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MESSAGE = b'{"what":"is signed"}\n'

Store = Callable[..., AllowedSigners]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    def make(*lines: str) -> AllowedSigners:
        path = tmp_path / "allowed_signers"
        path.write_text("".join(line + "\n" for line in lines))
        return AllowedSigners.read(path)

    return make


@pytest.fixture
def key(tmp_path: Path) -> Path:
    generate_key(tmp_path / "builder", "builder@test")
    return tmp_path / "builder"


def line_of(key: Path, options: str = "") -> str:
    return f"builder@test {options} {public_key_of(key).line}"


def keygen_verifies(armored: str, message: bytes, allowed: str, folder: Path, namespace: str = NAMESPACE) -> bool:
    (folder / "signers").write_text(allowed + "\n")
    (folder / "signature").write_text(armored)
    command = ["ssh-keygen", "-Y", "verify", "-f", str(folder / "signers"), "-I", "builder@test", "-n", namespace]
    done = subprocess.run([*command, "-s", str(folder / "signature")], input=message, capture_output=True, check=False)
    return done.returncode == 0


def test_ssh_keygen_accepts_our_signature(key: Path, tmp_path: Path) -> None:
    armored = sign(MESSAGE, key, NAMESPACE)
    assert keygen_verifies(armored, MESSAGE, line_of(key), tmp_path)
    assert not keygen_verifies(armored, MESSAGE + b" ", line_of(key), tmp_path)
    assert not keygen_verifies(armored, MESSAGE, line_of(key), tmp_path, namespace="volumes@mxbundle.io")


def test_our_signature_is_the_one_that_ssh_keygen_makes(key: Path) -> None:
    theirs = subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", NAMESPACE],
        input=MESSAGE,
        capture_output=True,
        check=True,
    )
    assert sign(MESSAGE, key, NAMESPACE) == theirs.stdout.decode()


@pytest.mark.parametrize(
    ("kind", "bits"), [("ed25519", 256), ("ecdsa", 256), ("ecdsa", 384), ("ecdsa", 521), ("rsa", 2048)]
)
def test_keys_of_ssh_keygen_sign_and_are_accepted(kind: str, bits: int, tmp_path: Path, store: Store) -> None:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-b", str(bits), "-N", "", "-f", str(path)], check=True)
    armored = sign(MESSAGE, path, NAMESPACE)
    allowed = store(line_of(path))
    assert judge(MESSAGE, [armored], allowed, NAMESPACE, NOW).fingerprint == public_key_of(path).fingerprint
    with pytest.raises(BadSignature):
        judge(MESSAGE + b"x", [armored], allowed, NAMESPACE, NOW)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A real ssh-agent of our own, which holds nothing yet."""
    socket = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while not socket.exists():
        assert time.monotonic() < deadline, "ssh-agent does not listen"
        time.sleep(0.01)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
    yield
    process.terminate()
    process.wait()


@pytest.mark.usefixtures("agent")
def test_a_key_that_only_an_agent_holds_signs_by_its_public_half(tmp_path: Path, store: Store) -> None:
    held, public = tmp_path / "held", tmp_path / "held.pub"
    generate_key(held, "held")
    subprocess.run(["ssh-add", "-q", str(held)], check=True)
    held.unlink()
    armored = sign(MESSAGE, public, NAMESPACE)
    assert (
        judge(MESSAGE, [armored], store(line_of(public)), NAMESPACE, NOW).fingerprint
        == public_key_of(public).fingerprint
    )
    subprocess.run(["ssh-add", "-q", "-D"], check=True)
    with pytest.raises(KeyUnusable, match=r"held\.pub"):
        sign(MESSAGE, public, NAMESPACE)


def test_a_sha256_signature_is_accepted(key: Path, store: Store) -> None:
    command = ["ssh-keygen", "-q", "-Y", "sign", "-O", "hashalg=sha256", "-f", str(key), "-n", NAMESPACE]
    done = subprocess.run(command, input=MESSAGE, capture_output=True, check=True)
    assert Signature.parse(done.stdout.decode()).hash_name == b"sha256"
    assert judge(MESSAGE, [done.stdout.decode()], store(line_of(key)), NAMESPACE, NOW).principal == "builder@test"


def field(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def token_signature(inner: Ed25519PrivateKey, flags: int) -> tuple[str, str]:
    """What a hardware token answers (PROTOCOL.u2f), made from a key that we hold: public line, armored signature."""
    kind, application = b"sk-ssh-ed25519@openssh.com", b"ssh:"
    blob = field(kind) + field(inner.public_key().public_bytes_raw()) + field(application)
    hashed = hashlib.sha512(MESSAGE).digest()
    signed = b"SSHSIG" + field(NAMESPACE.encode()) + field(b"") + field(b"sha512") + field(hashed)
    tail = bytes((flags,)) + struct.pack(">I", 7)
    made = inner.sign(hashlib.sha256(application).digest() + tail + hashlib.sha256(signed).digest())
    whole = (
        b"SSHSIG"
        + struct.pack(">I", 1)
        + field(blob)
        + field(NAMESPACE.encode())
        + field(b"")
        + field(b"sha512")
        + field(field(kind) + field(made) + tail)
    )
    armored = "-----BEGIN SSH SIGNATURE-----\n" + base64.encodebytes(whole).decode() + "-----END SSH SIGNATURE-----\n"
    return f"{kind.decode()} {base64.b64encode(blob).decode()}", armored


def test_a_security_key_is_accepted_as_ssh_keygen_accepts_it(tmp_path: Path, store: Store) -> None:
    line, armored = token_signature(Ed25519PrivateKey.generate(), flags=1)
    assert keygen_verifies(armored, MESSAGE, f"builder@test {line}", tmp_path)
    assert judge(MESSAGE, [armored], store(f"builder@test {line}"), NAMESPACE, NOW).fingerprint == fingerprint(line)


def test_a_security_key_that_nobody_touched_is_refused(store: Store) -> None:
    line, armored = token_signature(Ed25519PrivateKey.generate(), flags=0)
    with pytest.raises(BadSignature):
        judge(MESSAGE, [armored], store(f"builder@test {line}"), NAMESPACE, NOW)


def test_our_fingerprint_is_ssh_keygens(key: Path) -> None:
    printed = subprocess.run(["ssh-keygen", "-l", "-f", f"{key}.pub"], capture_output=True, text=True, check=True)
    assert printed.stdout.split()[1] == fingerprint(Path(f"{key}.pub").read_text())


def test_no_signature_is_unsigned(key: Path, store: Store) -> None:
    with pytest.raises(Unsigned):
        judge(MESSAGE, [], store(line_of(key)), NAMESPACE, NOW)


def test_a_key_that_the_store_lacks_is_unknown_and_named(key: Path, tmp_path: Path, store: Store) -> None:
    other = tmp_path / "other"
    generate_key(other, "other")
    with pytest.raises(UnknownKey) as caught:
        judge(MESSAGE, [sign(MESSAGE, other, NAMESPACE)], store(line_of(key)), NAMESPACE, NOW)
    assert public_key_of(other).fingerprint in caught.value.message


def test_one_trusted_signature_among_others_is_enough(key: Path, tmp_path: Path, store: Store) -> None:
    other = tmp_path / "other"
    generate_key(other, "other")
    signatures = [sign(MESSAGE, other, NAMESPACE), "rubbish", sign(MESSAGE, key, NAMESPACE)]
    signer = judge(MESSAGE, signatures, store(line_of(key)), NAMESPACE, NOW)
    assert signer.fingerprint == public_key_of(key).fingerprint


def test_a_key_trusted_for_another_namespace_is_unknown(key: Path, store: Store) -> None:
    armored = sign(MESSAGE, key, NAMESPACE)
    with pytest.raises(UnknownKey):
        judge(MESSAGE, [armored], store(line_of(key, 'namespaces="volumes@mxbundle.io"')), NAMESPACE, NOW)
    allowed = store(line_of(key, 'namespaces="volumes@*,manifest@mxbundle.io"'))
    assert judge(MESSAGE, [armored], allowed, NAMESPACE, NOW).principal == "builder@test"
    with pytest.raises(UnknownKey):
        judge(MESSAGE, [armored], store(line_of(key, 'namespaces="*,!manifest@*"')), NAMESPACE, NOW)


def test_a_signature_for_another_namespace_does_not_count(key: Path, store: Store) -> None:
    with pytest.raises(UnknownKey):
        judge(MESSAGE, [sign(MESSAGE, key, "volumes@mxbundle.io")], store(line_of(key)), NAMESPACE, NOW)


@pytest.mark.parametrize(
    ("options", "valid"),
    [
        ('valid-after="20261123Z"', True),
        ('valid-after="202611231201Z"', False),
        ('valid-before="20261123120001Z"', True),
        ('valid-before="20261123120000Z"', False),
        ('valid-after="20250101Z",valid-before="20270101Z",namespaces="manifest@mxbundle.io"', True),
    ],
)
def test_a_key_counts_inside_its_window_only(options: str, valid: bool, key: Path, store: Store) -> None:
    armored = sign(MESSAGE, key, NAMESPACE)
    if valid:
        assert judge(MESSAGE, [armored], store(line_of(key, options)), NAMESPACE, NOW)
    else:
        with pytest.raises(KeyExpired):
            judge(MESSAGE, [armored], store(line_of(key, options)), NAMESPACE, NOW)


def test_a_time_without_zone_is_the_hosts_own(key: Path, store: Store) -> None:
    local = (NOW.astimezone() + timedelta(hours=1)).strftime("%Y%m%d%H%M%S")
    (signer,) = store(line_of(key, f'valid-before="{local}"')).signers
    assert signer.valid_before == NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    "line",
    [
        "builder@test",
        "builder@test ssh-ed25519 AAAA",
        "builder@test cert-authority {key}",
        'builder@test valid-after="yesterday" {key}',
        "builder@test namespaces {key}",
        'builder@test frobnicate="x" {key}',
        "builder@test ssh-dss {key}",
    ],
)
def test_a_line_that_is_not_understood_is_an_error_with_its_number(line: str, key: Path, store: Store) -> None:
    with pytest.raises(TrustStoreInvalid) as caught:
        store("# people", "", line.format(key=public_key_of(key).line))
    assert caught.value.fields["line"] == 3


def test_comments_blank_lines_and_quoted_principals_are_read(key: Path, store: Store) -> None:
    allowed = store("# one", "", f'"builder@test,root@*" {public_key_of(key).line} a comment')
    assert allowed.signers[0].principals == ("builder@test", "root@*")


def test_a_store_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    assert AllowedSigners.read(tmp_path / "nowhere").signers == ()


def test_a_short_rsa_key_is_refused(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "weak"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "1024", "-N", "", "-f", str(path)], check=True)
    with pytest.raises(TrustStoreInvalid):
        store(line_of(path))


def test_a_key_is_never_overwritten_and_only_its_owner_reads_it(key: Path) -> None:
    before = key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(KeyUnusable):
        generate_key(key, "again")
    assert key.read_bytes() == before


def test_what_is_no_key_is_refused_as_one(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("no key")
    with pytest.raises(KeyUnusable):
        sign(MESSAGE, path, NAMESPACE)


def test_a_damaged_signature_never_verifies(key: Path, store: Store) -> None:
    armored = sign(MESSAGE, key, NAMESPACE)
    body = bytearray(base64.b64decode("".join(armored.splitlines()[1:-1])))
    allowed = store(line_of(key))
    for place in range(len(body)):
        broken = bytearray(body)
        broken[place] ^= 1
        text = "-----BEGIN SSH SIGNATURE-----\n" + base64.b64encode(broken).decode() + "\n-----END SSH SIGNATURE-----\n"
        with pytest.raises((BadSignature, UnknownKey)):
            judge(MESSAGE, [text], allowed, NAMESPACE, NOW)


def test_a_public_key_is_read_from_any_line_that_holds_one(key: Path) -> None:
    line = public_key_of(key).line
    assert PublicKey.parse(f'x@y namespaces="a" {line} comment') == PublicKey.parse(line)

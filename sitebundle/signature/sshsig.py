"""SSHSIG: signatures as `ssh-keygen -Y sign` makes them, made and compared in process. Whose they are is not judged.

Sources: OpenSSH's PROTOCOL.sshsig and PROTOCOL.u2f, RFC 8332.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sitebundle.errors import KeyUnusable, ToolMissing
from sitebundle.signature.keys import KEY_TYPES, PublicKey, ed25519_file_key, ed25519_public, load
from sitebundle.signature.wire import Reader, string

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

_MAGIC = b"SSHSIG"
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_WIDTH = 70
_HASHES = {b"sha256": hashlib.sha256, b"sha512": hashlib.sha512}
_USER_PRESENT = 1
_KEYGEN_SECONDS = 120


@dataclass(frozen=True)
class Signature:
    """An SSHSIG taken apart."""

    key: PublicKey
    namespace: str
    hash_name: bytes
    signature: bytes

    @classmethod
    def parse(cls, armored: str) -> Signature:
        """Read an armored signature. Raises ValueError."""
        text = armored.strip()
        if not (text.startswith(_BEGIN) and text.endswith(_END)):
            raise ValueError("not an armored SSH signature")
        try:
            blob = base64.b64decode("".join(text[len(_BEGIN) : -len(_END)].split()), validate=True)
        except binascii.Error as fault:
            raise ValueError("the signature is not base64") from fault
        if blob[:6] != _MAGIC:
            raise ValueError("not an SSHSIG")
        reader = Reader(blob[6:])
        if (version := reader.number()) != 1:
            raise ValueError(f"SSHSIG version {version}")
        key_blob = reader.string()
        namespace, _reserved, hash_name = reader.string(), reader.string(), reader.string()
        signature = reader.string()
        reader.end()
        kind = Reader(key_blob).string().decode("ascii", "replace")
        if kind not in KEY_TYPES:
            raise ValueError(f"a key of type {kind[:40]!r} is not used here")
        if hash_name not in _HASHES:
            raise ValueError(f"hash {hash_name[:20]!r}")
        return cls(PublicKey(kind, key_blob), namespace.decode("utf-8", "replace"), hash_name, signature)

    def fits(self, message: bytes) -> bool:
        """Whether the key made this signature over `message` in this namespace."""
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

        try:
            signed = _signed_data(message, self.namespace, self.hash_name)
            _VERIFIERS[self.key.type](self.key.blob, self.signature, signed)
        except (InvalidSignature, UnsupportedAlgorithm, ValueError):
            return False
        return True


def sign(message: bytes, private_key: Path, namespace: str) -> str:
    """An armored SSHSIG over `message`.

    An unencrypted Ed25519 file key signs in process, always to the same bytes. Anything else (another type, a
    passphrase, a .pub file whose key an agent or a token holds) is `ssh-keygen -Y sign`'s work, which may ask.
    Raises KeyUnusable and ToolMissing.
    """
    key = ed25519_file_key(private_key)
    if key is None:
        return _sign_by_keygen(message, private_key, namespace)
    public = ed25519_public(key.public_key().public_bytes_raw())
    made = key.sign(_signed_data(message, namespace, b"sha512"))
    blob = (
        _MAGIC
        + struct.pack(">I", 1)
        + string(public.blob)
        + string(namespace.encode())
        + string(b"")
        + string(b"sha512")
        + string(string(b"ssh-ed25519") + string(made))
    )
    text = base64.b64encode(blob).decode()
    lines = [text[start : start + _WIDTH] for start in range(0, len(text), _WIDTH)]
    return "\n".join([_BEGIN, *lines, _END]) + "\n"


def _sign_by_keygen(message: bytes, key: Path, namespace: str) -> str:
    command = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", namespace]
    try:
        done = subprocess.run(
            command, input=message, capture_output=True, timeout=_KEYGEN_SECONDS, check=False, env=dict(os.environ)
        )
    except FileNotFoundError as fault:
        raise ToolMissing(tool="ssh-keygen", detail="it signs with agents, tokens and keys of other types") from fault
    except subprocess.TimeoutExpired as fault:
        raise KeyUnusable(path=key, detail=f"ssh-keygen did not answer within {_KEYGEN_SECONDS} s") from fault
    if done.returncode != 0:
        words = " ".join(done.stderr.decode(errors="replace").split())
        raise KeyUnusable(path=key, detail=words or f"ssh-keygen ended with {done.returncode}")
    return done.stdout.decode()


def _signed_data(message: bytes, namespace: str, hash_name: bytes) -> bytes:
    hashed = _HASHES[hash_name](message).digest()
    return _MAGIC + string(namespace.encode()) + string(b"") + string(hash_name) + string(hashed)


def _verify_plain(blob: bytes, signature: bytes, signed: bytes) -> None:
    reader = Reader(signature)
    kind, value = reader.string(), reader.string()
    reader.end()
    key = PublicKey(Reader(blob).string().decode(), blob)
    if kind.decode("ascii", "replace") != key.type:
        raise ValueError("the signature is of another type than the key")
    if key.type == "ssh-ed25519":
        load(key).verify(value, signed)
    else:
        _verify_curve(load(key), value, signed)


def _verify_curve(key: EllipticCurvePublicKey, value: bytes, signed: bytes) -> None:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512

    reader = Reader(value)
    r, s = (int.from_bytes(reader.string(), "big") for _ in range(2))
    reader.end()
    hashing = {256: SHA256(), 384: SHA384(), 521: SHA512()}[key.key_size]
    key.verify(encode_dss_signature(r, s), signed, ECDSA(hashing))


def _verify_rsa(blob: bytes, signature: bytes, signed: bytes) -> None:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256, SHA512

    reader = Reader(signature)
    kind, value = reader.string(), reader.string()
    reader.end()
    hashing = {b"rsa-sha2-256": SHA256, b"rsa-sha2-512": SHA512}.get(kind)
    if hashing is None:
        raise ValueError(f"RSA signatures of type {kind[:20]!r} are not used here")
    load(PublicKey("ssh-rsa", blob)).verify(value, signed, PKCS1v15(), hashing())


def _verify_security_key(blob: bytes, signature: bytes, signed: bytes) -> None:
    reader = Reader(signature)
    kind, value = reader.string(), reader.string()
    flags, counter = reader.take(1), reader.take(4)
    reader.end()
    fields = Reader(blob)
    named = fields.string()
    if kind != named:
        raise ValueError("the signature is of another type than the key")
    key = load(PublicKey(named.decode(), blob))
    if named == b"sk-ssh-ed25519@openssh.com":
        fields.string()
    else:
        fields.string(), fields.string()
    application = fields.string()
    if not flags[0] & _USER_PRESENT:
        raise ValueError("nobody touched the token")
    covered = hashlib.sha256(application).digest() + flags + counter + hashlib.sha256(signed).digest()
    if named == b"sk-ssh-ed25519@openssh.com":
        key.verify(value, covered)
    else:
        _verify_curve(key, value, covered)


_VERIFIERS: Final = {
    "ssh-ed25519": _verify_plain,
    "ecdsa-sha2-nistp256": _verify_plain,
    "ecdsa-sha2-nistp384": _verify_plain,
    "ecdsa-sha2-nistp521": _verify_plain,
    "ssh-rsa": _verify_rsa,
    "sk-ssh-ed25519@openssh.com": _verify_security_key,
    "sk-ecdsa-sha2-nistp256@openssh.com": _verify_security_key,
}

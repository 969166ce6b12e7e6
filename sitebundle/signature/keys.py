"""Keys in OpenSSH's forms: public ones as lines, private Ed25519 ones as files. No certificates.

Not here: signatures (`sshsig`), whom a site trusts (`allowed_signers`). Sources: RFC 8332, OpenSSH's PROTOCOL.u2f.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sitebundle.atomic import write_durably
from sitebundle.errors import KeyUnusable
from sitebundle.signature.wire import Reader, string

RSA_LEAST_BITS: Final = 2048
KEY_TYPES: Final = frozenset(
    {
        "ssh-ed25519",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "ssh-rsa",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)


@dataclass(frozen=True)
class PublicKey:
    """A public key in its wire form; two keys are the same when `blob` is."""

    type: str
    blob: bytes

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Read `type base64 [comment]`, with or without options before it. Raises ValueError."""
        words = text.split()
        for word, following in itertools.pairwise(words):
            if word in KEY_TYPES:
                return cls.of_blob(word, following)
        raise ValueError("no key of a known type (ed25519, ecdsa, rsa, sk-ed25519, sk-ecdsa)")

    @classmethod
    def of_blob(cls, kind: str, encoded: str) -> PublicKey:
        """The key of type `kind` in base64. Raises ValueError."""
        try:
            blob = base64.b64decode(encoded, validate=True)
            named = Reader(blob).string().decode("ascii")
        except (binascii.Error, ValueError) as fault:
            raise ValueError("the key is not in OpenSSH's form") from fault
        if named != kind:
            raise ValueError(f"the key is of type {named[:40]!r}, the line says {kind}")
        return cls(kind, blob)

    @property
    def fingerprint(self) -> str:
        """`SHA256:…`, as `ssh-keygen -l` prints it."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")

    @property
    def line(self) -> str:
        """`type base64`."""
        return f"{self.type} {base64.b64encode(self.blob).decode()}"


def fingerprint(public_key_line: str) -> str:
    """`SHA256:…` of a key as a .pub file has it. Raises ValueError."""
    return PublicKey.parse(public_key_line).fingerprint


def public_key_of(private_key: Path) -> PublicKey:
    """The public half of what `sign` would sign with. Raises KeyUnusable."""
    key = ed25519_file_key(private_key)
    if key is not None:
        return ed25519_public(key.public_key().public_bytes_raw())
    beside = private_key if private_key.suffix == ".pub" else private_key.with_name(private_key.name + ".pub")
    try:
        return PublicKey.parse(beside.read_text())
    except (OSError, ValueError) as fault:
        raise KeyUnusable(path=private_key, detail=f"its public half is not in {beside}: {fault}") from fault


def generate_key(path: Path, comment: str) -> PublicKey:
    """Make an Ed25519 key: `path` in OpenSSH's form, mode 0600, and `path`.pub. Raises KeyUnusable."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    public_path = path.with_name(path.name + ".pub")
    for taken in (path, public_path):
        if taken.exists() or taken.is_symlink():
            raise KeyUnusable(path=path, detail=f"{taken} is there already, and a key is never overwritten")
    key = Ed25519PrivateKey.generate()
    public = ed25519_public(key.public_key().public_bytes_raw())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), mode=0o600)
        write_durably(public_path, f"{public.line} {comment}\n".encode())
    except OSError as fault:
        raise KeyUnusable(path=path, detail=f"it cannot be written: {fault.strerror or fault}") from fault
    return public


def ed25519_file_key(path: Path) -> Any:
    """The key in `path` when it can sign in process, None when ssh-keygen must. Raises KeyUnusable."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    try:
        content = path.read_bytes()
    except OSError as fault:
        raise KeyUnusable(path=path, detail=fault.strerror or str(fault)) from fault
    if path.suffix == ".pub":
        return None
    try:
        key = load_ssh_private_key(content, None)
    except (UnsupportedAlgorithm, TypeError):
        # A hardware token's handle; a passphrase.
        return None
    except ValueError as fault:
        if b"PRIVATE KEY" in content:
            return None
        raise KeyUnusable(path=path, detail="it is not a private key in OpenSSH's form") from fault
    return key if isinstance(key, Ed25519PrivateKey) else None


def ed25519_public(raw: bytes) -> PublicKey:
    """The 32 bytes of an Ed25519 public key as OpenSSH writes it."""
    return PublicKey("ssh-ed25519", string(b"ssh-ed25519") + string(raw))


def load(key: PublicKey) -> Any:
    """The key as cryptography's object; for security keys, of the key inside. Raises ValueError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, SECP521R1
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey as Curve
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

    reader = Reader(key.blob)
    kind = reader.string()
    loaded: Any
    try:
        if kind in (b"ssh-ed25519", b"sk-ssh-ed25519@openssh.com"):
            loaded = Ed25519PublicKey.from_public_bytes(reader.string())
        elif kind == b"ssh-rsa":
            exponent, modulus = int.from_bytes(reader.string(), "big"), int.from_bytes(reader.string(), "big")
            if not RSA_LEAST_BITS <= modulus.bit_length() <= 16384:
                raise ValueError(f"an RSA key of {modulus.bit_length()} bits; {RSA_LEAST_BITS} are the least")
            loaded = RSAPublicNumbers(exponent, modulus).public_key()
        else:
            curves = {b"nistp256": SECP256R1(), b"nistp384": SECP384R1(), b"nistp521": SECP521R1()}
            curve = reader.string()
            if curve not in curves or (kind.startswith(b"ecdsa") and kind != b"ecdsa-sha2-" + curve):
                raise ValueError(f"curve {curve[:20]!r}")
            loaded = Curve.from_encoded_point(curves[curve], reader.string())
    except UnsupportedAlgorithm as fault:
        raise ValueError(str(fault)) from fault
    if kind.startswith(b"sk-"):
        reader.string()  # the application, which a signature's check hashes
    reader.end()
    return loaded

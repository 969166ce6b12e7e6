"""SSHSIG signatures and OpenSSH `allowed_signers`: made and judged in process, interchangeable with `ssh-keygen -Y`.

Source: OpenSSH's PROTOCOL.sshsig and PROTOCOL.u2f, RFC 8332, ssh-keygen(1) ALLOWED SIGNERS. No certificates.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import os
import re
import struct
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sitebundle.atomic import write_durably
from sitebundle.errors import (
    BadSignature,
    KeyExpired,
    KeyUnusable,
    ToolMissing,
    TrustStoreInvalid,
    UnknownKey,
    Unsigned,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

MANIFEST_NAMESPACE: Final = "manifest@mxbundle.io"
ATTESTATIONS_NAMESPACE: Final = "attestations@mxbundle.io"

RSA_LEAST_BITS: Final = 2048
STORE_LIMIT_BYTES: Final = 1 << 20

_MAGIC = b"SSHSIG"
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_WIDTH = 70
_HASHES = {b"sha256": hashlib.sha256, b"sha512": hashlib.sha512}
_USER_PRESENT = 1
_KEYGEN_SECONDS = 120


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
            if word in _VERIFIERS:
                return cls._of_blob(word, following)
        raise ValueError("no key of a known type (ed25519, ecdsa, rsa, sk-ed25519, sk-ecdsa)")

    @classmethod
    def _of_blob(cls, kind: str, encoded: str) -> PublicKey:
        try:
            blob = base64.b64decode(encoded, validate=True)
            named = _Reader(blob).string().decode("ascii")
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


@dataclass(frozen=True)
class AllowedSigner:
    """One line of a trust store. The window is closed at its begin and open at its end, as in ssh-keygen."""

    principals: tuple[str, ...]
    key: PublicKey
    namespaces: tuple[str, ...] = ()
    valid_after: datetime | None = None
    valid_before: datetime | None = None

    def covers(self, namespace: str) -> bool:
        """Whether the key may sign in `namespace`; a line without `namespaces=` covers all."""
        return not self.namespaces or _matches(namespace, self.namespaces)

    def is_valid(self, at: datetime) -> bool:
        """Whether `at` is inside the window."""
        return (self.valid_after is None or at >= self.valid_after) and (
            self.valid_before is None or at < self.valid_before
        )

    @property
    def window(self) -> str:
        """The window in words."""
        parts = [
            f"{word} {when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
            for word, when in (("from", self.valid_after), ("until", self.valid_before))
            if when is not None
        ]
        return " ".join(parts) or "always"


@dataclass(frozen=True)
class AllowedSigners:
    """A trust store as it was read."""

    path: Path
    signers: tuple[AllowedSigner, ...]

    @classmethod
    def read(cls, path: Path) -> AllowedSigners:
        """Read a trust store; one that does not exist is empty. Raises TrustStoreInvalid with the line."""
        try:
            with path.open("rb") as file:
                content = file.read(STORE_LIMIT_BYTES + 1)
            if len(content) > STORE_LIMIT_BYTES:
                raise TrustStoreInvalid(path=path, line=0, detail=f"more than {STORE_LIMIT_BYTES} bytes")
            return cls(path, cls.parse(content.decode()))
        except FileNotFoundError:
            return cls(path, ())
        except _LineFault as fault:
            raise TrustStoreInvalid(path=path, line=fault.number, detail=str(fault)) from fault
        except (OSError, UnicodeDecodeError) as fault:
            raise TrustStoreInvalid(path=path, line=0, detail=str(fault)) from fault

    @classmethod
    def parse(cls, text: str) -> tuple[AllowedSigner, ...]:
        """The lines of a trust store. Raises ValueError for the first that is none."""
        signers = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                signers.append(_parse_line(line.strip()))
            except ValueError as fault:
                raise _LineFault(number, str(fault)) from fault
        return tuple(signers)

    def of(self, key: PublicKey) -> tuple[AllowedSigner, ...]:
        """The lines with `key`."""
        return tuple(signer for signer in self.signers if signer.key.blob == key.blob)


@dataclass(frozen=True)
class Signer:
    """Who vouches for a message: a trusted key whose signature fits."""

    principal: str
    key: PublicKey

    @property
    def fingerprint(self) -> str:
        """`SHA256:…` of the key."""
        return self.key.fingerprint


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
        reader = _Reader(blob[6:])
        if (version := reader.number()) != 1:
            raise ValueError(f"SSHSIG version {version}")
        key_blob = reader.string()
        namespace, _reserved, hash_name = reader.string(), reader.string(), reader.string()
        signature = reader.string()
        reader.end()
        kind = _Reader(key_blob).string().decode("ascii", "replace")
        if kind not in _VERIFIERS:
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


def fingerprint(public_key_line: str) -> str:
    """`SHA256:…` of a key as a .pub file has it. Raises ValueError."""
    return PublicKey.parse(public_key_line).fingerprint


def verify(
    message: bytes,
    signatures: Iterable[str],
    allowed: AllowedSigners,
    namespace: str,
    at: datetime,
    *,
    path: object = "the bundle",
) -> Signer:
    """The first trusted key, valid `at`, whose signature over `message` in `namespace` fits.

    Otherwise raises, the gravest first: BadSignature (a trusted key, other content), KeyExpired, UnknownKey,
    Unsigned. `path` is what the errors call the message.
    """
    bad: PublicKey | None = None
    expired: AllowedSigner | None = None
    unknown: list[str] = []
    for armored in signatures:
        try:
            signature = Signature.parse(armored)
        except ValueError:
            unknown.append("an unreadable signature")
            continue
        lines = [line for line in allowed.of(signature.key) if line.covers(namespace)]
        if not lines or signature.namespace != namespace:
            unknown.append(signature.key.fingerprint)
            continue
        if not signature.fits(message):
            bad = bad or signature.key
            continue
        for line in lines:
            if line.is_valid(at):
                return Signer(line.principals[0], line.key)
        expired = expired or lines[0]
    if bad is not None:
        raise BadSignature(path=path, fingerprint=bad.fingerprint)
    if expired is not None:
        raise KeyExpired(
            fingerprint=expired.key.fingerprint, window=expired.window, now=f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        )
    if unknown:
        raise UnknownKey(path=path, fingerprints=", ".join(dict.fromkeys(unknown)), namespace=namespace)
    raise Unsigned(path=path)


def sign(message: bytes, private_key: Path, namespace: str) -> str:
    """An armored SSHSIG over `message`.

    An unencrypted Ed25519 file key signs in process, always to the same bytes. Anything else (another type, a
    passphrase, a .pub file whose key an agent or a token holds) is `ssh-keygen -Y sign`'s work, which may ask.
    Raises KeyUnusable and ToolMissing.
    """
    key = _ed25519_file_key(private_key)
    if key is None:
        return _sign_by_keygen(message, private_key, namespace)
    public = _string(b"ssh-ed25519") + _string(key.public_key().public_bytes_raw())
    made = key.sign(_signed_data(message, namespace, b"sha512"))
    blob = (
        _MAGIC
        + struct.pack(">I", 1)
        + _string(public)
        + _string(namespace.encode())
        + _string(b"")
        + _string(b"sha512")
        + _string(_string(b"ssh-ed25519") + _string(made))
    )
    text = base64.b64encode(blob).decode()
    lines = [text[start : start + _WIDTH] for start in range(0, len(text), _WIDTH)]
    return "\n".join([_BEGIN, *lines, _END]) + "\n"


def allowed_line(key: PublicKey, principal: str) -> str:
    """The line that lets `key` vouch for bundles in a trust store."""
    return f'{principal} namespaces="*@mxbundle.io" {key.line}'


def public_key_of(private_key: Path) -> PublicKey:
    """The public half of what `sign` would sign with. Raises KeyUnusable."""
    key = _ed25519_file_key(private_key)
    if key is not None:
        return PublicKey("ssh-ed25519", _string(b"ssh-ed25519") + _string(key.public_key().public_bytes_raw()))
    beside = private_key if private_key.suffix == ".pub" else private_key.with_name(private_key.name + ".pub")
    try:
        return PublicKey.parse(beside.read_text())
    except (OSError, ValueError) as fault:
        raise KeyUnusable(path=private_key, detail=f"its public half is not in {beside}: {fault}") from fault


def generate_key(path: Path, comment: str) -> PublicKey:
    """Make an Ed25519 key: `path` in OpenSSH's form, mode 0600, and `path`.pub. Raises KeyUnusable, OSError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    public_path = path.with_name(path.name + ".pub")
    for taken in (path, public_path):
        if taken.exists() or taken.is_symlink():
            raise KeyUnusable(path=path, detail=f"{taken} is there already, and a key is never overwritten")
    path.parent.mkdir(parents=True, exist_ok=True)
    key = Ed25519PrivateKey.generate()
    public = PublicKey("ssh-ed25519", _string(b"ssh-ed25519") + _string(key.public_key().public_bytes_raw()))
    write_durably(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), mode=0o600)
    write_durably(public_path, f"{public.line} {comment}\n".encode())
    return public


# --- allowed_signers --------------------------------------------------------------------------------------------


class _LineFault(ValueError):
    def __init__(self, number: int, detail: str) -> None:
        super().__init__(detail)
        self.number = number


_WORD = re.compile(r'(?:"[^"]*"|[^\s"])+')
_OPTION = re.compile(r'([a-z-]+)(?:="([^"]*)")?(?:,|$)', re.IGNORECASE)


def _parse_line(line: str) -> AllowedSigner:
    words = [match.group() for match in _WORD.finditer(line)]
    if len(words) < 3:
        raise ValueError("a line is: principals [options] key-type key")
    principals = tuple(part for part in words[0].strip('"').split(",") if part)
    if not principals:
        raise ValueError("no principal")
    options: dict[str, str | None] = {}
    rest = words[1:]
    if rest[0] not in _VERIFIERS:
        options, rest = _parse_options(rest[0]), rest[1:]
    if len(rest) < 2 or rest[0] not in _VERIFIERS:
        raise ValueError(f"key type {rest[0][:40] if rest else ''!r} is not used here")
    if "cert-authority" in options:
        raise ValueError("cert-authority: certificates are not used here")
    key = PublicKey._of_blob(rest[0], rest[1])
    _load(key)
    return AllowedSigner(
        principals,
        key,
        tuple(part for part in (options.get("namespaces") or "").split(",") if part),
        _moment(options.get("valid-after")),
        _moment(options.get("valid-before")),
    )


def _parse_options(text: str) -> dict[str, str | None]:
    options: dict[str, str | None] = {}
    at = 0
    while at < len(text):
        match = _OPTION.match(text, at)
        if match is None:
            raise ValueError(f"option {text[at : at + 40]!r}")
        name = match[1].lower()
        valued = name in ("namespaces", "valid-after", "valid-before")
        if not (valued or name == "cert-authority") or valued != (match[2] is not None) or name in options:
            raise ValueError(f"option {match[0].rstrip(',')[:40]!r}")
        options[name] = match[2]
        at = match.end()
    return options


def _moment(text: str | None) -> datetime | None:
    """YYYYMMDD[HHMM[SS]], the host's time zone unless it ends in Z."""
    if text is None:
        return None
    digits = text.removesuffix("Z")
    form = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}.get(len(digits))
    if form is None or not digits.isascii() or not digits.isdigit():
        raise ValueError(f"time {text[:40]!r} is not YYYYMMDD[HHMM[SS]][Z]")
    moment = datetime.strptime(digits, form)  # noqa: DTZ007 - the zone is set below
    return moment.replace(tzinfo=UTC) if text.endswith("Z") else moment.astimezone()


def _matches(text: str, patterns: Sequence[str]) -> bool:
    """OpenSSH's pattern list: `*` and `?`, and a `!` that overrules."""
    matched = False
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        # fnmatch knows [sets], OpenSSH does not.
        if fnmatchcase(text, bare.replace("[", "[[]")):
            if pattern.startswith("!"):
                return False
            matched = True
    return matched


# --- the wire ---------------------------------------------------------------------------------------------------


class _Reader:
    """Takes fields off an SSH wire string. Raises ValueError when it ends too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def take(self, length: int) -> bytes:
        if length > len(self._data):
            raise ValueError("a field is longer than what there is")
        field, self._data = self._data[:length], self._data[length:]
        return field

    def number(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        return self.take(self.number())

    def end(self) -> None:
        if self._data:
            raise ValueError("something follows the last field")


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _signed_data(message: bytes, namespace: str, hash_name: bytes) -> bytes:
    hashed = _HASHES[hash_name](message).digest()
    return _MAGIC + _string(namespace.encode()) + _string(b"") + _string(hash_name) + _string(hashed)


def _load(key: PublicKey) -> Any:
    """The key as cryptography's object; for security keys, of the key inside. Raises ValueError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, SECP521R1
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey as Curve
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

    reader = _Reader(key.blob)
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
        reader.string()  # the application, which `_verify_security_key` hashes
    reader.end()
    return loaded


def _verify_plain(blob: bytes, signature: bytes, signed: bytes) -> None:
    reader = _Reader(signature)
    kind, value = reader.string(), reader.string()
    reader.end()
    key = PublicKey(_Reader(blob).string().decode(), blob)
    if kind.decode("ascii", "replace") != key.type:
        raise ValueError("the signature is of another type than the key")
    if key.type == "ssh-ed25519":
        _load(key).verify(value, signed)
    else:
        _verify_curve(_load(key), value, signed)


def _verify_curve(key: EllipticCurvePublicKey, value: bytes, signed: bytes) -> None:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512

    reader = _Reader(value)
    r, s = (int.from_bytes(reader.string(), "big") for _ in range(2))
    reader.end()
    hashing = {256: SHA256(), 384: SHA384(), 521: SHA512()}[key.key_size]
    key.verify(encode_dss_signature(r, s), signed, ECDSA(hashing))


def _verify_rsa(blob: bytes, signature: bytes, signed: bytes) -> None:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256, SHA512

    reader = _Reader(signature)
    kind, value = reader.string(), reader.string()
    reader.end()
    hashing = {b"rsa-sha2-256": SHA256, b"rsa-sha2-512": SHA512}.get(kind)
    if hashing is None:
        raise ValueError(f"RSA signatures of type {kind[:20]!r} are not used here")
    _load(PublicKey("ssh-rsa", blob)).verify(value, signed, PKCS1v15(), hashing())


def _verify_security_key(blob: bytes, signature: bytes, signed: bytes) -> None:
    reader = _Reader(signature)
    kind, value = reader.string(), reader.string()
    flags, counter = reader.take(1), reader.take(4)
    reader.end()
    fields = _Reader(blob)
    named = fields.string()
    if kind != named:
        raise ValueError("the signature is of another type than the key")
    key = _load(PublicKey(named.decode(), blob))
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


# --- signing ----------------------------------------------------------------------------------------------------


def _ed25519_file_key(path: Path) -> Any:
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

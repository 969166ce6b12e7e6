"""The cluster's keys and certificates: one CA, who shows which name to whom, and the kubeconfig files.

Names and groups follow https://kubernetes.io/docs/setup/best-practices/certificates/. They live as long as the
site does, a month at most.
"""

import base64
import datetime
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFETIME = datetime.timedelta(days=30)
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Pair:
    """A private key and its certificate, both in PEM."""

    key: bytes
    certificate: bytes

    def write(self, folder: Path, name: str) -> None:
        """Writes `name.key` (for root alone) and `name.crt` into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        secret = folder / f"{name}.key"
        secret.touch(mode=0o600)
        secret.write_bytes(self.key)
        (folder / f"{name}.crt").write_bytes(self.certificate)


class Authority:
    """A certificate authority that lives in memory; `pair` is what it is on disk."""

    def __init__(self, common_name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(common_name, ())
        builder = _builder(self._name, self._name, self._key.public_key())
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        self._certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.pair = Pair(_private(self._key), self._certificate.public_bytes(_PEM))

    def issue(
        self,
        common_name: str,
        organizations: Sequence[str] = (),
        hosts: Sequence[str] = (),
    ) -> Pair:
        """A certificate for `common_name`; with `hosts` (names and addresses) it may be a server's too."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(common_name, organizations), self._name, key.public_key())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if hosts:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general(host) for host in hosts]), critical=False
            )
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Pair(_private(key), certificate.public_bytes(_PEM))


def signing_key() -> tuple[bytes, bytes]:
    """A key pair (private, public; PEM) for service account tokens."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _private(key), key.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def kubeconfig(server: str, authority: bytes, client: Pair, name: str) -> str:
    """A kubeconfig with everything inside it: JSON, which is YAML too."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "site",
                    "cluster": {"server": server, "certificate-authority-data": _text(authority)},
                }
            ],
            "users": [
                {
                    "name": name,
                    "user": {
                        "client-certificate-data": _text(client.certificate),
                        "client-key-data": _text(client.key),
                    },
                }
            ],
            "contexts": [{"name": "site", "context": {"cluster": "site", "user": name}}],
            "current-context": "site",
        },
        indent=1,
    )


def _name(common_name: str, organizations: Sequence[str]) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in organizations]
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # Clocks of one machine agree, but a certificate of this very second is refused by a rounding reader.
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + _LIFETIME)
    )


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    # SEC 1 form: the API server reads service account keys in it and in PKCS 8.
    return key.private_bytes(_PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())


def _text(pem: bytes) -> str:
    return base64.b64encode(pem).decode()

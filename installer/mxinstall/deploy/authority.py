"""The site's own certificate authority: pure functions from keys and names to PEM. ECDSA P-256 everywhere.

P-256 because PostgreSQL, libpq and every OpenSSL take it. Not here: where keys and certificates are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 825
"""What common TLS clients accept at most for a certificate of a private CA."""
_CLOCK_SKEW = timedelta(hours=1)
_USAGES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key (PKCS#8), both PEM text."""

    certificate: str
    key: str


def new_authority(site: str, now: datetime | None = None, *, dated: bool = False) -> KeyPair:
    """A self-signed CA that may sign leaf certificates only.

    `dated`: the day is in its name, so that people can tell it on their devices from the one that it follows.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    start = (now or datetime.now(UTC)) - _CLOCK_SKEW
    rest = f" site CA {start:%Y-%m-%d}" if dated else " site CA"
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{site[: 64 - len(rest)]}{rest}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pair(certificate, key)


def issue(
    authority: KeyPair, common_name: str, dns: tuple[str, ...], usages: tuple[str, ...], now: datetime | None = None
) -> KeyPair:
    """A leaf certificate of `authority`. `usages`: server, client. Raises ValueError for an unreadable authority."""
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    signer = serialization.load_pem_private_key(authority.key.encode(), None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ValueError("the site's CA key is not an elliptic curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    start = (now or datetime.now(UTC)) - _CLOCK_SKEW
    end = min(start + timedelta(days=CERTIFICATE_DAYS), issuer.not_valid_after_utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_USAGES[usage] for usage in usages]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            critical=False,
        )
    )
    if dns:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in dns]), False)
    return _pair(builder.sign(signer, hashes.SHA256()), key)


def expiry(certificate: str) -> datetime:
    """When the first certificate of a PEM text ends. Raises ValueError."""
    return x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc


def issued_by(certificate: str, authority: str) -> bool:
    """Whether the first certificate of a PEM text was signed by the key of the first of another. Raises ValueError."""
    issuer = x509.load_pem_x509_certificate(authority.encode())
    try:
        x509.load_pem_x509_certificate(certificate.encode()).verify_directly_issued_by(issuer)
    except (InvalidSignature, TypeError, ValueError):
        return False
    return True


def subject(certificate: str) -> str:
    """The common name of the first certificate of a PEM text, for people. Raises ValueError."""
    named = x509.load_pem_x509_certificate(certificate.encode()).subject
    return ", ".join(str(one.value) for one in named.get_attributes_for_oid(NameOID.COMMON_NAME))


def thumbprint(certificate: str) -> str:
    """SHA-256 of the first certificate of a PEM text as devices show it (`AB:CD:…`). Raises ValueError."""
    return x509.load_pem_x509_certificate(certificate.encode()).fingerprint(hashes.SHA256()).hex(":").upper()


def first_of(certificates: str) -> str:
    """The first certificate of a PEM text, as PEM. Raises ValueError."""
    return x509.load_pem_x509_certificate(certificates.encode()).public_bytes(serialization.Encoding.PEM).decode()


def names(certificate: str) -> frozenset[str]:
    """The DNS names that the first certificate of a PEM text is for. Raises ValueError."""
    try:
        known = x509.load_pem_x509_certificate(certificate.encode()).extensions
        return frozenset(
            known.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
        )
    except x509.ExtensionNotFound:
        return frozenset()


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return KeyPair(certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode())

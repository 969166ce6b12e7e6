"""The site's CA and what it issues are accepted by others' verifiers."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from mxinstall.deploy.authority import expiry, issue, new_authority


@pytest.mark.parametrize(("usages", "purpose"), [(("server",), "sslserver"), (("client",), "sslclient")])
def test_openssl_accepts_an_issued_certificate_for_its_purpose(
    tmp_path: Path, usages: tuple[str, ...], purpose: str
) -> None:
    authority = new_authority("north-1")
    leaf = issue(authority, "postgres-rw.matrix-data.svc", ("postgres-rw",), usages)
    (tmp_path / "ca.crt").write_text(authority.certificate)
    (tmp_path / "tls.crt").write_text(leaf.certificate)
    done = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.crt", "tls.crt"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_server_certificate_is_no_client_certificate() -> None:
    leaf = x509.load_pem_x509_certificate(issue(new_authority("a"), "x", (), ("server",)).certificate.encode())
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [entry._name for entry in usage] == ["serverAuth"]


def test_key_and_certificate_belong_together_and_the_key_is_p256() -> None:
    leaf = issue(new_authority("a"), "x", ("x.y",), ("server", "client"))
    key = load_pem_private_key(leaf.key.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp256r1"
    assert x509.load_pem_x509_certificate(leaf.certificate.encode()).public_key() == key.public_key()


def test_a_certificate_never_outlives_its_authority() -> None:
    old = new_authority("a", datetime.now(UTC) - timedelta(days=3500))
    assert expiry(issue(old, "x", (), ("server",)).certificate) == expiry(old.certificate)


def test_names_are_in_the_subject_alternative_names() -> None:
    leaf = x509.load_pem_x509_certificate(
        issue(new_authority("a"), "x", ("b", "c.d"), ("server",)).certificate.encode()
    )
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["b", "c.d"]

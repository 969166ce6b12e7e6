"""The site's CA and what it issues are accepted by others' verifiers."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from mxinstall.deploy.authority import expiry, issue, issued_by, new_authority, subject


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


def test_openssl_accepts_certificates_of_either_ca_where_both_are_in_one_file(tmp_path: Path) -> None:
    authorities = new_authority("north-1"), new_authority("north-1", dated=True)
    (tmp_path / "ca.crt").write_text("".join(one.certificate for one in reversed(authorities)))
    for number, authority in enumerate(authorities):
        (tmp_path / f"{number}.crt").write_text(issue(authority, "a", ("a",), ("server",)).certificate)
    done = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", "ca.crt", "0.crt", "1.crt"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["0.crt: OK", "1.crt: OK"], done.stderr


def test_people_can_tell_a_following_ca_by_its_day_however_long_the_sites_name_is() -> None:
    moment = datetime(2031, 5, 6, 12, tzinfo=UTC)
    assert subject(new_authority("north-1", moment, dated=True).certificate) == "north-1 site CA 2031-05-06"
    assert subject(new_authority("n" * 63, moment, dated=True).certificate) == f"{'n' * 45} site CA 2031-05-06"


def test_who_signed_is_told_by_the_key_and_not_by_the_name() -> None:
    one, other = new_authority("a"), new_authority("a")
    leaf = issue(one, "x", (), ("server",)).certificate
    assert issued_by(leaf + other.certificate, one.certificate + other.certificate)
    assert not issued_by(leaf, other.certificate)


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

"""What the installer writes into a certificate's Secret."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from mxinstall.cluster import Cluster
from mxinstall.deploy.secrets import ensure_secrets

from sitebundle.stack import SecretPlan


class Kept:
    """A cluster that keeps Secrets."""

    def __init__(self) -> None:
        self.secrets: dict[tuple[str, str], dict[str, Any]] = {}

    def get(self, api_version: str, kind: str, name: str, namespace: str) -> dict[str, Any] | None:
        return self.secrets.get((namespace, name))

    def create(self, obj: dict[str, Any]) -> None:
        self.secrets[(obj["metadata"]["namespace"], obj["metadata"]["name"])] = obj

    def text(self, name: str, key: str) -> str:
        return base64.b64decode(self.secrets[("plugins", name)]["data"][key]).decode()


def made(*names: str, chain: bool) -> Kept:
    kept = Kept()
    plans = [
        SecretPlan.model_validate(
            {
                "name": name,
                "namespaces": ["plugins"],
                "certificate": {"commonName": name, "dns": [name], "chain": chain},
            }
        )
        for name in names
    ]
    ensure_secrets(cast(Cluster, kept), plans, "test")
    return kept


def test_a_certificate_stands_alone_unless_its_chain_is_asked_for() -> None:
    plain, chained = (made("a", chain=chain).text("a", "tls.crt").count("BEGIN CERTIFICATE") for chain in (False, True))
    assert (plain, chained) == (1, 2)


def test_who_trusts_what_one_certificate_shows_trusts_the_next_one_too(tmp_path: Path) -> None:
    kept = made("old", "renewed", chain=True)
    for name in ("old", "renewed"):
        (tmp_path / f"{name}.crt").write_text(kept.text(name, "tls.crt"))
    done = subprocess.run(
        ["openssl", "verify", "-CAfile", "old.crt", "renewed.crt"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    leaf, authority = x509.load_pem_x509_certificates(kept.text("old", "tls.crt").encode())
    assert leaf.issuer == authority.subject

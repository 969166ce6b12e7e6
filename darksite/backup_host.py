"""The site's backup host: a machine of the LAN with an S3 store, which knows nothing of the cluster.

Its CA is its own and its keys are made here; who may use them is told by `target`. What is backed up is not known here.
"""

import json
import secrets
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darksite import machines
from darksite.certificates import Authority
from darksite.site import Site

PORT = 9000
BUCKET = "matrix"
_ENVIRONMENT = "/etc/minio/environment"
_CERTIFICATES = "/etc/minio/certs"


@dataclass(frozen=True)
class Target:
    """What whoever is to back up is told: the store's address, and what opens it. `ca` is PEM."""

    endpoint: str
    bucket: str
    access_key_id: str
    secret_access_key: str
    ca: str

    def secret(self, name: str, namespace: str) -> dict[str, Any]:
        """The Secret that the installer wants, as the operator would apply it."""
        texts = {
            "accessKeyId": self.access_key_id,
            "secretAccessKey": self.secret_access_key,
            "ca.crt": self.ca,
        }
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "data": {key: b64encode(text.encode()).decode() for key, text in texts.items()},
        }


def start(site: Site) -> None:
    """Starts the machine and its store, unless they run. Raises `MachineStartError`, OSError."""
    host = site.backup_host
    machines.start(site, host)
    if not _noted(site).exists():
        _furnish(site)
    machines.start_daemon(
        site,
        host,
        "minio",
        [
            "/usr/bin/env",
            f"MINIO_CONFIG_ENV_FILE={_ENVIRONMENT}",
            machines.product("minio"),
            "server",
            f"--address={host.address}:{PORT}",
            f"--certs-dir={_CERTIFICATES}",
            "/var/lib/minio",
        ],
    )


def target(site: Site) -> Target:
    """What opens the store. Raises FileNotFoundError when it was never started."""
    return Target(**json.loads(_noted(site).read_text()))


def stored(site: Site) -> tuple[str, ...]:
    """The names of all objects in the bucket, as the store keeps them: one folder each."""
    bucket = site.backup_host.folder / "var-lib/minio" / BUCKET
    return tuple(sorted(place.parent.relative_to(bucket).as_posix() for place in bucket.rglob("xl.meta")))


def _furnish(site: Site) -> None:
    """Keys and certificate, made once; the note with the keys comes last and says that all is there."""
    host = site.backup_host
    # Another name than the certificate's, or whoever checks takes the certificate for a self-signed one.
    authority = Authority("authority-of-the-backup-host")
    certificates = host.folder / _CERTIFICATES.lstrip("/")
    pair = authority.issue("backup-host", hosts=[host.name, host.address])
    certificates.mkdir(parents=True, exist_ok=True)
    _write(certificates / "public.crt", pair.certificate.decode())
    _write(certificates / "private.key", pair.key.decode())
    found = Target(
        endpoint=f"https://{host.address}:{PORT}",
        bucket=BUCKET,
        access_key_id="backup",
        secret_access_key=secrets.token_urlsafe(24),
        ca=authority.pair.certificate.decode(),
    )
    # The console and the look for a newer release would only listen and ask for nothing.
    settings = {
        "MINIO_ROOT_USER": found.access_key_id,
        "MINIO_ROOT_PASSWORD": found.secret_access_key,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
    }
    _write(
        host.folder / _ENVIRONMENT.lstrip("/"),
        "".join(f'export {name}="{value}"\n' for name, value in settings.items()),
    )
    growing = _noted(site).with_suffix(".part")
    _write(growing, json.dumps(vars(found)))
    growing.replace(_noted(site))


def _write(place: Path, text: str) -> None:
    place.touch(mode=0o600)
    place.write_text(text)


def _noted(site: Site) -> Path:
    return site.state / "backup-target.json"

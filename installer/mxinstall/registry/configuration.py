"""What the carried registry (distribution 3.1) is told, and the systemd unit that runs it. Pure text.

Option names: https://distribution.github.io/distribution/about/configuration/
"""

from __future__ import annotations

from pathlib import Path

import yaml

ENVIRONMENT = {"OTEL_TRACES_EXPORTER": "none"}
"""Distribution 3 otherwise tries to hand traces to localhost:4318."""


def render(address: str, storage: Path, secret: str) -> str:
    """The configuration file. `secret` signs upload states: an upload goes on after a restart only if it stays."""
    return yaml.safe_dump(
        {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(storage), "maxthreads": 64},
                # Cleaning up is the installer's business: what a rollback needs must not be deletable by a client.
                "delete": {"enabled": False},
                "redirect": {"disable": True},
                "maintenance": {
                    "uploadpurging": {"enabled": True, "age": "168h", "interval": "24h", "dryrun": False},
                },
            },
            "http": {"addr": address, "secret": secret, "headers": {"X-Content-Type-Options": ["nosniff"]}},
            # An index stays byte for byte what upstream published, whichever platforms were carried.
            "validation": {"disabled": False, "manifests": {"indexes": {"platforms": "none"}}},
        },
        sort_keys=False,
    )


def unit(site: str, binary: Path, config: Path) -> str:
    """The systemd unit of the carried registry. It is never given up: pods cannot be rescheduled without it."""
    environment = "\n".join(f"Environment={name}={value}" for name, value in ENVIRONMENT.items())
    return f"""\
[Unit]
Description=Registry of the Matrix site {site}
Documentation=https://distribution.github.io/distribution/
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
{environment}
ExecStart={_quoted(binary)} serve {_quoted(config)}
Restart=always
RestartSec=2
NoNewPrivileges=true
ProtectSystem=full

[Install]
WantedBy=multi-user.target
"""


def _quoted(path: Path) -> str:
    """A path as one word of a unit file, its % taken for nothing else (systemd.unit(5), SPECIFIERS)."""
    return f'"{path}"'.replace("%", "%%")

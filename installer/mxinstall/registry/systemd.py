"""One systemd unit of the install host: written, started, looked at, removed. Not here: what the unit says."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sitebundle.atomic import write_durably
from sitebundle.errors import RegistryServiceFailed

SUPERVISOR = "MXINSTALL_SUPERVISOR"
"""An environment variable; `own`: no unit may be written on this host, our own supervisor keeps the registry."""

_UNITS = Path("/etc/systemd/system")
_SECONDS = 60.0


def is_in_charge() -> bool:
    """Whether systemd runs this host (sd_booted(3)) and a unit would live in our network namespace."""
    if os.environ.get(SUPERVISOR) == "own" or not Path("/run/systemd/system").is_dir():
        return False
    try:
        return Path("/proc/self/ns/net").readlink() == Path("/proc/1/ns/net").readlink()
    except OSError:
        return False


@dataclass(frozen=True)
class Unit:
    """The unit `name`, which serves `address`. Every method raises RegistryServiceFailed for what systemctl refuses."""

    name: str
    address: str

    @property
    def path(self) -> Path:
        """Its file."""
        return _UNITS / self.name

    @property
    def log(self) -> str:
        """How a person reads what it said."""
        return f"journalctl -u {self.name}"

    def rules(self) -> bool:
        """Whether it is what keeps the registry here."""
        return is_in_charge() and self.path.exists()

    def start(self, text: str) -> None:
        """Write it as `text`, start it, now and at every boot."""
        write_durably(self.path, text.encode(), 0o644)
        self._systemctl("daemon-reload")
        self._systemctl("enable", "--now", self.name)

    def remove(self) -> None:
        """Stop it for good."""
        self._systemctl("disable", "--now", self.name)
        self.path.unlink(missing_ok=True)
        self._systemctl("daemon-reload")

    def facts(self) -> dict[str, str]:
        """MainPID, NRestarts and ActiveState (org.freedesktop.systemd1(5))."""
        shown = self._systemctl("show", "-p", "MainPID,NRestarts,ActiveState", self.name)
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def _systemctl(self, *arguments: str) -> str:
        words = ["systemctl", *arguments]
        try:
            return subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
        except (subprocess.SubprocessError, OSError) as fault:
            said = fault.stderr.strip() if isinstance(fault, subprocess.CalledProcessError) else str(fault)
            detail = f"{' '.join(words)}: {said}"
            raise RegistryServiceFailed(address=self.address, detail=detail, log=self.log) from fault

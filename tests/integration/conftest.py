"""What all integration tests share: the installer's own supervisor, so that no unit is left on a host with systemd."""

from __future__ import annotations

import os

from mxinstall.registry.service import SUPERVISOR

os.environ[SUPERVISOR] = "own"  # Inherited by every mxinstall that a test starts.

"""The one private folder of a run: helm's kubeconfig, charts and values on their way. Gone at the end.

What a killed run left is removed by the next one. Not here: anything that must outlive the run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PREFIX = "mxinstall-run-"


@dataclass(frozen=True)
class WorkDir:
    """A folder of mode 0700."""

    path: Path

    def private(self, name: str, text: str) -> Path:
        """Write a file of mode 0600, whole or not at all."""
        target, growing = self.path / name, self.path / f".{name}.growing"
        with os.fdopen(os.open(growing, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.write(text)
        growing.replace(target)
        return target

    def folder(self, name: str) -> Path:
        """A folder inside, made when missing."""
        place = self.path / name
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        return place


@contextlib.contextmanager
def work_dir() -> Iterator[WorkDir]:
    """The run's folder, in memory-backed /run where we may, else in the temporary folder."""
    base = Path("/run") if os.access("/run", os.W_OK) else Path(tempfile.gettempdir())
    for left in base.glob(f"{_PREFIX}*"):
        pid = left.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))
    try:
        yield WorkDir(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)

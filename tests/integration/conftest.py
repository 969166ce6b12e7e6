"""What integration tests share: the installer's own supervisor, so that no unit is left behind, and a bad line."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from mxinstall.registry.systemd import SUPERVISOR
from registries import FaultyProxy, running_registry

os.environ[SUPERVISOR] = "own"  # Inherited by every mxinstall that a test starts.


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry of a module's own: `host:port`."""
    with running_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture
def proxy(store: str) -> Iterator[FaultyProxy]:
    """What stands before the store and plays faults."""
    faulty = FaultyProxy(store)
    yield faulty
    faulty.close()

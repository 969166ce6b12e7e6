"""What people are told when a bundle's bytes are not what the format wants: which bundle, and which part of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sitebundle.archive.frames import FrameCut, FrameFault
from sitebundle.errors import BundleDamaged, BundleTruncated


@contextmanager
def damage(path: Path, where: str) -> Iterator[None]:
    """Say of any fault of format which bundle and which part of it has it."""
    try:
        yield
    except FrameCut as fault:
        raise BundleTruncated(path=path, seen=path.stat().st_size, expected="more") from fault
    except FrameFault as fault:
        raise BundleDamaged(path=path, where=where, detail=str(fault)) from fault
    except OSError as fault:
        raise BundleDamaged(path=path, where=where, detail=fault.strerror or str(fault)) from fault
    except (ValueError, RecursionError) as fault:
        raise BundleDamaged(path=path, where=where, detail=str(fault).splitlines()[0][:300]) from fault

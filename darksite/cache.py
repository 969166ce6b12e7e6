"""What a dark site is made of, built once and kept outside the work tree.

A product is a directory that appears by rename when it is complete. It is not a download cache: Go and pip keep those.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

Input: TypeAlias = str | bytes | Path
"""What a product depends on. A `Path` stands for its content: a file, or every file below a directory."""


def root() -> Path:
    """The cache's directory: `$MXDARK_CACHE`, or `mxbundle-darksite` in the user's cache directory."""
    configured = os.environ.get("MXDARK_CACHE")
    if configured:
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mxbundle-darksite"


def fingerprint(*inputs: Input) -> str:
    """Sixteen hex digits of SHA-256 over `inputs`, in order. Raises OSError when a path cannot be read."""
    total = hashlib.sha256()
    for part in inputs:
        for piece in _pieces(part):
            total.update(len(piece).to_bytes(8, "big"))
            total.update(piece)
    return total.hexdigest()[:16]


def built(key: str, build: Callable[[Path], None], inputs: Iterable[Input] = ()) -> Path:
    """The directory of product `key` for these `inputs`; `build` fills it when it is not there yet.

    `build` gets an empty directory. Whatever it raises is passed on and leaves nothing that counts, and so does
    a kill: only the final rename makes the product. A second caller for the same product waits for the first.
    """
    place = root() / f"{key}-{fingerprint(*inputs)}"
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with _alone(place):
        if place.is_dir():
            return place
        for abandoned in place.parent.glob(f".{place.name}.*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        growing = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        try:
            build(growing)
            growing.chmod(0o755)
            growing.rename(place)
        except BaseException:
            shutil.rmtree(growing, ignore_errors=True)
            raise
    return place


def present(key: str, inputs: Iterable[Input] = ()) -> bool:
    """Whether product `key` for these `inputs` is complete in the cache."""
    return (root() / f"{key}-{fingerprint(*inputs)}").is_dir()


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Holds the lock of one product: the kernel frees it however the holder ends."""
    locks = place.parent / "locks"
    locks.mkdir(exist_ok=True)
    with (locks / place.name).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _pieces(part: Input) -> Iterator[bytes]:
    if isinstance(part, str):
        yield part.encode()
    elif isinstance(part, bytes):
        yield part
    elif part.is_dir():
        for path in sorted(part.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(part).as_posix().encode()
                yield path.read_bytes()
    else:
        yield part.read_bytes()

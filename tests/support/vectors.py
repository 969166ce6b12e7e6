"""Writes the golden vectors of the format; run it only when the format changes on purpose.

python tests/support/vectors.py
"""

from __future__ import annotations

from pathlib import Path

from bundles import noise, write_bundle
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sitebundle.archive.signing import sign_bundle

FOLDER = Path(__file__).parents[1] / "unit" / "archive" / "vectors"
VECTOR = FOLDER / "signed.bundle"
LARGE = noise(1000, 1) * 150
"""More than one block, and small in a repository."""
TEXT = b"name: vector\n" * 100


def key_file(folder: Path) -> Path:
    """The key of the vectors: of a seed that everybody knows."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    path = folder / "vector-key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return path


def write_unsigned(path: Path) -> Path:
    """The vector before it was signed: three layers, a small member, a program."""
    layers = {"large": LARGE, "small": noise(33, 2), "none": b""}
    extra = {"stack/stack.yaml": TEXT, "tools/linux-amd64/tool": b"#!/bin/sh\n" * 50}
    return write_bundle(path, layers=layers, extra=extra, generation=3)


def write_signed(path: Path) -> Path:
    """The vector, signed."""
    key = key_file(path.parent)
    sign_bundle(write_unsigned(path), key)
    key.unlink()
    return path


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    write_signed(VECTOR)

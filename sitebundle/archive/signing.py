"""Signing a finished bundle in place: the two signature areas are filled, and not one byte moves.

Rewritten are the area's content, its frame's checksum and its entry in the seek table; nothing else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sitebundle.archive import area, frames, seektable, tarheader
from sitebundle.archive.layout import Placement
from sitebundle.archive.reader import BundleReader
from sitebundle.errors import BundleUnwritable, SignatureAreaFull
from sitebundle.signature import (
    ATTESTATIONS_NAMESPACE,
    MANIFEST_NAMESPACE,
    PublicKey,
    Signature,
    public_key_of,
    sign,
)


@dataclass(frozen=True)
class Signed:
    """`fingerprint` of the key; `changed`: whether the file was written to; `signatures` over the manifest now."""

    fingerprint: str
    changed: bool
    signatures: int


def sign_bundle(path: Path, private_key: Path) -> Signed:
    """Sign manifest and attestations with `private_key`; a second time with the same key changes nothing.

    Raises what opening a bundle and signing raise, SignatureAreaFull, BundleUnwritable.
    """
    key = public_key_of(private_key)
    with BundleReader.open_for_signing(path) as reader:
        tail = reader.tail()
        about = reader.attestation_content()
        ours = _joined(reader.signatures, key, reader.manifest_bytes, MANIFEST_NAMESPACE, private_key)
        before = reader.attestation_signatures()
        theirs = _joined(before, key, about, ATTESTATIONS_NAMESPACE, private_key)
        table = tail.end + frames.stored_bytes(len(tarheader.END_OF_ARCHIVE))
        number = sum(len(placement.frames) for placement in reader.layout.placements) + 1
        areas = (
            (reader.layout.signatures, _area(path, ours), table + seektable.checksum_offset(2)),
            (tail.signatures, _area(path, theirs), table + seektable.checksum_offset(number)),
        )
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            changed = [_rewrite(file, *fields) for fields in areas]
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as fault:
        raise BundleUnwritable(path=path, detail=fault.strerror or str(fault)) from fault
    return Signed(key.fingerprint, any(changed), len(ours))


def _joined(
    signatures: tuple[str, ...], key: PublicKey, message: bytes, namespace: str, private_key: Path
) -> tuple[str, ...]:
    """The signatures with one by `key` that fits; one that is there already stays, byte for byte."""
    kept: list[str] = []
    for armored in signatures:
        signature = Signature.parse(armored)
        if signature.key.blob != key.blob:
            kept.append(armored)
        elif signature.namespace == namespace and signature.fits(message):
            return signatures
    return (*kept, sign(message, private_key, namespace))


def _area(path: Path, signatures: tuple[str, ...]) -> bytes:
    try:
        return area.encode(signatures)
    except area.AreaFull:
        raise SignatureAreaFull(path=path, count=len(signatures) - 1) from None


def _rewrite(file: int, placement: Placement, data: bytes, entry: int) -> bool:
    """Write the area's frame and its checksum's entry, when they differ from what is there."""
    frame = frames.stored(placement.header + data)
    checksum = frame[-frames.CHECKSUM_BYTES :]
    if os.pread(file, len(frame), placement.offset) == frame and os.pread(file, len(checksum), entry) == checksum:
        return False
    os.pwrite(file, frame, placement.offset)
    os.pwrite(file, checksum, entry)
    return True

"""The file `site.tar.zst`: format, reading by member name, writing in place (docs/reference/bundle-format.md).

No network, no trust decision, no knowledge of registries or clusters.
"""

from sitebundle.archive.reader import Attestations, BundleReader
from sitebundle.archive.stream import MemberStream
from sitebundle.archive.writer import (
    ArchiveWriter,
    BlobWriter,
    Checkpoint,
    SmallMembers,
    WrongContent,
    stored_member,
)

__all__ = [
    "ArchiveWriter",
    "Attestations",
    "BlobWriter",
    "BundleReader",
    "Checkpoint",
    "MemberStream",
    "SmallMembers",
    "WrongContent",
    "stored_member",
]

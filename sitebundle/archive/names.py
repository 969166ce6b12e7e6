"""What the members of a bundle are called, and which names are refused."""

from __future__ import annotations

import re
from typing import Final

VERSION: Final = "mxbundle.version"
MANIFEST: Final = "mxbundle.json"
SIGNATURES: Final = "mxbundle.sig"
ATTESTATIONS: Final = "attestations.json"
ATTESTATION_SIGNATURES: Final = "attestations.sig"
INDEX: Final = "index.json"
OCI_LAYOUT: Final = "oci-layout"

OUTSIDE_THE_MANIFEST: Final = frozenset({VERSION, MANIFEST, SIGNATURES, ATTESTATIONS, ATTESTATION_SIGNATURES})
"""Members that frame the signed ones; the manifest lists none of them."""

NAME_LIMIT: Final = 240
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@-]*(?<!\.)")


def is_safe(name: str) -> bool:
    """Whether `name` is relative, has no part that any file system takes for something else, and is short.

    ASCII letters, digits and `._+@-` only: no backslash, no colon, no part that begins or ends with a dot.
    """
    return len(name) <= NAME_LIMIT and all(_PART.fullmatch(part) for part in name.split("/"))


def mode_of(name: str) -> int:
    """The permission bits of a member: programs under `tools/` can be run."""
    return 0o755 if name.startswith("tools/") else 0o644

"""Uploads under way, remembered on this host: what a killed seeding had sent of a large blob is not sent again.

Losing one costs a blob sent anew and nothing else, so nothing here is synced, and what cannot be read is forgotten.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sitebundle.digest import Digest

DIRECTORY = "uploads"


@dataclass(frozen=True)
class Sessions:
    """The upload sessions of one registry (`host:port`), one small file per blob below `state`; None keeps none."""

    state: Path | None
    registry: str

    def find(self, repository: str, digest: Digest) -> str | None:
        """The URL at which the upload of `digest` to `repository` may go on."""
        try:
            known = json.loads(self._file(digest).read_text()) if self.state else {}
        except (OSError, ValueError):
            return None
        return (
            str(known["session"])
            if (known.get("registry"), known.get("repository"))
            == (
                self.registry,
                repository,
            )
            else None
        )

    def note(self, repository: str, digest: Digest, session: str) -> None:
        """From now on it goes on there."""
        if self.state is not None:
            place = self._file(digest)
            place.parent.mkdir(mode=0o700, exist_ok=True)
            growing = place.with_suffix(".part")
            growing.write_text(json.dumps({"registry": self.registry, "repository": repository, "session": session}))
            growing.replace(place)

    def forget(self, digest: Digest) -> None:
        """The blob is there."""
        if self.state is not None:
            self._file(digest).unlink(missing_ok=True)

    def _file(self, digest: Digest) -> Path:
        assert self.state is not None
        return self.state / DIRECTORY / digest.hex

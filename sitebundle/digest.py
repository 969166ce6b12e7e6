"""The identity of content: `sha256:<64 hex>`. Tags are for people; this is what everything is fetched by."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

_FORM = re.compile(r"sha256:[0-9a-f]{64}")


class Digest(str):
    """A SHA-256 digest in its OCI form. Raises ValueError for anything else."""

    __slots__ = ()

    def __new__(cls, value: str) -> Digest:
        if not _FORM.fullmatch(value):
            raise ValueError(f"not a sha256 digest: {value[:100]!r}")
        return super().__new__(cls, value)

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """The digest of `data`."""
        return cls("sha256:" + hashlib.sha256(data).hexdigest())

    @property
    def hex(self) -> str:
        """The 64 hexadecimal digits."""
        return self[7:]

    @property
    def short(self) -> str:
        """Twelve digits, for people."""
        return self[7:19]

    @property
    def blob_path(self) -> str:
        """Where an OCI image layout keeps this blob."""
        return f"blobs/sha256/{self.hex}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema  # Here, so that the transport starts without pydantic.

        return core_schema.no_info_after_validator_function(
            cls, core_schema.str_schema(), serialization=core_schema.to_string_ser_schema()
        )

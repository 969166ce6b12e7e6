"""Whom this host trusts, and which bundles it admits. Closed by default; a key is trusted by fingerprint only.

Not here: SSHSIG and allowed_signers parsing (`sitebundle.signature`), reading the file (`sitebundle.archive`).
"""

from mxinstall.trust.admission import Admission, admit_bundle, check_signature
from mxinstall.trust.records import (
    Admitted,
    Record,
    admit,
    read_record,
    record_admission,
    record_from_json,
    record_to_json,
)
from mxinstall.trust.store import TrustedKey, add_key, list_keys, remove_key, store_path

__all__ = [
    "Admission",
    "Admitted",
    "Record",
    "TrustedKey",
    "add_key",
    "admit",
    "admit_bundle",
    "check_signature",
    "list_keys",
    "read_record",
    "record_admission",
    "record_from_json",
    "record_to_json",
    "remove_key",
    "store_path",
]

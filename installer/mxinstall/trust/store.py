"""The trust store: an OpenSSH allowed_signers file on the operator's host.

A key gets in by `add_key` alone, with the fingerprint that a person was given on a separate way. A key found in
a bundle or on a medium is never offered.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from sitebundle.atomic import write_durably
from sitebundle.errors import FingerprintDiffers, KeyUnreadable, TrustStoreInvalid
from sitebundle.signature import AllowedSigner, AllowedSigners, PublicKey

NAMESPACES = ("manifest", "attestations", "volumes", "inventory", "keys", "installer")
STORE_MODE = 0o644


@dataclass(frozen=True)
class TrustedKey:
    """One line of the store, as a person wants to see it. `window` is when the key counts, in words."""

    fingerprint: str
    principals: tuple[str, ...]
    key_type: str
    namespaces: tuple[str, ...]
    window: str

    @classmethod
    def of(cls, signer: AllowedSigner) -> TrustedKey:
        """The key of a line."""
        return cls(signer.key.fingerprint, signer.principals, signer.key.type, signer.namespaces, signer.window)


def store_path(given: Path | None = None) -> Path:
    """The store: `given`, else `$MXINSTALL_ALLOWED_SIGNERS`, else /etc/mxinstall/allowed_signers."""
    return given or Path(os.environ.get("MXINSTALL_ALLOWED_SIGNERS") or "/etc/mxinstall/allowed_signers")


def list_keys(store: Path) -> list[TrustedKey]:
    """The keys of `store`, in its order; none when there is no store. Raises TrustStoreInvalid."""
    return [TrustedKey.of(signer) for signer in AllowedSigners.read(store).signers]


def add_key(store: Path, public_key: Path, expected_fingerprint: str) -> TrustedKey:
    """Trust the key in `public_key` when its fingerprint is `expected_fingerprint`; adding twice changes nothing.

    Raises FingerprintDiffers, KeyUnreadable and TrustStoreInvalid; the store is never half written.
    """
    line = _public_key_line(public_key)
    try:
        key = PublicKey.parse(line)
    except ValueError as fault:
        raise KeyUnreadable(path=public_key, detail=str(fault)) from fault
    if key.fingerprint != expected_fingerprint.strip():
        raise FingerprintDiffers(path=public_key, seen=key.fingerprint, expected=expected_fingerprint.strip())
    known = AllowedSigners.read(store).of(key)
    if known:
        return TrustedKey.of(known[0])
    comment = line.partition(key.line)[2].strip()
    namespaces = ",".join(f"{name}@mxbundle.io" for name in NAMESPACES)
    added = f'{_principal(comment)} namespaces="{namespaces}" {key.line}'
    _write(store, [*_lines(store), added])
    return TrustedKey.of(AllowedSigners.parse(added)[0])


def remove_key(store: Path, unwanted: str) -> TrustedKey | None:
    """Stop trusting the key with fingerprint `unwanted`; None when it was not trusted. Raises TrustStoreInvalid."""
    gone = next((key for key in list_keys(store) if key.fingerprint == unwanted.strip()), None)
    if gone is not None:
        kept = [
            line
            for line in _lines(store)
            if not any(signer.key.fingerprint == gone.fingerprint for signer in AllowedSigners.parse(line))
        ]
        _write(store, kept)
    return gone


def _public_key_line(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise KeyUnreadable(path=path, detail=str(fault)) from fault
    if "PRIVATE KEY" in text:
        raise KeyUnreadable(path=path, detail="this is a private key; only the .pub file belongs on this host")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if len(lines) != 1:
        raise KeyUnreadable(path=path, detail=f"it holds {len(lines)} lines that could be a key, not one")
    return lines[0]


def _principal(comment: str) -> str:
    """Principals are matched as patterns by ssh-keygen; keep what is a plain name in the key's comment."""
    return re.sub(r"[^A-Za-z0-9@._-]", "_", comment) or "builder"


def _lines(store: Path) -> list[str]:
    try:
        return store.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as fault:
        raise TrustStoreInvalid(path=store, line=0, detail=str(fault)) from fault


def _write(store: Path, lines: list[str]) -> None:
    store.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    write_durably(store, "".join(f"{line}\n" for line in lines).encode(), STORE_MODE)

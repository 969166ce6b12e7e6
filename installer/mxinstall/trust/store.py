"""The trust store: an OpenSSH allowed_signers file on the operator's host.

A key gets in by `add_key` alone, with the fingerprint that a person was given on a separate way. A key found in
a bundle or on a medium is never offered.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sitebundle.errors import FingerprintDiffers, KeyUnreadable
from sitebundle.signature import fingerprint

NAMESPACES = ("manifest", "attestations", "volumes", "inventory", "keys", "installer")
_KEY = re.compile(
    r"\b(?P<type>(?:ssh|ecdsa|sk)-[A-Za-z0-9@.-]+)\s+(?P<blob>[A-Za-z0-9+/]+={0,2})(?:\s+(?P<comment>.*))?$"
)


@dataclass(frozen=True)
class TrustedKey:
    """One line of the store. `fingerprint` is `SHA256:…`; `options` is what precedes the key."""

    fingerprint: str
    principal: str
    options: str
    key_type: str
    comment: str
    line: str


def store_path(given: Path | None = None) -> Path:
    """The store: `given`, else `$MXINSTALL_ALLOWED_SIGNERS`, else /etc/mxinstall/allowed_signers."""
    return given or Path(os.environ.get("MXINSTALL_ALLOWED_SIGNERS") or "/etc/mxinstall/allowed_signers")


def list_keys(store: Path) -> list[TrustedKey]:
    """The keys of `store`, in its order; none when there is no store. Raises KeyUnreadable."""
    return [parsed for line in _lines(store) if (parsed := _parse(line, store)) is not None]


def add_key(store: Path, public_key: Path, expected_fingerprint: str) -> TrustedKey:
    """Trust the key in `public_key` when its fingerprint is `expected_fingerprint`; adding twice changes nothing.

    Raises FingerprintDiffers and KeyUnreadable; the store appears by rename and is never half written.
    """
    key_line = _public_key_line(public_key)
    match = _KEY.search(key_line)
    if match is None:
        raise KeyUnreadable(path=public_key, detail="no key in it")
    seen = _fingerprint(f"{match['type']} {match['blob']}", public_key)
    if seen != expected_fingerprint.strip():
        raise FingerprintDiffers(path=public_key, seen=seen, expected=expected_fingerprint)
    known = next((key for key in list_keys(store) if key.fingerprint == seen), None)
    if known is not None:
        return known
    comment = (match["comment"] or "").strip()
    namespaces = ",".join(f"{name}@mxbundle.io" for name in NAMESPACES)
    line = f'{_principal(comment)} namespaces="{namespaces}" {match["type"]} {match["blob"]} {comment}'.rstrip()
    _write(store, [*_lines(store), line])
    parsed = _parse(line, store)
    assert parsed is not None
    return parsed


def remove_key(store: Path, unwanted: str) -> TrustedKey | None:
    """Stop trusting the key with fingerprint `unwanted`; None when it was not trusted."""
    gone = next((key for key in list_keys(store) if key.fingerprint == unwanted.strip()), None)
    if gone is not None:
        _write(store, [line for line in _lines(store) if line != gone.line])
    return gone


def _public_key_line(path: Path) -> str:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as fault:
        raise KeyUnreadable(path=path, detail=str(fault)) from fault
    keys = [line for line in lines if line and not line.startswith("#")]
    if len(keys) != 1:
        raise KeyUnreadable(path=path, detail=f"it holds {len(keys)} lines that could be a key, not one")
    if "PRIVATE KEY" in keys[0]:
        raise KeyUnreadable(path=path, detail="this is a private key; only the .pub file belongs on this host")
    return keys[0]


def _principal(comment: str) -> str:
    """Principals are matched as patterns by ssh-keygen; keep what is a plain name in the key's comment."""
    return re.sub(r"[^A-Za-z0-9@._-]", "_", comment) or "builder"


def _parse(line: str, store: Path) -> TrustedKey | None:
    text = line.strip()
    if not text or text.startswith("#"):
        return None
    match = _KEY.search(text)
    if match is None:
        raise KeyUnreadable(path=store, detail=f"no key in the line {text[:60]!r}")
    principal, _, options = text[: match.start()].strip().partition(" ")
    return TrustedKey(
        fingerprint=_fingerprint(f"{match['type']} {match['blob']}", store),
        principal=principal,
        options=options.strip(),
        key_type=match["type"],
        comment=(match["comment"] or "").strip(),
        line=line,
    )


def _fingerprint(key: str, path: Path) -> str:
    try:
        return fingerprint(key)
    except ValueError as fault:
        raise KeyUnreadable(path=path, detail=str(fault)) from fault


def _lines(store: Path) -> list[str]:
    try:
        return store.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as fault:
        raise KeyUnreadable(path=store, detail=str(fault)) from fault


def _write(store: Path, lines: list[str]) -> None:
    store.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    descriptor, name = tempfile.mkstemp(dir=store.parent, prefix=f".{store.name}.")
    growing = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write("".join(f"{line}\n" for line in lines))
            stream.flush()
            os.fsync(stream.fileno())
        growing.chmod(0o644)
        growing.replace(store)
    except BaseException:
        growing.unlink(missing_ok=True)
        raise

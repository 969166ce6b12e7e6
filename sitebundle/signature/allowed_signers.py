"""A trust store in OpenSSH's `allowed_signers` form, and the judgement by it, as `ssh-keygen -Y verify` judges.

Source: ssh-keygen(1), ALLOWED SIGNERS. No certificates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from sitebundle.errors import BadSignature, KeyExpired, TrustStoreInvalid, UnknownKey, Unsigned
from sitebundle.signature.keys import KEY_TYPES, PublicKey, load
from sitebundle.signature.sshsig import Signature

STORE_LIMIT_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class AllowedSigner:
    """One line of a trust store. The window is closed at its begin and open at its end, as in ssh-keygen."""

    principals: tuple[str, ...]
    key: PublicKey
    namespaces: tuple[str, ...] = ()
    valid_after: datetime | None = None
    valid_before: datetime | None = None

    def covers(self, namespace: str) -> bool:
        """Whether the key may sign in `namespace`; a line without `namespaces=` covers all."""
        return not self.namespaces or _matches(namespace, self.namespaces)

    def is_valid(self, at: datetime) -> bool:
        """Whether `at` is inside the window."""
        return (self.valid_after is None or at >= self.valid_after) and (
            self.valid_before is None or at < self.valid_before
        )

    @property
    def window(self) -> str:
        """The window in words."""
        parts = [
            f"{word} {when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
            for word, when in (("from", self.valid_after), ("until", self.valid_before))
            if when is not None
        ]
        return " ".join(parts) or "always"


@dataclass(frozen=True)
class AllowedSigners:
    """A trust store as it was read."""

    path: Path
    signers: tuple[AllowedSigner, ...]

    @classmethod
    def read(cls, path: Path) -> AllowedSigners:
        """Read a trust store; one that does not exist is empty. Raises TrustStoreInvalid with the line."""
        try:
            with path.open("rb") as file:
                content = file.read(STORE_LIMIT_BYTES + 1)
            if len(content) > STORE_LIMIT_BYTES:
                raise TrustStoreInvalid(path=path, line=0, detail=f"more than {STORE_LIMIT_BYTES} bytes")
            return cls(path, cls.parse(content.decode()))
        except FileNotFoundError:
            return cls(path, ())
        except _LineFault as fault:
            raise TrustStoreInvalid(path=path, line=fault.number, detail=str(fault)) from fault
        except (OSError, UnicodeDecodeError) as fault:
            raise TrustStoreInvalid(path=path, line=0, detail=str(fault)) from fault

    @classmethod
    def parse(cls, text: str) -> tuple[AllowedSigner, ...]:
        """The lines of a trust store. Raises ValueError for the first that is none."""
        signers = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                signers.append(_parse_line(line.strip()))
            except ValueError as fault:
                raise _LineFault(number, str(fault)) from fault
        return tuple(signers)

    def of(self, key: PublicKey) -> tuple[AllowedSigner, ...]:
        """The lines with `key`."""
        return tuple(signer for signer in self.signers if signer.key.blob == key.blob)


@dataclass(frozen=True)
class Signer:
    """Who vouches for a message: a trusted key whose signature fits."""

    principal: str
    key: PublicKey

    @property
    def fingerprint(self) -> str:
        """`SHA256:…` of the key."""
        return self.key.fingerprint


def verify(
    message: bytes,
    signatures: Iterable[str],
    allowed: AllowedSigners,
    namespace: str,
    at: datetime,
    *,
    path: object = "the bundle",
) -> Signer:
    """The first trusted key, valid `at`, whose signature over `message` in `namespace` fits.

    Otherwise raises, the gravest first: BadSignature (a trusted key, other content), KeyExpired, UnknownKey,
    Unsigned. `path` is what the errors call the message.
    """
    bad: PublicKey | None = None
    expired: AllowedSigner | None = None
    unknown: list[str] = []
    for armored in signatures:
        try:
            signature = Signature.parse(armored)
        except ValueError:
            unknown.append("an unreadable signature")
            continue
        lines = [line for line in allowed.of(signature.key) if line.covers(namespace)]
        if not lines or signature.namespace != namespace:
            unknown.append(signature.key.fingerprint)
            continue
        if not signature.fits(message):
            bad = bad or signature.key
            continue
        for line in lines:
            if line.is_valid(at):
                return Signer(line.principals[0], line.key)
        expired = expired or lines[0]
    if bad is not None:
        raise BadSignature(path=path, fingerprint=bad.fingerprint)
    if expired is not None:
        raise KeyExpired(
            fingerprint=expired.key.fingerprint, window=expired.window, now=f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        )
    if unknown:
        raise UnknownKey(path=path, fingerprints=", ".join(dict.fromkeys(unknown)), namespace=namespace)
    raise Unsigned(path=path)


def allowed_line(key: PublicKey, principal: str) -> str:
    """The line that lets `key` vouch for bundles in a trust store."""
    return f'{principal} namespaces="*@mxbundle.io" {key.line}'


class _LineFault(ValueError):
    def __init__(self, number: int, detail: str) -> None:
        super().__init__(detail)
        self.number = number


_WORD = re.compile(r'(?:"[^"]*"|[^\s"])+')
_OPTION = re.compile(r'([a-z-]+)(?:="([^"]*)")?(?:,|$)', re.IGNORECASE)


def _parse_line(line: str) -> AllowedSigner:
    words = [match.group() for match in _WORD.finditer(line)]
    if len(words) < 3:
        raise ValueError("a line is: principals [options] key-type key")
    principals = tuple(part for part in words[0].strip('"').split(",") if part)
    if not principals:
        raise ValueError("no principal")
    options: dict[str, str | None] = {}
    rest = words[1:]
    if rest[0] not in KEY_TYPES:
        options, rest = _parse_options(rest[0]), rest[1:]
    if len(rest) < 2 or rest[0] not in KEY_TYPES:
        raise ValueError(f"key type {rest[0][:40] if rest else ''!r} is not used here")
    if "cert-authority" in options:
        raise ValueError("cert-authority: certificates are not used here")
    key = PublicKey.of_blob(rest[0], rest[1])
    load(key)
    return AllowedSigner(
        principals,
        key,
        tuple(part for part in (options.get("namespaces") or "").split(",") if part),
        _moment(options.get("valid-after")),
        _moment(options.get("valid-before")),
    )


def _parse_options(text: str) -> dict[str, str | None]:
    options: dict[str, str | None] = {}
    at = 0
    while at < len(text):
        match = _OPTION.match(text, at)
        if match is None:
            raise ValueError(f"option {text[at : at + 40]!r}")
        name = match[1].lower()
        valued = name in ("namespaces", "valid-after", "valid-before")
        if not (valued or name == "cert-authority") or valued != (match[2] is not None) or name in options:
            raise ValueError(f"option {match[0].rstrip(',')[:40]!r}")
        options[name] = match[2]
        at = match.end()
    return options


def _moment(text: str | None) -> datetime | None:
    """YYYYMMDD[HHMM[SS]], the host's time zone unless it ends in Z."""
    if text is None:
        return None
    digits = text.removesuffix("Z")
    form = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}.get(len(digits))
    if form is None or not digits.isascii() or not digits.isdigit():
        raise ValueError(f"time {text[:40]!r} is not YYYYMMDD[HHMM[SS]][Z]")
    moment = datetime.strptime(digits, form)  # noqa: DTZ007 - the zone is set below
    return moment.replace(tzinfo=UTC) if text.endswith("Z") else moment.astimezone()


def _matches(text: str, patterns: Sequence[str]) -> bool:
    """OpenSSH's pattern list: `*` and `?`, and a `!` that overrules."""
    matched = False
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        # fnmatch knows [sets], OpenSSH does not.
        if fnmatchcase(text, bare.replace("[", "[[]")):
            if pattern.startswith("!"):
                return False
            matched = True
    return matched

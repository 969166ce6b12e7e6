"""The journal of one generation: a Secret in `mx-system` that says what began and what ended. Never a secret value.

A write that fails stops the run. Not here: deciding what is left to do (that is the plan, from inventory and drift).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mxinstall.cluster import Cluster
from mxinstall.deploy.names import NAMESPACE, document_of, document_secret
from sitebundle.errors import ClusterRefused, ClusterUnreachable, JournalUnwritable

State = Literal["running", "committed"]
_KEY = "journal.json"


@dataclass
class Entry:
    """One stage or step. `began` and `ended` are seconds since the epoch; `ended` None: it did not come to an end."""

    name: str
    began: float
    ended: float | None = None
    outcome: str = ""


@dataclass
class Account:
    """What is known of one generation. `runs` counts the installers that worked on it.

    `images` is what the audit compares with, `site` and `stack` are the files as they were used: whoever looks later
    needs no bundle. None of them holds a secret value. `skipped_checks` is what preflight left out, and why.
    """

    generation: int
    manifest_digest: str
    bundle: str
    profile: str
    state: State = "running"
    runs: int = 0
    epoch: int = 0
    committed_at: float | None = None
    namespaces: list[str] = field(default_factory=list)
    images: dict[str, list[str]] = field(default_factory=dict)
    site: dict[str, Any] = field(default_factory=dict)
    stack: dict[str, Any] = field(default_factory=dict)
    skipped_checks: dict[str, str] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The account as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Account:
        """Read what `as_json` gave. Raises KeyError, TypeError."""
        return cls(**{**document, "entries": [Entry(**entry) for entry in document["entries"]]})


class Journal:
    """The open journal of the generation that is being installed. Thread-safe."""

    def __init__(self, cluster: Cluster, account: Account) -> None:
        self._cluster, self.account, self._lock = cluster, account, threading.Lock()

    @classmethod
    def open(cls, cluster: Cluster, account: Account, epoch: int) -> Journal:
        """Go on with the generation's journal, or begin it. Raises JournalUnwritable."""
        known = read_account(cluster, account.generation)
        if known is not None and known.manifest_digest == account.manifest_digest:
            account.runs = known.runs
        account.state, account.epoch, account.runs = "running", epoch, account.runs + 1
        journal = cls(cluster, account)
        journal._write()
        return journal

    @classmethod
    def amend(cls, cluster: Cluster, account: Account, epoch: int) -> Journal:
        """Write into the journal of a generation that is there already, which keeps its state."""
        account.epoch = epoch
        return cls(cluster, account)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Entry]:
        """Write that `name` begins, and, when the block ends well, that it ended. Raises JournalUnwritable."""
        entry = Entry(name, time.time())
        with self._lock:
            self.account.entries.append(entry)
            self._write()
        yield entry
        with self._lock:
            entry.ended = time.time()
            self._write()

    def commit(self) -> None:
        """The generation is what runs. Raises JournalUnwritable."""
        with self._lock:
            self.account.state, self.account.committed_at = "committed", time.time()
            self._write()

    def _write(self) -> None:
        account = self.account
        try:
            self._cluster.apply(document_secret(name_of(account.generation), "journal", _KEY, account.as_json()))
        except (ClusterRefused, ClusterUnreachable) as fault:
            raise JournalUnwritable(detail=fault.message) from fault


def name_of(generation: int) -> str:
    """The Secret of a generation's journal."""
    return f"generation-{generation}"


def read_account(cluster: Cluster, generation: int) -> Account | None:
    """The account of `generation`; None when it was never begun. Raises JournalUnwritable for an unreadable one."""
    return _account(cluster.get("v1", "Secret", name_of(generation), NAMESPACE))


def read_accounts(cluster: Cluster) -> list[Account]:
    """All generations of the site, oldest first."""
    found = [_account(secret) for secret in cluster.list("v1", "Secret", NAMESPACE, labels="mxbundle.io/part=journal")]
    return sorted((account for account in found if account), key=lambda account: account.generation)


def _account(secret: dict[str, Any] | None) -> Account | None:
    if secret is None:
        return None
    try:
        return Account.from_json(document_of(secret, _KEY))
    except (KeyError, TypeError, ValueError) as fault:
        raise JournalUnwritable(detail=f"{secret['metadata']['name']} is not a journal: {fault}") from fault

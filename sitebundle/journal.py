"""What is known about a file that is still growing: JSON lines beside it, appended as things become true.

A line that a crash cut off is dropped. Nothing in a journal is believed without looking at the file itself.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from sitebundle.errors import AnotherBuilder, BundleUnwritable


class Journal:
    """An open journal, locked for this process; threads may append.

    `records` are those of earlier runs with the same purpose, in order; none after a change of purpose.
    """

    def __init__(self, path: Path, file: int, records: tuple[dict[str, Any], ...]) -> None:
        self.path = path
        self.records = records
        self._file = file
        self._is_empty = not records

    @classmethod
    def open(cls, path: Path, purpose: str) -> Journal:
        """Open or begin the journal for `purpose` (a digest of what is being made).

        Records of another purpose are thrown away. Raises AnotherBuilder when a living process has it.
        """
        try:
            file = _locked(path)
        except OSError as fault:
            raise BundleUnwritable(path=path, detail=fault.strerror or str(fault)) from fault
        try:
            records = _records(file)
            if not records or records[0].get("purpose") != purpose:
                os.ftruncate(file, 0)
                records = ()
            else:
                os.ftruncate(file, _whole_lines(file))
            journal = cls(path, file, records[1:])
            if not records:
                journal.append({"purpose": purpose})
                journal._is_empty = True
        except BaseException:
            os.close(file)
            raise
        return journal

    def append(self, record: dict[str, Any]) -> None:
        """Add one line, in one write. Raises OSError."""
        self._is_empty = False
        os.write(self._file, (json.dumps(record, sort_keys=True, separators=(",", ":")) + "\n").encode())

    def remove(self) -> None:
        """End the journal: what it was about is finished."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of the file and its lock."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._is_empty:
            self.remove()  # Nothing was done: there is nothing to go on with.
        self.close()


def _locked(path: Path) -> int:
    for _ in range(10):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise AnotherBuilder(path=path.with_suffix(""), holder=f"it holds {path.name}") from None
        # Its last holder may have finished and removed the file between our open and our lock.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file)):
            return file
        os.close(file)
    raise AnotherBuilder(path=path.with_suffix(""), holder=f"{path.name} keeps changing")


def _content(file: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size, 0)


def _whole_lines(file: int) -> int:
    return _content(file).rfind(b"\n") + 1


def _records(file: int) -> tuple[dict[str, Any], ...]:
    records = []
    for line in _content(file).split(b"\n")[:-1]:
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not isinstance(record, dict):
            break
        records.append(record)
    return tuple(records)

"""A file that is written durably is there whole or not at all."""

import os
from pathlib import Path

import pytest

from sitebundle.atomic import create_durably, durable_file, write_durably


def test_the_whole_file_appears_with_its_mode(tmp_path: Path) -> None:
    write_durably(tmp_path / "a", b"content", mode=0o600)
    assert (tmp_path / "a").read_bytes() == b"content"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def interrupted() -> None:
        with durable_file(tmp_path / "a") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_new_file_never_replaces_another(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"given")
    with pytest.raises(FileExistsError):
        create_durably(tmp_path / "a", b"derived")
    assert (tmp_path / "a").read_bytes() == b"given"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_new_file_has_no_name_before_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named_while_syncing: list[bool] = []
    sync = os.fsync

    def watched(handle: int) -> None:
        named_while_syncing.append((tmp_path / "a").exists())
        sync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    create_durably(tmp_path / "a", b"content", mode=0o600)
    assert named_while_syncing[0] is False
    assert (tmp_path / "a").read_bytes() == b"content"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["a"]

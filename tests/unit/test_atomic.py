"""A file that is written durably is there whole or not at all."""

from pathlib import Path

import pytest

from sitebundle.atomic import durable_file, write_durably


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

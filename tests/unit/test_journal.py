"""A journal survives being cut, is for one purpose, and has one writer."""

from pathlib import Path

import pytest

from sitebundle.errors import AnotherBuilder
from sitebundle.journal import Journal


def test_what_was_appended_is_there_for_the_next_run(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "x.journal", "one") as journal:
        assert journal.records == ()
        journal.append({"a": 1})
        journal.append({"b": 2})
    with Journal.open(tmp_path / "x.journal", "one") as journal:
        assert journal.records == ({"a": 1}, {"b": 2})


def test_a_line_that_a_crash_cut_off_is_dropped_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    with Journal.open(path, "one") as journal:
        journal.append({"a": 1})
    with path.open("ab") as file:
        file.write(b'{"b":')
    with Journal.open(path, "one") as journal:
        assert journal.records == ({"a": 1},)
        journal.append({"c": 3})
    with Journal.open(path, "one") as journal:
        assert journal.records == ({"a": 1}, {"c": 3})


@pytest.mark.parametrize("content", [b"", b"rubbish\n", b"[1]\n", b'{"purpose":"other"}\n{"a":1}\n', b"\xff\xfe\n"])
def test_another_purpose_or_rubbish_begins_anew(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    path.write_bytes(content)
    with Journal.open(path, "one") as journal:
        assert journal.records == ()
    assert path.read_bytes() == b'{"purpose":"one"}\n'


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "x.journal", "one"), pytest.raises(AnotherBuilder):
        Journal.open(tmp_path / "x.journal", "one")
    Journal.open(tmp_path / "x.journal", "one").close()


def test_a_failure_before_anything_was_done_leaves_no_journal_and_a_later_one_does(tmp_path: Path) -> None:
    def fail(*records: dict[str, int]) -> None:
        with Journal.open(tmp_path / "x.journal", "one") as journal:
            for record in records:
                journal.append(record)
            raise KeyboardInterrupt

    for records, left in (((), []), (({"a": 1},), ["x.journal"]), ((), ["x.journal"])):
        with pytest.raises(KeyboardInterrupt):
            fail(*records)
        assert [path.name for path in tmp_path.iterdir()] == left


def test_a_finished_journal_is_gone_and_its_lock_with_it(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "x.journal", "one")
    journal.remove()
    assert list(tmp_path.iterdir()) == []
    Journal.open(tmp_path / "x.journal", "one").remove()

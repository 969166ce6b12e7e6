"""Which bundles a site admits, by the generations that host and cluster remember."""

from __future__ import annotations

from pathlib import Path

import pytest
from mxinstall.trust.records import (
    Admitted,
    Record,
    admit,
    read_record,
    record_admission,
    record_from_json,
    record_to_json,
)

from sitebundle.digest import Digest
from sitebundle.errors import GenerationReused, JournalUnwritable, OlderGeneration

ONE, TWO, OTHER = Digest.of(b"one"), Digest.of(b"two"), Digest.of(b"other")
FILE = Path("site.tar.zst")


def record(*entries: tuple[int, Digest]) -> Record:
    return Record(tuple(Admitted(generation, digest, 1.0, "SHA256:x") for generation, digest in entries))


def test_the_first_bundle_of_a_site_is_admitted_without_a_word() -> None:
    assert admit(ONE, 1, Record(), None, FILE) == ()


def test_a_higher_generation_is_admitted() -> None:
    assert admit(TWO, 2, record((1, ONE)), record((1, ONE)), FILE) == ()


def test_the_same_manifest_is_admitted_again() -> None:
    assert admit(ONE, 1, record((1, ONE)), record((1, ONE)), FILE) == ()


@pytest.mark.parametrize(
    ("host", "cluster"),
    [
        (record((1, ONE), (2, TWO)), record((1, ONE), (2, TWO))),
        (record((1, ONE), (2, TWO)), record((1, ONE))),
        (record((1, ONE)), record((2, TWO))),
        (Record(), record((2, TWO))),
        (record((2, TWO)), None),
    ],
)
def test_an_older_generation_is_refused_whoever_remembers_the_newer(host: Record, cluster: Record | None) -> None:
    with pytest.raises(OlderGeneration) as caught:
        admit(ONE, 1, host, cluster, FILE)
    assert caught.value.fields["admitted"] == 2


def test_other_content_in_the_same_generation_is_refused() -> None:
    with pytest.raises(GenerationReused):
        admit(OTHER, 1, Record(), record((1, ONE)), FILE)


@pytest.mark.parametrize(
    ("host", "cluster", "said"),
    [
        (record((2, TWO)), None, "the cluster none"),
        (Record(), record((1, ONE)), "this host none"),
        (record((1, ONE)), record((2, TWO)), "the higher one counts"),
    ],
)
def test_a_disagreement_is_said(host: Record, cluster: Record | None, said: str) -> None:
    (note,) = admit(TWO, 2, host, cluster, FILE)
    assert said in note


def test_the_host_remembers_what_the_cluster_knew(tmp_path: Path) -> None:
    record_admission(tmp_path, Admitted(2, TWO, 5.0, "SHA256:y"), record((1, ONE)))
    again = read_record(tmp_path)
    assert [entry.digest for entry in again.admitted] == [ONE, TWO]
    assert again.highest == 2
    assert record_from_json(record_to_json(again)) == again


def test_recording_twice_keeps_the_first_time(tmp_path: Path) -> None:
    record_admission(tmp_path, Admitted(1, ONE, 5.0, "SHA256:y"))
    assert record_admission(tmp_path, Admitted(1, ONE, 9.0, "SHA256:z")).admitted[0].at == 5.0


@pytest.mark.parametrize("text", ["", "{}", '{"admitted": [{"generation": 1}]}', "[1]", '{"admitted": 3}'])
def test_a_record_that_cannot_be_read_does_not_count_as_empty(tmp_path: Path, text: str) -> None:
    (tmp_path / "admitted.json").write_text(text)
    with pytest.raises(JournalUnwritable):
        read_record(tmp_path)

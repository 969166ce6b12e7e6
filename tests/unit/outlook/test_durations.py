"""Seconds come from what the site measured; what it has not measured is not made up."""

from __future__ import annotations

from pathlib import Path

from mxinstall.deploy.journal import Account, Entry
from mxinstall.outlook.durations import Rates, expected, keep_rates, read_rates

ACCOUNT = Account(
    generation=7,
    manifest_digest="sha256:0",
    bundle="b",
    profile="demo",
    entries=[
        Entry("release/synapse", 100.0, 160.0, "new"),
        Entry("release/synapse", 200.0, None),
        Entry("proof", 300.0, 330.0),
    ],
)


def test_each_stage_takes_what_it_took_here_the_last_time_it_ended() -> None:
    found = {entry.stage: entry for entry in expected(50_000_000, ["synapse", "postgres"], [ACCOUNT], Rates(10e6))}
    assert found["seed"].seconds == 5.0
    assert found["deploy synapse"].seconds == 60.0
    assert "generation 7" in found["deploy synapse"].basis
    assert found["proof"].seconds == 30.0
    assert found["deploy postgres"].seconds is None
    assert found["audit"].seconds is None


def test_nothing_to_move_takes_no_time_and_an_unknown_rate_is_no_number() -> None:
    assert expected(0, [], [], Rates())[0].seconds == 0.0
    assert expected(1, [], [], Rates())[0].seconds is None


def test_the_largest_push_of_a_run_is_kept(tmp_path: Path) -> None:
    stages = [
        {"name": "verify", "seconds": 1.0, "bytes": 500_000_000},
        {"name": "probe-image", "seconds": 2.0, "bytes": 40_000_000},
        {"name": "seed", "seconds": 10.0, "bytes": 300_000_000},
    ]
    keep_rates(tmp_path, stages)
    assert read_rates(tmp_path).push == 30_000_000.0
    # A run that pushed next to nothing says nothing about the rate.
    keep_rates(tmp_path, [{"name": "seed", "seconds": 3.0, "bytes": 1000}])
    assert read_rates(tmp_path).push == 30_000_000.0


def test_a_file_that_is_no_measurement_counts_as_none(tmp_path: Path) -> None:
    for text in ("", "{}", "[]", '{"push_bytes_per_second": "fast"}', '{"push_bytes_per_second": -1}'):
        (tmp_path / "rates.json").write_text(text)
        assert read_rates(tmp_path).push is None

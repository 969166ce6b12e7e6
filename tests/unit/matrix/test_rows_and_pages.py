"""A row speaks only for the code that it was seen with, and the pages say so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.matrix import edges, failures, live, operators, page, rows
from tests.matrix.registry import CASES, Case, shard

DECLARED = (edges, failures, operators, live)


def looked_at(covers: tuple[str, ...] = ("README.md",)) -> Case:
    return Case("failures", "one", "One thing", covers, lambda trial: {})


def test_every_case_covers_something_that_exists() -> None:
    assert len(CASES) >= 17
    assert all(rows.code_of(case.covers) for case in CASES.values())


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("live/")])
def test_a_module_that_runs_on_the_site_covers_the_files_beside_it_and_the_installer_that_it_runs(name: str) -> None:
    covers = CASES[name].covers
    module = rows.ROOT / covers[0]
    text = module.read_text()
    beside = re.findall(r'Path\(__file__\)(?:\.with_name\(|\.parent / )"([^"]+)"', text)
    needed = [str((module.parent / other).relative_to(rows.ROOT)) for other in beside]
    if '"mxinstall"' in text:
        needed += ["installer/mxinstall/deploy", "installer/mxinstall/plan.py", "sitebundle/rendering.py"]
    for path in needed:
        assert any(path == cover or path.startswith(f"{cover}/") for cover in covers), path


def test_a_case_that_covers_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="names no file"):
        rows.code_of(("manifests/charts/no-such-chart",))


def test_a_row_grows_old_when_what_it_covers_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chart = tmp_path / "chart"
    chart.mkdir()
    (chart / "values.yaml").write_text("a: 1\n")
    monkeypatch.setattr(rows, "ROOT", tmp_path)
    rows._git("init", "--quiet")
    case = looked_at(("chart",))
    row = {"case": "one", "code": rows.code_of(case.covers)}
    assert rows.is_fresh(case, row)
    (tmp_path / "other").write_text("what the case does not cover\n")
    assert rows.is_fresh(case, row)
    (chart / "values.yaml").write_text("a: 2\n")
    assert not rows.is_fresh(case, row)
    assert not rows.is_fresh(case, None)


def test_a_line_that_was_cut_off_is_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "FOLDER", tmp_path)
    rows.append("failures", {"case": "one", "verdict": "fail"})
    rows.append("failures", {"case": "one", "verdict": "pass"})
    with (tmp_path / "failures.jsonl").open("a") as file:
        file.write('{"case": "one", "verd')
    assert rows.newest("failures")["one"]["verdict"] == "pass"


def test_rows_of_two_runs_are_joined_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "FOLDER", tmp_path / "here")
    for place, lines in {
        "here": [("one", "fail", "2026-11-26T10:00:00+00:00"), ("two", "pass", "2026-11-26T09:00:00+00:00")],
        "there": [("one", "pass", "2026-11-26T11:00:00+00:00"), ("two", "fail", "2026-11-26")],
    }.items():
        (tmp_path / place).mkdir()
        for case, verdict, date in lines:
            with (tmp_path / place / "live.jsonl").open("a") as file:
                file.write(json.dumps({"case": case, "verdict": verdict, "date": date}) + "\n")
    assert rows.take_over("live", tmp_path / "there") == 2
    assert rows.take_over("live", tmp_path / "there") == 0
    assert {case: row["verdict"] for case, row in rows.newest("live").items()} == {"one": "pass", "two": "pass"}


def test_a_row_after_a_line_that_was_cut_off_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "FOLDER", tmp_path)
    (tmp_path / "live.jsonl").write_text('{"case": "one", "verd')
    rows.append("live", {"case": "one", "verdict": "pass"})
    assert rows.newest("live")["one"]["verdict"] == "pass"


def test_the_shards_of_a_matrix_are_all_of_it_once_and_take_about_as_long() -> None:
    seconds = {str(number): float(10 + 90 * (number % 4)) for number in range(17)}
    parts = [shard(seconds, number, 3) for number in (1, 2, 3)]
    assert sorted(name for part in parts for name in part) == sorted(seconds)
    took = [sum(seconds[name] for name in part) for part in parts]
    assert max(took) - min(took) <= max(seconds.values())
    with pytest.raises(ValueError, match="no shard 4 of 3"):
        shard(seconds, 4, 3)


def test_a_stale_row_is_shown_as_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "FOLDER", tmp_path)
    name = next(case for case in CASES.values() if case.family == "failures")
    known = {"case": name.id, "verdict": "pass", "seconds": 4.5, "commit": "abc"}
    rows.append("failures", {**known, "code": rows.code_of(name.covers)})
    assert f"| {name.title} | pass | 4.5 |" in page.render("failures")
    rows.append("failures", {**known, "code": "0" * 16})
    assert f"| {name.title} | stale (pass) | 4.5 |" in page.render("failures")


@pytest.mark.parametrize("family", page.families())
def test_a_page_is_made_from_the_rows_that_are_there(family: str) -> None:
    """After a change of the code: `python -m tests.matrix page`."""
    assert (rows.FOLDER / f"{family}.md").read_text() == page.render(family)

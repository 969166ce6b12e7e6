"""The dark site's cache: only a complete product counts, and it is built once."""

import threading
from pathlib import Path

import pytest

from darksite import cache


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXDARK_CACHE", str(tmp_path / "cache"))


def test_a_product_is_built_once_by_callers_that_come_together() -> None:
    builds: list[Path] = []
    together = threading.Barrier(4)

    def build(out: Path) -> None:
        builds.append(out)
        (out / "program").write_text("x")

    def call() -> None:
        together.wait()
        assert (cache.built("p", build) / "program").read_text() == "x"

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(builds) == 1


def test_a_build_that_fails_leaves_nothing_that_counts() -> None:
    def fail(out: Path) -> None:
        (out / "half").write_text("x")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        cache.built("p", fail)
    assert not cache.present("p")
    left = [path.name for path in cache.root().iterdir() if path.name != "locks"]
    assert left == []


def test_what_a_killed_build_left_is_cleared_by_the_next() -> None:
    place = cache.root() / f"p-{cache.fingerprint()}"
    abandoned = place.parent / f".{place.name}.killed"
    abandoned.mkdir(parents=True)
    cache.built("p", lambda out: (out / "x").touch())
    assert cache.present("p")
    assert not abandoned.exists()


def test_a_changed_input_makes_another_product(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "main.go").write_text("1")
    first = cache.built("p", lambda out: None, [source])
    assert cache.built("p", lambda out: None, [source]) == first
    (source / "main.go").write_text("2")
    assert cache.built("p", lambda out: None, [source]) != first


def test_parts_of_a_fingerprint_do_not_run_together() -> None:
    assert cache.fingerprint("ab", "c") != cache.fingerprint("a", "bc")

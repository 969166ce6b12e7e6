from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest
from mxbundle.lock.charts import pack_chart

from sitebundle.errors import StackInvalid


def chart(folder: Path, files: dict[str, str]) -> Path:
    for name, text in {"Chart.yaml": "name: demo\nversion: 1.2.3\n", **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def names(content: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        return archive.getnames()


def test_times_modes_and_the_order_of_writing_do_not_show_in_the_bytes(tmp_path: Path) -> None:
    first = chart(tmp_path / "a", {"templates/b.yaml": "b", "templates/a.yaml": "a" * 100_000})
    second = chart(tmp_path / "b", {"templates/a.yaml": "a" * 100_000, "templates/b.yaml": "b"})
    os.utime(second / "Chart.yaml", (1, 1))
    (second / "templates/b.yaml").chmod(0o600)
    assert pack_chart(first) == pack_chart(second)


def test_the_package_is_a_gzipped_tar_that_anyone_reads(tmp_path: Path) -> None:
    content = pack_chart(chart(tmp_path, {"templates/a.yaml": "x" * 200_000, "values.yaml": ""}))
    assert names(content) == ["demo/Chart.yaml", "demo/templates/a.yaml", "demo/values.yaml"]
    assert b"x" * 200_000 in gzip.decompress(content)


def test_editors_leftovers_and_hidden_files_stay_out(tmp_path: Path) -> None:
    folder = chart(tmp_path, {".git/config": "", "values.yaml~": "", "templates/.a.swp": "", "templates/a.yaml": ""})
    assert names(pack_chart(folder)) == ["demo/Chart.yaml", "demo/templates/a.yaml"]


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    folder = chart(tmp_path, {})
    (folder / "secrets").symlink_to("/etc/passwd")
    with pytest.raises(StackInvalid, match="symbolic links"):
        pack_chart(folder)


def test_a_folder_without_a_chart_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackInvalid, match="not a chart"):
        pack_chart(tmp_path)

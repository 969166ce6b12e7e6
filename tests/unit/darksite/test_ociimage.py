"""Images of the dark site: the same files give the same digests, and the layout is a sound OCI layout."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

from darksite import ociimage


def test_a_layer_does_not_depend_on_times_or_on_the_order_of_creation(tmp_path: Path) -> None:
    infos = []
    for number, names in enumerate((["a", "b", "c"], ["c", "a", "b"])):
        root = tmp_path / f"root{number}"
        (root / "usr/bin").mkdir(parents=True)
        for name in names:
            (root / "usr/bin" / name).write_text(name)
            os.utime(root / "usr/bin" / name, (number * 1000, number * 1000))
        (root / "bin").symlink_to("usr/bin")
        infos.append(ociimage.layer_from_dir(root, tmp_path / f"layer{number}"))
    assert infos[0].digest == infos[1].digest
    assert infos[0].size_bytes == (tmp_path / "layer0").stat().st_size


def test_the_diff_id_is_the_digest_of_the_tar_inside(tmp_path: Path) -> None:
    info = ociimage.layer_from_files({"/bin/tool": b"#!", "etc/x": b"1"}, tmp_path / "layer")
    stored = (tmp_path / "layer").read_bytes()
    plain = gzip.decompress(stored)
    assert info.digest == "sha256:" + hashlib.sha256(stored).hexdigest()
    assert info.diff_id == "sha256:" + hashlib.sha256(plain).hexdigest()
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        assert tar.getnames() == ["bin", "bin/tool", "etc", "etc/x"]


def test_links_and_skipped_paths_are_packed_as_they_should_be(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr/share/doc/x").mkdir(parents=True)
    (root / "usr/share/doc/x/readme").write_text("long")
    (root / "file").write_text("data")
    (root / "second").hardlink_to(root / "file")
    (root / "lib").symlink_to("usr/lib")
    (root / "usr/link").symlink_to("share")
    ociimage.layer_from_dir(root, tmp_path / "layer", compression="", skip=["usr/share/doc"])
    with tarfile.open(tmp_path / "layer") as tar:
        kinds = {member.name: member.type for member in tar}
    assert kinds == {
        "file": tarfile.REGTYPE,
        "lib": tarfile.SYMTYPE,
        "second": tarfile.LNKTYPE,
        "usr": tarfile.DIRTYPE,
        "usr/link": tarfile.SYMTYPE,
        "usr/share": tarfile.DIRTYPE,
    }


def test_every_blob_a_layout_refers_to_is_there_under_its_own_digest(tmp_path: Path) -> None:
    layer = ociimage.layer_from_files({"a": b"1"}, tmp_path / "layer")
    layout = tmp_path / "layout"
    config = {"Entrypoint": ["/a"]}
    for ref, index in (("site.local/a:1", True), ("site.local/b:1", False), ("site.local/a:1", True)):
        ociimage.build_image([layer], config, layout, ref, index=index)
    entries = json.loads((layout / "index.json").read_bytes())["manifests"]
    names = [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in entries]
    assert sorted(names) == ["site.local/a:1", "site.local/b:1"]
    seen = [_checked(layout, entry) for entry in entries]
    assert sorted(seen) == [3, 4]


def _checked(layout: Path, entry: dict[str, Any]) -> int:
    """How many blobs are reached from a descriptor, each of them checked."""
    content = (layout / "blobs" / entry["digest"].replace(":", "/")).read_bytes()
    assert len(content) == entry["size"]
    assert "sha256:" + hashlib.sha256(content).hexdigest() == entry["digest"]
    if not entry["mediaType"].endswith("+json") or "config" in entry["mediaType"]:
        return 1
    document = json.loads(content)
    below = [*document.get("manifests", []), *document.get("layers", [])]
    below += [document["config"]] if "config" in document else []
    return 1 + sum(_checked(layout, each) for each in below)

"""What a build leaves behind never gets into an image."""

from pathlib import Path

from darksite.images import rootfs


def test_lists_caches_logs_and_devices_are_emptied_and_their_folders_stay(tmp_path: Path) -> None:
    for name in ("var/lib/apt/lists/partial/index", "var/cache/apt/pkgcache.bin", "var/log/dpkg.log", "run/lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("left behind")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("kept")
    rootfs.empty(tmp_path)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "etc",
        "etc/passwd",
        "run",
        "var",
        "var/cache",
        "var/lib",
        "var/lib/apt",
        "var/lib/apt/lists",
        "var/log",
    ]


def test_a_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    root = tmp_path / "root"
    root.mkdir()
    (root / "run").symlink_to(outside)
    rootfs.empty(root)
    assert (outside / "kept").exists()

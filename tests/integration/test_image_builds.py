"""An image build that is killed leaves neither a process nor a mount behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from darksite.images import rootfs
from darksite.images.stand_in import debian_base

BUILD = """
import sys
from pathlib import Path
from darksite.images import rootfs
rootfs.fill(Path(sys.argv[1]), Path(sys.argv[2]), "touch /started && sleep 300", {})
"""


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def mounted_anywhere(part: str) -> list[str]:
    """Processes that see a mount whose line names `part`, in whatever mount namespace they are."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if part in (entry / "mountinfo").read_text():
                    found.append(entry.name)
            except OSError:
                continue
    return found


@pytest.fixture(scope="module")
def base() -> Path:
    if os.geteuid() != 0:
        pytest.fail("image builds mount overlays: run as root")
    return debian_base() / "rootfs"


def test_a_killed_build_leaves_no_process_and_no_mount(base: Path, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    build = subprocess.Popen([sys.executable, "-c", BUILD, str(base), str(upper)])
    try:
        assert eventually((upper / "started").exists)
        assert mounted_anywhere(str(upper))
    finally:
        build.send_signal(signal.SIGKILL)
        build.wait()
    assert eventually(lambda: not mounted_anywhere(str(upper)))


def test_a_failed_recipe_is_told_by_its_last_words(base: Path, tmp_path: Path) -> None:
    (tmp_path / "upper").mkdir()
    with pytest.raises(rootfs.BuildFailed, match="no such package: frobnicate"):
        rootfs.fill(base, tmp_path / "upper", "echo no such package: frobnicate >&2; exit 3", {})


def test_deletions_are_written_as_layers_have_them(base: Path, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    script = "rm /usr/bin/bash; rm -r /etc/pam.d; mkdir /etc/pam.d; touch /etc/pam.d/new"
    rootfs.fill(base, upper, script, {})
    written = {path.relative_to(upper).as_posix() for path in upper.rglob("*") if not path.is_dir()}
    assert {"usr/bin/.wh.bash", "etc/pam.d/.wh..wh..opq", "etc/pam.d/new"} <= written
    assert not any(path.is_char_device() for path in upper.rglob("*"))

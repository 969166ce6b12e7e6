"""After a rehearsed restore an install of the site.yaml from before it is no accident, and mxinstall must see that."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from darksite.demo import SITE_NAME
from darksite.site import Site
from tests.site.test_restore import KEPT, forget_the_restore


def test_a_site_yaml_that_is_put_back_is_newer_than_the_install_of_the_restore(tmp_path: Path) -> None:
    site = cast(Site, SimpleNamespace(installer_state=tmp_path))
    site_file = tmp_path / SITE_NAME / "site.yaml"
    site_file.parent.mkdir()
    assert not forget_the_restore(site)
    site_file.write_text("restored")
    kept = site_file.with_suffix(KEPT)
    kept.write_text("before")
    long_ago = time.time() - 600
    os.utime(kept, (long_ago, long_ago))
    assert forget_the_restore(site)
    # mxinstall refuses a kept file that is older than the last install from another one (opening.check_kept).
    assert site_file.stat().st_mtime > long_ago + 300
    assert site_file.read_text() == "before"
    assert not forget_the_restore(site)

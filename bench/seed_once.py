"""`python bench/seed_once.py BUNDLE HOST:PORT`: what `mxinstall seed` does, into a registry that is not ours to run."""

from __future__ import annotations

import sys
from pathlib import Path

from mxinstall.seed import connect, seed
from mxinstall.site import Site

from sitebundle.archive import BundleReader
from sitebundle.events import silent


def main(bundle: Path, address: str) -> None:
    """Seed and print what moved."""
    site = Site.model_validate(
        {
            "metadata": {"name": "bench"},
            "spec": {
                "profile": "bench",
                "serverName": "bench.test",
                "hosts": {"matrix": "bench.test"},
                "registry": {"mode": "external", "push": address, "pull": address},
                "storage": {"default": "a", "database": "a", "objects": "a"},
                "edge": {"address": "127.0.0.1"},
            },
        }
    )
    report = seed(BundleReader.open(bundle), site, connect(site, silent), silent)
    print(report.as_json())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

"""The wheels of derived images, as `manifests/derived/` pins them: kept in the cache, fetched by pip when they lack.

The very files of production: upstream's file host serves them under their own addresses.
"""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from darksite import cache

RECIPES = Path(__file__).parents[1] / "manifests" / "derived"


def all_wheels(folder: Path = RECIPES) -> dict[str, Path]:
    """Address of each wheel that a recipe in `folder` names → the file.

    Raises `subprocess.CalledProcessError` when pip does not find a file with that digest, `OSError`.
    """
    pinned = [wheel for path in sorted(folder.glob("*.toml")) for wheel in tomllib.loads(path.read_text())["wheels"]]
    return {wheel["url"]: _fetched(wheel) for wheel in pinned}


def _fetched(wheel: dict[str, Any]) -> Path:
    name = unquote(urlsplit(wheel["url"]).path.rpartition("/")[2])

    def fetch(out: Path) -> None:
        requirements = out / "requirements.txt"
        requirements.write_text(f"{wheel['name']}=={wheel['version']} --hash=sha256:{wheel['sha256']}\n")
        # Nothing is installed or run: a wheel for another Python than this one is a file like any other.
        tag = name.removesuffix(".whl").split("-")[-3:]
        for_python = ["--python-version", "3.13", "--platform", tag[2], "--only-binary", ":all:"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(out), *for_python]
        subprocess.run([*command, "--require-hashes", "--requirement", str(requirements)], check=True)

    return cache.built(f"wheel-{wheel['name']}", fetch, (wheel["version"], wheel["sha256"])) / name

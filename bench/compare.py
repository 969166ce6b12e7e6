"""`make bench`: build and seed of one set of images by each contender, in one run, side by side.

BENCH_SET names the generator of the set (default: ../shared/bench/gen_images.py beside the project), BENCH_ONLY a
contender. Loopback only. Writes docs/reference/bench.md when BENCH_WRITE=1.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.contenders import CONTENDERS, Image, images_of
from bench.measure import Measured, disk_bytes, measure
from bench.registry import running_registry
from darksite import cache

ROOT = Path(__file__).parents[1]
GENERATOR = Path(os.environ.get("BENCH_SET") or ROOT.parent / "shared/bench/gen_images.py")
PAGE = ROOT / "docs/reference/bench.md"


@dataclass(frozen=True)
class Row:
    """One contender's result."""

    name: str
    build: Measured
    seed: Measured
    carried_bytes: int


def main() -> None:
    """Measure all contenders and print the table."""
    image_set = generated_set()
    workplace = Path(tempfile.mkdtemp(prefix="bench-", dir=cache.root()))
    try:
        with running_registry(workplace / "source") as source:
            subprocess.run([sys.executable, str(GENERATOR), "push", str(image_set), source], check=True)
            images = images_of(image_set / "set.json")
            only = os.environ.get("BENCH_ONLY", "")
            rows = [measured(name, images, workplace, source) for name in CONTENDERS if only in name]
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    text = page(rows)
    print(text)
    if os.environ.get("BENCH_WRITE") == "1":
        PAGE.write_text(text)


def generated_set() -> Path:
    """The set, generated once and kept in the cache (about 2.5 GB)."""
    if not GENERATOR.exists():
        sys.exit(f"error: {GENERATOR} is not there; BENCH_SET names the generator of the set of images")

    def build(out: Path) -> None:
        subprocess.run([sys.executable, str(GENERATOR), "gen", str(out)], check=True)

    return cache.built("bench-set", build, [GENERATOR])


def measured(name: str, images: list[Image], workplace: Path, source: str) -> Row:
    """Build, then seed a fresh registry."""
    workspace = workplace / name
    workspace.mkdir()
    contender = CONTENDERS[name](images, workspace)
    for command in contender.prepare(source):
        subprocess.run(command, env={**os.environ, **contender.environment}, check=True, stdout=sys.stderr)
    work = contender.build(source)
    os.sync()
    built = measure(work.commands, workspace, work.keep, work.environment)
    carried = contender.carried()
    with running_registry(workplace / f"{name}-target") as target:
        work = contender.seed(target)
        os.sync()
        seeded = measure(work.commands, workspace, work.keep, work.environment)
    row = Row(contender.name, built, seeded, disk_bytes(carried))
    print(f"{row.name}: build {built.seconds:.1f} s, seed {seeded.seconds:.1f} s", file=sys.stderr, flush=True)
    shutil.rmtree(workspace)
    shutil.rmtree(workplace / f"{name}-target")
    return row


def page(rows: list[Row]) -> str:
    """The table, with ratios to the first row."""
    system = f"{os.cpu_count()} cores, {platform.system()}"
    lines = [
        "# Build and seed, side by side",
        "",
        f"One run of `make bench` on {system}, real registries on loopback, the linux/amd64 half of",
        "the generated set. Resident memory is the peak of one process. Extra disk is the peak of what was written",
        "beside the file that is carried (build), and beside the registry's store (seed). The lock is made before and",
        "not measured: the others resolve tags while they copy.",
        "",
        "| | build | | memory | extra disk | carried | seed | | memory | extra disk |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    first = rows[0]
    for row in rows:
        ratios = (row.build.seconds / first.build.seconds, row.seed.seconds / first.seed.seconds)
        lines.append(
            f"| {row.name} | {row.build.seconds:.1f} s | ×{ratios[0]:.2f} | {_mb(row.build.resident_bytes)} "
            f"| {_mb(row.build.extra_disk_bytes)} | {_mb(row.carried_bytes)} | {row.seed.seconds:.1f} s "
            f"| ×{ratios[1]:.2f} | {_mb(row.seed.resident_bytes)} | {_mb(row.seed.extra_disk_bytes)} |"
        )
    return "\n".join(lines) + "\n"


def _mb(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


if __name__ == "__main__":
    main()

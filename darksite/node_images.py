"""The images that are on every node before anything is installed, as on any cluster that works.

Their names are the site's own, so that none of them is ever mistaken for one that came with a bundle.
"""

import subprocess
from pathlib import Path

from darksite import binaries, cache, ociimage

PAUSE = "site.local/pause:1"
COREDNS = "site.local/coredns:1"
PROVISIONER = "site.local/local-path-provisioner:1"
SHELL = "site.local/busybox:1"
NAMES = (PAUSE, COREDNS, PROVISIONER, SHELL)
_BUSYBOX = Path("/bin/busybox")
_VERSION = "1"


def archive() -> Path:
    """The OCI archive that every node imports. Builds what is in it first when it is missing."""
    programs = {
        PAUSE: binaries.ensure("pause"),
        COREDNS: binaries.ensure("coredns"),
        PROVISIONER: binaries.ensure("local-path-provisioner"),
    }

    def build(out: Path) -> None:
        layout = out / "layout"
        for number, (ref, program) in enumerate(programs.items()):
            layer = ociimage.layer_from_files({f"/{program.name}": program}, out / f"layer{number}", compression="")
            ociimage.build_image([layer], {"Entrypoint": [f"/{program.name}"]}, layout, ref)
        shell = ociimage.layer_from_dir(_busybox_tree(out / "busybox"), out / "shell", compression="")
        ociimage.build_image([shell], {"Cmd": ["sh"], "Env": ["PATH=/bin"]}, layout, SHELL)
        ociimage.pack_layout(layout, out / "images.tar")

    inputs: list[cache.Input] = [_VERSION, *(str(program) for program in programs.values()), _BUSYBOX]
    return cache.built("node-images", build, inputs) / "images.tar"


def _busybox_tree(root: Path) -> Path:
    (root / "bin").mkdir(parents=True)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    target = root / "bin/busybox"
    target.write_bytes(_BUSYBOX.read_bytes())
    target.chmod(0o755)
    applets = subprocess.run([str(_BUSYBOX), "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    return root

"""The images that are on every node before anything is installed, as on any cluster that works.

Their names are the site's own, so that none of them is ever mistaken for one that came with a bundle.
"""

import re
import subprocess
from pathlib import Path

from darksite import binaries, cache, ociimage

PAUSE = "site.local/pause:1"
COREDNS = "site.local/coredns:1"
PROVISIONER = "site.local/local-path-provisioner:1"
SHELL = "site.local/busybox:1"
NAMES = (PAUSE, COREDNS, PROVISIONER, SHELL)
_BUSYBOX = Path("/bin/busybox")
_VERSION = "2"


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
    """busybox, a link per applet, and the C library it loads."""
    for folder in ("bin", "tmp"):
        (root / folder).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    libraries = re.findall(r"(/\S+) \(0x", _output("ldd", str(_BUSYBOX)))
    for source in (_BUSYBOX, *map(Path, libraries)):
        target = root / source.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
        target.chmod(0o755)
    for applet in _output(str(_BUSYBOX), "--list").split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    return root


def _output(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout

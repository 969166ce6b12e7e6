"""Root file systems: one Debian base, and overlays of it that a script fills with the host's package clients.

No image is known here: which packages and which script is said by `stand_in`.
"""

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from darksite.errors import DarkSiteError
from darksite.images.isolation import PATH, enter, isolated, kernel_mounts, words

SUITE = "trixie"
CARRIED = "/run/build"
"""Where a build finds what was carried in; a tmpfs that no layer sees."""

# As debian:*-slim has it: documentation never reaches the disk, licences do.
_DOCUMENTATION = ("doc", "info", "lintian", "locale", "man")
_SLIM = "".join(f"path-exclude /usr/share/{folder}/*\n" for folder in _DOCUMENTATION)
_KEEP_LICENCES = "path-include /usr/share/doc/*/copyright\n"
_EMPTIED = ("var/lib/apt/lists", "var/cache", "var/log", "var/tmp", "root", "tmp", "run", "dev", "proc", "sys")
_CLIENT_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT")
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


class BuildFailed(DarkSiteError):
    """A package client or a recipe failed; the message ends with the last lines that it printed."""

    def __init__(self, exit_code: int, output: str) -> None:
        last = "\n  ".join(line for line in output.splitlines()[-15:] if line.strip())
        super().__init__(f"an image build ended with {exit_code}; it said last:\n  {last}")


def bootstrap(root: Path) -> None:
    """Fills the empty directory `root` with a minimal Debian. Raises `BuildFailed`."""
    _run(["debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, str(root)])
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(_SLIM + _KEEP_LICENCES)
    (root / "etc/apt/apt.conf.d/slim").write_text('Acquire::Languages "none";\nAPT::Install-Recommends "false";\n')
    # debootstrap copies the host's; at the site the kubelet writes both.
    for host_file in ("etc/resolv.conf", "etc/hosts", "etc/hostname"):
        (root / host_file).write_text("")
    for folder in _DOCUMENTATION:
        for path in (root / "usr/share" / folder).rglob("*"):
            if path.name != "copyright" and (path.is_symlink() or path.is_file()):
                path.unlink()
    empty(root)


def fill(lower: Path, upper: Path, script: str, environment: Mapping[str, str], carried: Iterable[Path] = ()) -> None:
    """Runs shell `script` as root in an overlay of `lower`; what it changes stays in the empty directory `upper`.

    The package clients in it work as the host's do: apt's and pip's settings and the host's certificates are in
    `CARRIED`, with the files of `carried`. Raises `BuildFailed`.
    """
    with tempfile.TemporaryDirectory(dir=upper.parent, prefix="overlay.") as scratch_name:
        scratch = Path(scratch_name)
        for folder in ("work", "merged", "carried"):
            (scratch / folder).mkdir()
        _carry_client_settings(scratch / "carried")
        for path in carried:
            shutil.copy(path, scratch / "carried" / path.name)
        (scratch / "carried" / "script").write_text(script)
        merged = scratch / "merged"
        # redirect_dir and metacopy would leave extended attributes that no layer can express.
        options = f"lowerdir={lower},upperdir={upper},workdir={scratch}/work,index=off,metacopy=off,redirect_dir=off"
        steps = [
            words("mount", "-t", "overlay", "overlay", "-o", options, merged),
            *kernel_mounts(merged),
            words("mount", "-t", "tmpfs", "tmpfs", merged / "run"),
            words("mount", "-t", "tmpfs", "tmpfs", merged / "tmp"),
            words("mkdir", f"{merged}{CARRIED}"),
            words("mount", "--bind", scratch / "carried", f"{merged}{CARRIED}"),
            words("mount", "--bind", "/etc/resolv.conf", merged / "etc/resolv.conf"),
            words("mount", "--bind", "/etc/hosts", merged / "etc/hosts"),
            enter(merged, ["/bin/sh", "-eu", f"{CARRIED}/script"], {**_client_environment(), **environment}),
        ]
        _run(isolated(steps))
    empty(upper)
    _express_deletions(upper)


def empty(root: Path) -> None:
    """Removes what a build leaves below `root` that no image carries: lists, caches, logs, devices."""
    for name in _EMPTIED:
        folder = root / name
        for path in folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _express_deletions(upper: Path) -> None:
    """Turns what overlayfs notes of deletions into the names that layers have for them (layer.md, whiteouts)."""
    for folder, folders, files in os.walk(upper):
        here = Path(folder)
        for name in files:
            status = (here / name).lstat()
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                (here / name).unlink()
                (here / f".wh.{name}").touch(mode=0o644)
        for name in folders:
            if not (here / name).is_symlink() and _is_opaque(here / name):
                os.removexattr(here / name, "trusted.overlay.opaque")
                (here / name / ".wh..wh..opq").touch(mode=0o644)


def _is_opaque(folder: Path) -> bool:
    return "trusted.overlay.opaque" in os.listxattr(folder)


def _carry_client_settings(folder: Path) -> None:
    settings = subprocess.run(["apt-config", "dump", "Acquire"], stdout=subprocess.PIPE, text=True, check=True)
    (folder / "apt.conf").write_text(
        "".join(line for line in settings.stdout.splitlines(True) if not line.startswith("Acquire::Languages"))
    )
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", folder / "ca.crt")
    for settings_file in (Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf"):
        if settings_file.is_file():
            shutil.copy(settings_file, folder / "pip.conf")


def _client_environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in (*_CLIENT_VARIABLES, *_PROXY_VARIABLES) if name in os.environ}
    return {
        **kept,
        "PATH": PATH,
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
        "APT_CONFIG": f"{CARRIED}/apt.conf",
        "PIP_CONFIG_FILE": f"{CARRIED}/pip.conf",
        "PIP_CERT": f"{CARRIED}/ca.crt",
    }


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise BuildFailed(done.returncode, done.stdout)

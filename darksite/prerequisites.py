"""The Debian packages a dark site needs, and their installation. Go is expected to be there."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from darksite.errors import NotRootError, PrerequisiteMissingError

SITE_PACKAGES = (
    "busybox",  # the shell of the storage provisioner's helper pod
    "conntrack",
    "containernetworking-plugins",
    "ethtool",
    "gcc",
    "iproute2",
    "ipset",
    "iptables",
    "libc6-dev",
    "libseccomp-dev",
    "pkg-config",
    "util-linux",
)
IMAGE_PACKAGES = ("debootstrap",)
TEST_PACKAGES = ("git", "nftables", "openssh-client", "skopeo", "systemd", "zstd")
BROWSER_PACKAGES = ("chromium", "fonts-dejavu-core")
"""For the tests of pages that people open. No site and no demo needs them."""
PACKAGES = (*SITE_PACKAGES, *IMAGE_PACKAGES, *TEST_PACKAGES)


def require_root() -> None:
    """Raises `NotRootError` for anybody but root."""
    if os.geteuid() != 0:
        raise NotRootError


def require() -> None:
    """Raises `NotRootError` or `PrerequisiteMissingError` where a site cannot be brought up."""
    require_root()
    if wanted := missing():
        raise PrerequisiteMissingError(wanted)


def missing(packages: Sequence[str] = PACKAGES) -> list[str]:
    """Those of `packages` that are not installed."""
    listed = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *packages],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    ).stdout.splitlines()
    installed = {line.split()[0] for line in listed if line.endswith(" installed")}
    return [name for name in packages if name not in installed]


def install(packages: Sequence[str] = PACKAGES) -> list[str]:
    """Installs what is missing of `packages` and returns it. Raises `NotRootError`, `subprocess.CalledProcessError`."""
    require_root()
    wanted = missing(packages)
    if wanted:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        # Another apt may be at work on a fresh machine: wait for its lock rather than fail. `update` has no
        # option for that and its lists are renewed by the other one, so its failure shows in `install`.
        apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
        subprocess.run([*apt, "update"], env=environment, check=False)
        subprocess.run([*apt, "install", "-y", "--no-install-recommends", *wanted], env=environment, check=True)
    if shutil.which("go") is None and not Path("/usr/local/go/bin/go").exists():
        raise PrerequisiteMissingError(["go (1.26 or later)"])
    return wanted

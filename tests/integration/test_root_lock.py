"""The committed images.lock is in step with manifests/: locking again, and keeping what is pinned, changes no byte."""

from __future__ import annotations

from pathlib import Path

from mxbundle.lock.compute import Request, changes, compute_lock
from mxbundle.lock.model import read_lock

from darksite import binaries, upstream
from sitebundle.events import silent
from sitebundle.helm import Helm
from sitebundle.oci.client import Mirrors, RetryPolicy
from sitebundle.oci.upstream import Upstream
from sitebundle.stack import read_stack

ROOT = Path(__file__).parents[2]


def test_locking_again_changes_nothing_and_asks_nobody(tmp_path: Path) -> None:
    lock = read_lock(ROOT / "images.lock")
    stack = read_stack(ROOT / "manifests/stack.yaml")
    published = upstream.published()
    files = [release.manifest for release in stack.releases if release.manifest]
    mirrors = tmp_path / "mirrors.toml"
    hosts = "".join(f'"{host}" = "http://127.0.0.1:9/{host}"\n' for host in ("docker.io", "ghcr.io"))
    mirrored = "".join(f'"{url}" = "{published[url].as_uri()}"\n' for url in files)
    mirrors.write_text(f"[mirrors]\n{hosts}[files]\n{mirrored}")
    # The programs are not pinned yet: nobody downloaded them from their publishers.
    (tmp_path / "tools.yaml").write_text("[]")
    assert not lock.tools
    request = Request(ROOT / "manifests", tmp_path / "tools.yaml", ("linux/amd64",), keep=True)
    answering = Upstream(Mirrors.read(mirrors), policy=RetryPolicy(attempts=1))
    again = compute_lock(request, answering, Helm(binaries.ensure("helm")), silent, lock)
    assert [str(change) for change in changes(lock, again)] == []
    assert again.to_bytes() == (ROOT / "images.lock").read_bytes()

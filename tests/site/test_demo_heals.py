"""The installed system without its installer: a pod comes back although its node has lost the image."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from darksite import nodes
from darksite.site import Site

pytestmark = pytest.mark.site
BACK_SECONDS = 180
Objects = Callable[[Sequence[str]], list[dict[str, Any]]]


def installers_running() -> list[str]:
    """Command lines of processes of this machine that install, the registry's supervisor not among them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(Path(word).name == "mxinstall" for word in words[:3]) and {"--bundle", "install"} & set(words):
            found.append(" ".join(words))
    return found


def routing_pod(objects: Objects) -> dict[str, Any]:
    pods = objects(["pods", "-n", "matrix", "-l", "app.kubernetes.io/component=routing"])
    return next(pod for pod in pods if pod["status"]["phase"] == "Running")


def test_a_deleted_pod_whose_image_is_gone_from_its_node_comes_back(
    demo: dict[str, Any], site: Site, objects: Objects, operator: Callable[..., str]
) -> None:
    assert demo["passed"], demo["failure"]
    assert installers_running() == []
    pod = routing_pod(objects)
    node = site.node(pod["spec"]["nodeName"])
    digest = pod["status"]["containerStatuses"][0]["imageID"].rpartition("@")[2]
    # The other pods of this image on the node must not bring it back: they do not run it anew.
    names = [line for line in _images(site, node) if digest in line]
    assert names, f"the node {node.name} does not have {digest}"
    operator("kubectl", "cordon", *(other.name for other in site.nodes if other.name != node.name))
    try:
        references = {line.split()[0] for line in names}
        nodes.ctr(site, node, "images", "rm", "--sync", *sorted(references))
        assert not [line for line in _images(site, node) if digest in line], "the image is still there"
        operator("kubectl", "delete", "pod", "-n", "matrix", pod["metadata"]["name"], "--grace-period=1")
        fresh = _back(objects, pod["metadata"]["uid"], node.name)
        assert fresh["status"]["containerStatuses"][0]["imageID"].endswith(digest)
        assert [line for line in _images(site, node) if digest in line], "no image was pulled"
    finally:
        operator("kubectl", "uncordon", *(other.name for other in site.nodes))


def _images(site: Site, node: Any) -> list[str]:
    listed: subprocess.CompletedProcess[str] = nodes.ctr(site, node, "images", "ls")
    return listed.stdout.splitlines()[1:]


def _back(objects: Objects, killed_uid: str, node: str) -> dict[str, Any]:
    """The ready pod on `node` that took the killed one's place."""
    deadline = time.monotonic() + BACK_SECONDS
    while time.monotonic() < deadline:
        for pod in objects(["pods", "-n", "matrix", "-l", "app.kubernetes.io/component=routing"]):
            ready = any(
                one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", [])
            )
            if pod["metadata"]["uid"] != killed_uid and pod["spec"].get("nodeName") == node and ready:
                return pod
        time.sleep(1)
    pytest.fail(f"no pod of the routing tier is ready on {node} {BACK_SECONDS} s after its image was removed")

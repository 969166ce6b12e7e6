"""The stack as it is shipped, for tests that render it: what a release becomes in a profile, and its images unpacked.

Needs helm for rendering and, for images, root and the dark site's cache.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from darksite import binaries
from darksite.images import all_contracts, build
from sitebundle.helm import Helm
from sitebundle.rendering import merged, read_objects, values_for
from sitebundle.stack import Stack, read_stack

MANIFESTS = Path(__file__).parents[2] / "manifests"
KUBE_VERSION = "1.36.0"
DIGEST = "sha256:" + "5" * 64
PULL_SECRET = "site-registry"


@cache
def stack() -> Stack:
    """manifests/stack.yaml"""
    return read_stack(MANIFESTS / "stack.yaml")


def pinned(reference: str) -> str:
    """`reference` as a site would name it, with some digest."""
    return f"registry.example.site:5000/mx/{reference}@{DIGEST}"


def example_site(name: str = "lock-site") -> dict[str, Any]:
    """The site that is used where none is known, with a pull secret."""
    spec: dict[str, Any] = yaml.safe_load((MANIFESTS / "profiles" / f"{name}.yaml").read_text())
    return merged(spec, {"registry": {"pullSecret": PULL_SECRET}})


def values_of(release: str, profile: str, over: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What helm gets for `release` in `profile`, with `over` on top."""
    entry = stack().release(release)
    return merged(values_for(stack(), entry, profile, MANIFESTS, pinned, example_site()), over or {})


def rendered_text(release: str, profile: str, over: Mapping[str, Any] | None = None) -> str:
    """What helm makes of a chart release. Raises RenderFailed with helm's words."""
    entry = stack().release(release)
    assert entry.chart is not None
    helm = Helm(binaries.ensure("helm"))
    return helm.template(
        MANIFESTS / entry.chart, entry.name, entry.namespace, values_of(release, profile, over), KUBE_VERSION
    )


def rendered(release: str, profile: str, over: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The objects of a chart release."""
    return read_objects(rendered_text(release, profile, over), release)


def stable_name(entry: Mapping[str, Any]) -> str:
    """An object's name, without the hash where it is named after its content."""
    name = str(entry["metadata"]["name"])
    labels = entry["metadata"].get("labels") or {}
    return name.rpartition("-")[0] if labels.get("mxbundle.io/named-by-content") == "true" else name


def named(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The one object of that kind and name (for one that is named after its content: without the hash)."""
    (found,) = (entry for entry in objects if entry["kind"] == kind and stable_name(entry) == name)
    return found


def configuration_files(objects: list[dict[str, Any]]) -> dict[str, str]:
    """Every file of Synapse's configuration: what all processes read, and what each type reads for itself."""
    maps = [entry for entry in objects if entry["kind"] == "ConfigMap" and entry.get("immutable")]
    return {name: text for entry in maps for name, text in entry["data"].items() if name.endswith((".yaml", ".py"))}


def unpack_image(name: str, root: Path) -> Path:
    """The root file system of the stand-in for image `name`, laid out under `root`."""
    (contract,) = (entry for entry in all_contracts() if entry.name == name)
    layout = build(contract).layout

    def blob(digest: str) -> Path:
        return layout / "blobs" / digest.replace(":", "/")

    document = json.loads((layout / "index.json").read_bytes())
    while "manifests" in document:
        entry = next(m for m in document["manifests"] if m.get("platform", {}).get("os", "linux") == "linux")
        document = json.loads(blob(entry["digest"]).read_bytes())
    root.mkdir(parents=True)
    tar = shutil.which("tar")
    assert tar is not None
    for layer in document["layers"]:
        subprocess.run([tar, "-xf", str(blob(layer["digest"])), "-C", str(root)], check=True)
    return root

"""A connected side of its own: a small stack, its images in a real registry, and `mxbundle` run as a user runs it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imagery import Pushed, layer, push_image

from darksite import binaries
from sitebundle.oci.client import Endpoint, Registry

MXBUNDLE = str(Path(sys.executable).with_name("mxbundle"))
HOST = "ghcr.io"
EPOCH = 1_700_000_000

_STACK = """\
apiVersion: mxbundle.io/v1alpha1
kind: Stack
name: little
kubernetes: ">=1.33"
profiles: [demo]
images:
{images}
namespaces: [{{name: little, podSecurity: baseline}}]
releases:
  - name: app
    namespace: little
    chart: ./charts/app
    images: {{{paths}}}
"""
_DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: app, namespace: {{ .Release.Namespace }}}
spec:
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      containers:
        {{- range $name, $image := .Values.images }}
        - {name: {{ $name }}, image: {{ $image }}}
        {{- end }}
"""
_CRD = """\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: littles.example.site}
spec:
  group: example.site
  scope: Namespaced
  names: {kind: Little, plural: littles}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
"""


@dataclass(frozen=True)
class Buildplace:
    """`images`: name in the stack -> reference. `pushed`: reference -> what the registry has."""

    folder: Path
    images: Mapping[str, str]
    pushed: Mapping[str, Pushed]

    @property
    def manifests(self) -> Path:
        return self.folder / "manifests"

    @property
    def lockfile(self) -> Path:
        return self.folder / "images.lock"

    @property
    def output(self) -> Path:
        return self.folder / "out" / "site.tar.zst"

    def environment(self) -> dict[str, str]:
        return {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH), "MXBUNDLE_HELM": str(binaries.ensure("helm"))}

    def command(self, verb: str, *arguments: str) -> list[str]:
        places = ["--manifests", str(self.manifests), "--lock", str(self.lockfile)]
        return [MXBUNDLE, verb, *places, "--mirrors", str(self.folder / "mirrors.toml"), *arguments]

    def run(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(verb, *arguments),
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def run_alone(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`mxbundle` with these arguments only."""
        return subprocess.run([MXBUNDLE, *arguments], capture_output=True, text=True, timeout=300, check=False)

    def lock(self) -> None:
        done = self.run("lock")
        assert done.returncode == 0, done.stderr

    def build(self, *arguments: str, output: Path | None = None) -> subprocess.CompletedProcess[str]:
        return self.run("build", "--output", str(output or self.output), *arguments)


def write_stack(folder: Path, images: Mapping[str, str], registry_url: str) -> None:
    """The manifests, the mirrors and the tools of a stack with one release that runs every one of `images`."""
    manifests = folder / "manifests"
    chart = manifests / "charts" / "app"
    (chart / "templates").mkdir(parents=True)
    (chart / "crds").mkdir()
    (manifests / "profiles").mkdir()
    (manifests / "values").mkdir()
    (manifests / "operands").mkdir()
    (manifests / "images").mkdir()
    (manifests / "operands" / "none.yaml").write_text("{}\n")
    table = "\n".join(f"  {name}: {reference}" for name, reference in images.items())
    paths = ", ".join(f"{name}: images.{name}" for name in images)
    (manifests / "stack.yaml").write_text(_STACK.format(images=table, paths=paths))
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: app\nversion: 1.0.0\n")
    (chart / "values.yaml").write_text("images: {}\n")
    (chart / "templates" / "deployment.yaml").write_text(_DEPLOYMENT)
    (chart / "crds" / "little.yaml").write_text(_CRD)
    (manifests / "profiles" / "demo.yaml").write_text("{}\n")
    (manifests / "profiles" / "lock-site.yaml").write_text("{}\n")
    tool = folder / "helm"
    tool.write_bytes(b"#!/bin/sh\necho a program\n" * 5000)
    entry = {"name": "helm", "version": "4.0.0", "platform": "linux/amd64", "url": tool.as_uri(), "path": None}
    entry["sha256"] = hashlib.sha256(tool.read_bytes()).hexdigest()
    (manifests / "tools.yaml").write_text(json.dumps([entry]))
    (folder / "mirrors.toml").write_text(f'[mirrors]\n"{HOST}" = "{registry_url}/{HOST}"\n')


def push_images(address: str, layer_sizes: Mapping[str, tuple[int, ...]]) -> dict[str, Pushed]:
    """Push an image per name with layers of about these sizes (bytes), and one layer that all share."""
    registry = Registry(Endpoint.parse(f"http://{address}/{HOST}"))
    shared = layer("shared", 50_000)
    return {
        f"{HOST}/little/{name}:1": push_image(
            registry,
            f"little/{name}",
            "1",
            layers=[shared, *(layer(f"{name}{number}", size) for number, size in enumerate(sizes))],
        )
        for name, sizes in layer_sizes.items()
    }

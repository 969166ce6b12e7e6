"""`manifests/stack.yaml`: what is deployed, in which order, and where every image reference goes.

Read by both sides: the builder renders and locks from it, the installer deploys from the copy inside the bundle.
Pure values and their reading; rendering is `sitebundle.rendering`.
"""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from sitebundle.errors import StackInvalid
from sitebundle.manifest import Value
from sitebundle.reference import Reference


class Override(Value):
    """What a release says about an object (`Kind/name`) of a published manifest that differs from the manifest.

    Either of a container's variable: `env` is set on `container` to the rewritten reference of `image`, so that nothing
    compiled in stays implicit. Or of a Deployment's pods: how many there are; whether two may share a node
    (`anti_affinity`, over kubernetes.io/hostname); seconds that one stays bound to a node which no longer answers;
    their PriorityClass.
    """

    object: str = Field(pattern=r"^[A-Za-z]+/[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    container: str | None = None
    env: str | None = None
    image: str | None = None
    replicas: int | None = Field(default=None, ge=1, le=9)
    anti_affinity: Literal["required", "preferred"] | None = Field(default=None, alias="antiAffinity")
    node_loss_seconds: int | None = Field(default=None, alias="nodeLossSeconds", ge=0, le=300)
    priority_class_name: str | None = Field(default=None, alias="priorityClassName", min_length=1)

    @property
    def of_pods(self) -> bool:
        """Whether it is about a Deployment's pods, and not about a variable."""
        return self.env is None

    @model_validator(mode="after")
    def _one_kind(self) -> Override:
        variable = (self.container, self.env, self.image)
        pods = (self.replicas, self.anti_affinity, self.node_loss_seconds, self.priority_class_name)
        if any(part is not None for part in variable):
            if None in variable or any(part is not None for part in pods):
                raise ValueError(f"an override of {self.object} has container, env and image, or none of these")
        elif all(part is None for part in pods):
            raise ValueError(f"an override of {self.object} changes nothing")
        elif not self.object.startswith("Deployment/"):
            raise ValueError(f"{self.object}: only a Deployment's pods can be overridden")
        return self


class Ready(Value):
    """One condition of *ready*; exactly one of the kinds is given.

    statefulset / deployment: a name or `*`, with `quorum` all or majority. http: `service:port/path` in the
    release's namespace, answered with 200 through the API server. field: `path` of `resource` (`plural.group/name`,
    or `*` for each one of the release) equals `equals`. accepts: a server-side dry run of that release's custom
    resources is answered.
    """

    statefulset: str | None = None
    deployment: str | None = None
    quorum: Literal["all", "majority"] = "all"
    http: str | None = None
    resource: str | None = None
    path: str | None = None
    equals: Any = None
    accepts: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Ready:
        given = [
            k for k in ("statefulset", "deployment", "http", "resource", "accepts") if getattr(self, k) is not None
        ]
        if len(given) != 1:
            raise ValueError(f"a ready entry has exactly one kind, this one has {given or 'none'}")
        if self.resource is not None and self.path is None:
            raise ValueError("a ready entry with `resource` needs `path` and `equals`")
        return self


class Release(Value):
    """One release: a chart (local folder under manifests/, `oci://`, `https://`) or a published manifest file.

    `images`: key of the stack's image table -> values path that receives the rewritten reference.
    `site`: values path -> dotted path into site.yaml's spec (`storage.database`), passed through as it is.
    `values`: files under manifests/values/, later ones win; the profile's own values come after them.
    `omit`: objects (`Kind/name`) of a published manifest that are not deployed. `rollback`: `yes`, `never`, or
    `until STEP`.
    """

    name: str
    namespace: str
    chart: str | None = None
    version: str | None = None
    manifest: str | None = None
    sha256: str | None = None
    needs: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    images: dict[str, str] = Field(default_factory=dict)
    overrides: tuple[Override, ...] = ()
    omit: tuple[str, ...] = ()
    site: dict[str, str] = Field(default_factory=dict)
    ready: tuple[Ready, ...] = ()
    timeout_seconds: int = 600
    rollback: str = Field(default="yes", pattern=r"^(yes|never|until [a-z][a-z0-9-]*)$")
    profiles: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_source(self) -> Release:
        if (self.chart is None) == (self.manifest is None):
            raise ValueError(f"release {self.name} has a chart or a manifest, not both and not neither")
        if self.manifest is not None and self.sha256 is None:
            raise ValueError(f"release {self.name} takes a published manifest, which must be pinned by sha256")
        if self.omit and self.manifest is None:
            raise ValueError(f"release {self.name} omits objects of a manifest, but takes none: a chart has values")
        if self.overrides and self.manifest is None:
            raise ValueError(f"release {self.name} overrides objects of a manifest, but takes none: a chart has values")
        pods = [override.object for override in self.overrides if override.of_pods]
        if twice := sorted({name for name in pods if pods.count(name) > 1}):
            raise ValueError(f"release {self.name} overrides the pods of {twice[0]} twice")
        return self


class Generated(Value):
    """How one key of a Secret comes to be, once per site.

    random: that many bytes, URL-safe base64. value: the text itself. synapse-signing-key: an Ed25519 key in
    Synapse's own form (`ed25519 a_<id> <unpadded base64 seed>`).
    """

    generate: Literal["random", "synapse-signing-key"] | None = None
    bytes: int = 32
    value: str | None = None


class Certificate(Value):
    """A certificate from the site's CA; keys tls.crt, tls.key and ca.crt.

    `site`: dotted paths into site.yaml's spec (`hosts.matrix`) whose values are DNS names too; one that the site
    lacks is left out.
    `chain`: tls.crt holds the CA's certificate too, for whoever takes the other side's tls.crt as what to trust.
    """

    common_name: str = Field(alias="commonName")
    dns: tuple[str, ...] = ()
    site: tuple[str, ...] = ()
    usages: tuple[Literal["server", "client"], ...] = ("server",)
    chain: bool = False


class SecretPlan(Value):
    """A Secret that the installer makes once and never overwrites, in each namespace that needs it.

    Exactly one of: `data` (generated keys), `certificate`, `ca` (only ca.crt, the site's CA certificate).
    taken: how whoever mounts a renewed certificate takes it: by itself (reload), or by a restart of its pods.
    """

    name: str
    namespaces: tuple[str, ...]
    type: str = "Opaque"
    data: dict[str, Generated] = Field(default_factory=dict)
    certificate: Certificate | None = None
    ca: bool = False
    labels: dict[str, str] = Field(default_factory=dict)
    taken: Literal["reload", "restart"] = "restart"

    def at(self, spec: Mapping[str, Any]) -> SecretPlan:
        """The same plan with every name written out in `dns` for a site; `spec` is site.yaml's."""
        if self.certificate is None or not self.certificate.site:
            return self
        found = [look_up(spec, path) for path in self.certificate.site]
        # A server name may carry a port, a certificate's name may not.
        names = [str(name).partition(":")[0] for name in found if name is not ABSENT]
        dns = tuple(dict.fromkeys((*self.certificate.dns, *names)))
        return self.model_copy(update={"certificate": self.certificate.model_copy(update={"dns": dns})})


class GivenSecret(Value):
    """A Secret that the operator puts into `mx-system` and the installer copies to where it is used.

    `site`: where site.yaml's spec names it; a site that names none needs none. `keys` are what it must have.
    """

    site: str
    namespaces: tuple[str, ...]
    keys: tuple[str, ...]
    labels: dict[str, str] = Field(default_factory=dict)


class Namespace(Value):
    """A namespace that the installer makes, with the PodSecurity level it enforces."""

    name: str
    pod_security: Literal["privileged", "baseline", "restricted"] = Field(alias="podSecurity")


class Stack(Value):
    """The whole of `stack.yaml`. `from_docker`: keys of images that only the builder's Docker daemon has."""

    api_version: Literal["mxbundle.io/v1alpha1"] = Field(alias="apiVersion")
    kind: Literal["Stack"]
    name: str
    kubernetes: str
    profiles: tuple[str, ...]
    images: dict[str, str]
    from_docker: tuple[str, ...] = Field(default=(), alias="fromDocker")
    namespaces: tuple[Namespace, ...]
    secrets: tuple[SecretPlan, ...] = ()
    given_secrets: tuple[GivenSecret, ...] = Field(default=(), alias="givenSecrets")
    releases: tuple[Release, ...]

    @model_validator(mode="after")
    def _names_fit(self) -> Stack:
        names = [release.name for release in self.releases]
        if len(set(names)) != len(names):
            raise ValueError("two releases have the same name")
        for text in self.images.values():
            if Reference.parse(text).tag in (None, "latest"):
                raise ValueError(f"image {text} has no tag, or `latest`")
        for key in self.from_docker:
            if key not in self.images:
                raise ValueError(f"fromDocker names {key}, which is not in the image table")
        spaces = {namespace.name for namespace in self.namespaces}
        for release in self.releases:
            if release.namespace not in spaces:
                raise ValueError(f"release {release.name} is in namespace {release.namespace}, which is not listed")
            for other in release.needs:
                if other not in names:
                    raise ValueError(f"release {release.name} needs {other}, which does not exist")
            wanted = [*release.images, *(override.image for override in release.overrides if override.image)]
            for key in wanted:
                if key not in self.images:
                    raise ValueError(f"release {release.name} names image {key}, which is not in the image table")
        try:
            TopologicalSorter({release.name: set(release.needs) for release in self.releases}).prepare()
        except CycleError as cycle:
            raise ValueError(f"releases need each other in a circle: {' -> '.join(cycle.args[1])}") from None
        return self

    def release(self, name: str) -> Release:
        """The release called `name`. Raises KeyError."""
        for entry in self.releases:
            if entry.name == name:
                return entry
        raise KeyError(name)

    def of_profile(self, profile: str) -> tuple[Release, ...]:
        """The releases that `profile` deploys (an entry without profiles is in all)."""
        return tuple(r for r in self.releases if not r.profiles or profile in r.profiles)

    def secrets_at(self, spec: Mapping[str, Any]) -> tuple[SecretPlan, ...]:
        """The secrets of a site; `spec` is site.yaml's."""
        return tuple(plan.at(spec) for plan in self.secrets)

    def levels(self, profile: str) -> tuple[tuple[Release, ...], ...]:
        """The releases of `profile` in dependency levels: inside one, none needs another; names sorted."""
        releases = {release.name: release for release in self.of_profile(profile)}
        sorter = TopologicalSorter(
            {name: {need for need in release.needs if need in releases} for name, release in releases.items()}
        )
        sorter.prepare()
        levels = []
        while sorter.is_active():
            ready = tuple(sorted(sorter.get_ready()))
            levels.append(tuple(releases[name] for name in ready))
            sorter.done(*ready)
        return tuple(levels)


ABSENT = object()
"""What `look_up` returns for a path that is not there; None is a value."""


def look_up(node: Any, path: str) -> Any:
    """The value at a dotted path into site.yaml's spec, or ABSENT."""
    for part in path.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return ABSENT
        node = node[part]
    return node


def read_stack(path: Path) -> Stack:
    """Read and check a `stack.yaml`. Raises StackInvalid with the place of the first fault."""
    try:
        return Stack.model_validate(yaml.safe_load(path.read_text()))
    except OSError as fault:
        raise StackInvalid(path=path, detail=fault.strerror or str(fault)) from fault
    except yaml.YAMLError as fault:
        raise StackInvalid(path=path, detail=" ".join(str(fault).split())) from fault
    except ValidationError as fault:
        first = fault.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StackInvalid(path=path, detail=f"{place}: {first['msg']}") from fault

"""Images: pinned, locked, named as the site names them, pulled with its secret, and used as their contracts allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from mxbundle.lint.model import Hit, hit, rule
from mxbundle.lint.subject import Item, Subject
from mxbundle.lint.workloads import at
from mxbundle.lock.contracts import Contract
from sitebundle.mentions import mentions
from sitebundle.podspecs import image_uses, unnamed_defaults
from sitebundle.reference import Reference

CHARTS_OWN_PROGRAM = ".py"
"""A container whose command names a mounted program of the chart reads what variables that program wants."""
LIBRARIES = "lib/x86_64-linux-gnu"
"""What the dynamic linker of Debian makes of $LIB, on the platform that the contracts were read on (ld.so(8))."""


@rule(
    id="images.pinned",
    title="Every image is named by digest",
    protects="A tag can mean another image tomorrow, and behind the gap nobody would see it.",
    todo="Lead the release's `images` to this value; name operands and variables in manifests/operands/.",
)
def pinned(subject: Subject) -> Iterator[Hit]:
    """Containers, image volumes, fields of custom resources, variables that name images."""
    for item, reference, path in _uses(subject):
        if "@sha256:" not in reference:
            yield hit(item.entry, path, reference or "an empty reference")


@rule(
    id="images.no-latest",
    title="No image is `latest`",
    protects="`latest`, written or implied, says nothing about what runs, and makes the kubelet pull at every start.",
    todo="Name a version.",
)
def no_latest(subject: Subject) -> Iterator[Hit]:
    """The tag `latest`, also beside a digest, or neither tag nor digest."""
    for item, text, path in _uses(subject):
        reference = _parsed(text)
        if reference is not None and reference.tag == "latest":
            yield hit(item.entry, path, text)


@rule(
    id="images.locked",
    title="Every image is one of the lock, with its digest",
    protects="What the lock does not have the bundle does not carry: the pod would wait for it for ever.",
    todo="Run `mxbundle lock`.",
    needs=("lock",),
)
def locked(subject: Subject) -> Iterator[Hit]:
    """Upstream name, tag and digest against images.lock; a site's name in front is taken off."""
    assert subject.lock is not None
    known = {Reference.parse(image.reference).tagged: image.digest for image in subject.lock.images}
    digests = {str(digest) for digest in known.values()}
    for item, text, path in _uses(subject):
        reference = _parsed(_upstream(text, subject.registry))
        if reference is None:
            yield hit(item.entry, path, text)
        elif reference.tag is None:
            if str(reference.digest) not in digests:
                yield hit(item.entry, path, f"{text}: no image of the lock has this digest")
        elif reference.tagged not in known:
            yield hit(item.entry, path, f"{reference.tagged} is not locked")
        elif reference.digest not in (None, known[reference.tagged]):
            yield hit(item.entry, path, f"{reference.tagged} is locked as {known[reference.tagged]}")


@rule(
    id="images.rewritten",
    title="No image names its upstream host",
    protects="The nodes reach the site's registry and nothing else.",
    todo="Lead the release's `images` to this value; name operands and variables in manifests/operands/.",
    needs=("registry",),
)
def rewritten(subject: Subject) -> Iterator[Hit]:
    """Every reference begins with the site's registry and prefix."""
    for item, text, path in _uses(subject):
        if not text.startswith(f"{subject.registry}/"):
            yield hit(item.entry, path, text)


@rule(
    id="images.pull-policy",
    title="Images are pulled only when they are missing",
    protects="Always: a registry that is away stops pods whose image is on the node. Never: a new node starts nothing.",
    todo="imagePullPolicy: IfNotPresent.",
)
def pull_policy(subject: Subject) -> Iterator[Hit]:
    """Written out everywhere: the default depends on the tag."""
    for item, _, container, path in subject.containers():
        if container.get("image") and container.get("imagePullPolicy") != "IfNotPresent":
            yield hit(item.entry, f"{path}.imagePullPolicy", str(container.get("imagePullPolicy") or "not given"))
    for load in subject.workloads:
        if load.operand is not None and load.operand.pull_policy:
            given = at(load.item.entry, load.operand.pull_policy)
            if given != "IfNotPresent":
                yield hit(load.item.entry, load.operand.pull_policy, str(given or "not given"))


@rule(
    id="images.pull-secret",
    title="Every pod has the site's pull secret",
    protects="At a registry that asks for a login a pod without it waits for its image for ever.",
    todo="imagePullSecrets: the site's (`registry.pullSecret`), in pod specs, operands and hooks alike.",
    needs=("pull-secret",),
)
def pull_secret(subject: Subject) -> Iterator[Hit]:
    """In the pod itself, or brought by its ServiceAccount."""
    wanted = subject.pull_secret
    assert wanted is not None
    for item, pod, path in subject.pods():
        account = subject.find("ServiceAccount", item.namespace, str(pod.get("serviceAccountName")))
        brought = account.entry.get("imagePullSecrets") if account is not None else ()
        if not _names_secret(pod.get("imagePullSecrets"), wanted) and not _names_secret(brought, wanted):
            yield hit(item.entry, f"{path}.imagePullSecrets", f"without {wanted}")
    for load in subject.workloads:
        operand = load.operand
        if operand is None or (load.pod or {}).get("containers"):
            continue  # The pods above are those which are written out.
        if not _names_secret(at(load.item.entry, operand.pull_secrets), wanted):
            yield hit(load.item.entry, operand.pull_secrets, f"without {wanted}")


@rule(
    id="images.contract",
    title="Containers use of their images only what the contracts promise",
    protects="A probe by a shell that the image lacks never passes; a user that it does not know reads nothing.",
    todo="Keep to manifests/images/, or read upstream's image again and widen the contract.",
    needs=("stack",),
)
def contract(subject: Subject) -> Iterator[Hit]:
    """Programs, user, read-only root, environment, preloaded libraries, of images that have a contract."""
    for item, pod, container, path in subject.containers():
        reference = _parsed(_upstream(str(container.get("image")), subject.registry))
        known = subject.contracts.by_name.get(reference.name) if reference is not None else None
        if known is not None:
            for seen in violations(known, pod, container):
                yield hit(item.entry, path, seen)


@rule(
    id="images.has-contract",
    title="Every image has a contract",
    protects="Without one nothing says what a chart may rely on, and no stand-in can be built to it.",
    todo="Write manifests/images/KEY.toml from upstream's Dockerfile.",
    needs=("stack",),
)
def has_contract(subject: Subject) -> Iterator[Hit]:
    """Also for images that operators start."""
    for item, text, path in _uses(subject):
        reference = _parsed(_upstream(text, subject.registry))
        if reference is not None and reference.name not in subject.contracts.by_name:
            yield hit(item.entry, path, reference.tagged)


@rule(
    id="images.mentioned",
    title="No image is named where nothing would rewrite it",
    protects="An image in an argument or a configuration is pulled like any other, and is in no bundle.",
    todo="Name the field in manifests/operands/, or list the text there as ignored, with the reason.",
)
def mentioned(subject: Subject) -> Iterator[Hit]:
    """Texts that look like an image and are none by structure or by table; the site's own names are fine."""
    for item in subject.items:
        for mention in mentions([item.entry], item.release, subject.operands):
            if subject.registry is None or not mention.reference.startswith(f"{subject.registry}/"):
                yield hit(item.entry, mention.field, mention.reference)


@rule(
    id="images.operand-default",
    title="No operator runs an image that only it has compiled in",
    protects="Nobody carries an image that nothing names: its pods wait for it for ever.",
    todo="Set the variable by an override of the release, or name the image in the resource.",
    needs=("stack",),
)
def operand_default(subject: Subject) -> Iterator[Hit]:
    """By the table of operators in manifests/operands/."""
    for unnamed in unnamed_defaults([item.entry for item in subject.items], subject.operands):
        seen = f"{unnamed.default.env} is not set: {unnamed.default.default} for {unnamed.used_by}"
        yield Hit(unnamed.object, "env", seen)


def violations(known: Contract, pod: Mapping[str, Any], container: Mapping[str, Any]) -> list[str]:
    """What a container uses that the contract of its image does not give."""
    found = []
    process = known.process
    programs = {*process.binaries, *process.files, process.shell} - {""}
    search_path = known.environment.get("PATH", "").split(":")
    programs |= {PurePosixPath(path).name for path in programs if str(PurePosixPath(path).parent) in search_path}
    for command in _commands(container):
        if command[0] not in programs:
            found.append(f"starts {command[0]}")
    security = {**(pod.get("securityContext") or {}), **(container.get("securityContext") or {})}
    if (security.get("runAsUser"), security.get("runAsGroup")) != (process.uid, process.gid) and not process.any_uid:
        found.append(f"runs as {security.get('runAsUser')}:{security.get('runAsGroup')}")
    if security.get("runAsNonRoot") and not known.user.split(":")[0].isdigit() and "runAsUser" not in security:
        found.append("needs runAsUser: the image's user is root or a name")
    if security.get("readOnlyRootFilesystem") and not process.read_only_root:
        found.append("mounts the root read-only")
    if not _runs_own_program(container):
        found += [
            f"sets {variable['name']}"
            for variable in container.get("env") or ()
            if variable["name"] not in process.environment
        ]
    for variable in container.get("env") or ():
        value = str(variable.get("value", "")).replace("$LIB", LIBRARIES)
        if variable["name"] == "LD_PRELOAD" and value not in process.files:
            found.append(f"preloads {value}")
    return found


def _commands(container: Mapping[str, Any]) -> Iterator[list[str]]:
    """What is started: the command, probes, hooks; empty ones left out."""
    holders = [container.get(name) or {} for name in ("livenessProbe", "readinessProbe", "startupProbe")]
    holders += [hook or {} for hook in (container.get("lifecycle") or {}).values()]
    for command in (container.get("command"), *(at(holder, "exec.command") for holder in holders)):
        if command:
            yield [str(word) for word in command]


def _runs_own_program(container: Mapping[str, Any]) -> bool:
    """Whether the command names a program below a mount: then the chart brings it."""
    mounts = [PurePosixPath(str(mount.get("mountPath"))) for mount in container.get("volumeMounts") or ()]
    words = [str(word) for word in container.get("command") or () if str(word).endswith(CHARTS_OWN_PROGRAM)]
    return any(PurePosixPath(word).is_relative_to(mount) for word in words for mount in mounts)


def _uses(subject: Subject) -> Iterator[tuple[Item, str, str]]:
    for item in subject.items:
        for use in image_uses([item.entry], item.release, subject.operands):
            yield item, use.reference, use.field


def _upstream(text: str, registry: str | None) -> str:
    """A reference as upstream names it: the site's registry and prefix taken off, `host_5000` spelled out."""
    if registry and text.startswith(f"{registry}/"):
        host, _, rest = text.removeprefix(f"{registry}/").partition("/")
        return f"{host.replace('_', ':')}/{rest}"
    return text


def _parsed(text: str) -> Reference | None:
    try:
        return Reference.parse(text)
    except ValueError:
        return None


def _names_secret(given: Any, wanted: str) -> bool:
    return any(isinstance(entry, Mapping) and entry.get("name") == wanted for entry in given or ())

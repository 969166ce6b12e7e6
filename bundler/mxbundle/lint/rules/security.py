"""What pods may do, and what must not be readable: PodSecurity levels of namespaces, secrets that stand in the open."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from mxbundle.lint.model import Hit, hit, rule
from mxbundle.lint.subject import Subject
from mxbundle.lint.workloads import at, joined, texts
from sitebundle.podspecs import Object, containers

LEVEL_LABEL = "pod-security.kubernetes.io/enforce"
_BASELINE_CAPABILITIES = frozenset(
    [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ]
)
_RESTRICTED_VOLUMES = frozenset(
    [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ]
)
_SAFE_SYSCTLS = frozenset(
    [
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    ]
)


@rule(
    id="security.pod-security",
    title="Every pod keeps the PodSecurity level of its namespace",
    protects="The API server refuses the pod: the workload is there, and nothing ever runs.",
    todo="Set what is missing in the securityContext, or give the namespace the level that it needs.",
)
def pod_security(subject: Subject) -> Iterator[Hit]:
    """Levels of the stack's namespaces, and of Namespace objects; others have none. Kubernetes' standard of 1.36."""
    levels = {item.name: at(item.entry, "metadata.labels") or {} for item in subject.of_kind("Namespace")}
    enforced = {name: str(labels[LEVEL_LABEL]) for name, labels in levels.items() if LEVEL_LABEL in labels}
    if subject.stack is not None:
        enforced |= {namespace.name: namespace.pod_security for namespace in subject.stack.namespaces}
    for item, pod, path in subject.pods():
        level = enforced.get(item.namespace, "privileged")
        if level == "privileged":
            continue
        # What a PodSpec inside a custom resource leaves open the operator fills in; what it says counts.
        partial = subject.operands.pods_of(item.group, item.kind) is not None
        for inside, seen in (*_baseline(pod), *(_restricted(pod) if level == "restricted" and not partial else ())):
            yield hit(item.entry, f"{path}.{inside}" if path else inside, f"{seen}; {item.namespace} is {level}")


_SECRET_KEY = re.compile(
    r"(?i)(?:^|[_.-]|(?<=[a-z]))(?:password|passwd|secret|secret_?key|private_?key|access_?key|api_?key|signing_?key|auth_?token"
    r"|access_?token|macaroon_secret_key|shared_secret|credentials?)$"
)
_IN_TEXT = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    re.compile(r"\bed25519 a_\w+ [A-Za-z0-9+/]{40,}"),
    re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@{}$%]+:[^\s/@{}$%]+@"),
    re.compile(r"(?m)^\s*(?:requirepass|masterauth|primaryauth|sentinel\s+auth-pass\s+\S+)\s+(?![%$\"']?[%${])\S+"),
)
_IN_WORDS = re.compile(
    r"(?i)(?:^|\s)--?(?:password|passwd|requirepass|secret|secret-key|auth-token|access-token)[= ](?![/$%{\"'])\S+"
)
"""On a command line; a program's own language may say such words about other things."""
_NO_VALUE = re.compile(r"^(?:|/.*|\$.*|%.*|\{\{.*|<.*>|true|false|null|~|None|[0-9]+)$", re.DOTALL)


@rule(
    id="security.inline-secrets",
    title="No password or key stands in configuration, arguments or variables",
    protects="A ConfigMap is readable by many, is in Helm's Secret, in every bundle and in every diff.",
    todo="Mount a Secret and name its file, or read it by secretKeyRef.",
)
def inline_secrets(subject: Subject) -> Iterator[Hit]:
    """By the names of keys, by the form of keys and of command lines; a path or a variable is no value."""
    for item in subject.of_kind("ConfigMap"):
        for key, text in (at(item.entry, "data") or {}).items():
            for path in _inline(joined("data", str(key)), str(key), str(text)):
                yield hit(item.entry, path, "looks like a secret")
    for item, _, container, path in subject.containers():
        for index, variable in enumerate(container.get("env") or ()):
            value = str(variable.get("value") or "")
            if _named_secret(str(variable.get("name")), value) or _secret_in(value):
                yield hit(item.entry, f"{path}.env[{index}]", f"{variable.get('name')}: looks like a secret")
        for field in ("command", "args"):
            words = [str(word) for word in container.get(field) or ()]
            line = " ".join(words)
            if _IN_WORDS.search(line) or _secret_in(line):
                yield hit(item.entry, f"{path}.{field}", "a word looks like a secret")


def _inline(path: str, key: str, text: str) -> Iterator[str]:
    if _named_secret(key, text) or _secret_in(text):
        yield path
    if not key.endswith((".yaml", ".yml", ".json", ".conf", "config")):
        return
    try:
        content = yaml.load(text, yaml.CSafeLoader)
    except yaml.YAMLError:
        return
    for inside, value in texts(content):
        if _named_secret(re.split(r'[.\[\]"]+', inside.rstrip('"]'))[-1], value):
            yield f"{path}.{inside}"


def _named_secret(name: str, value: str) -> bool:
    return bool(_SECRET_KEY.search(name)) and not _NO_VALUE.match(value.strip())


def _secret_in(text: str) -> bool:
    return any(form.search(text) for form in _IN_TEXT)


def _baseline(pod: Object) -> Iterator[tuple[str, str]]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield key, "true"
    for index, volume in enumerate(pod.get("volumes") or ()):
        if "hostPath" in volume:
            yield f"volumes[{index}].hostPath", "a path of the node"
    for index, sysctl in enumerate(at(pod, "securityContext.sysctls") or ()):
        if sysctl.get("name") not in _SAFE_SYSCTLS:
            yield f"securityContext.sysctls[{index}]", str(sysctl.get("name"))
    for context, path in _contexts(pod):
        for found, seen in _baseline_context(context):
            yield f"{path}.{found}", seen
    for container, path in containers(pod):
        for index, port in enumerate(container.get("ports") or ()):
            if port.get("hostPort"):
                yield f"{path}.ports[{index}].hostPort", str(port["hostPort"])
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            for way in ("httpGet", "tcpSocket"):
                if at(container, f"{probe}.{way}.host"):
                    yield f"{path}.{probe}.{way}.host", str(at(container, f"{probe}.{way}.host"))


def _baseline_context(context: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if context.get("privileged"):
        yield "privileged", "true"
    added = {str(name) for name in at(context, "capabilities.add") or ()}
    if added - _BASELINE_CAPABILITIES:
        yield "capabilities.add", ", ".join(sorted(added - _BASELINE_CAPABILITIES))
    if at(context, "seccompProfile.type") == "Unconfined":
        yield "seccompProfile.type", "Unconfined"
    if at(context, "appArmorProfile.type") == "Unconfined":
        yield "appArmorProfile.type", "Unconfined"
    if context.get("procMount", "Default") != "Default":
        yield "procMount", str(context["procMount"])
    kind = at(context, "seLinuxOptions.type")
    if kind not in (None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"):
        yield "seLinuxOptions.type", str(kind)


def _restricted(pod: Object) -> Iterator[tuple[str, str]]:
    of_pod = pod.get("securityContext") or {}
    for index, volume in enumerate(pod.get("volumes") or ()):
        kinds = set(volume) - {"name"}
        if kinds - _RESTRICTED_VOLUMES and "hostPath" not in kinds:
            yield f"volumes[{index}]", f"a volume of kind {', '.join(sorted(kinds))}"
    if of_pod.get("runAsUser") == 0:
        yield "securityContext.runAsUser", "0"
    for container, path in containers(pod):
        own = container.get("securityContext") or {}
        here = f"{path}.securityContext"
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"{here}.allowPrivilegeEscalation", str(own.get("allowPrivilegeEscalation", "not given"))
        if own.get("runAsNonRoot", of_pod.get("runAsNonRoot")) is not True:
            yield f"{here}.runAsNonRoot", str(own.get("runAsNonRoot", of_pod.get("runAsNonRoot", "not given")))
        if own.get("runAsUser") == 0:
            yield f"{here}.runAsUser", "0"
        profile = at(own, "seccompProfile.type") or at(of_pod, "seccompProfile.type")
        if profile not in ("RuntimeDefault", "Localhost", "Unconfined"):
            yield f"{here}.seccompProfile.type", str(profile or "not given")
        if "ALL" not in (at(own, "capabilities.drop") or ()):
            yield f"{here}.capabilities.drop", "not ALL"
        added = {str(name) for name in at(own, "capabilities.add") or ()} & _BASELINE_CAPABILITIES
        if added - {"NET_BIND_SERVICE"}:
            yield f"{here}.capabilities.add", ", ".join(sorted(added - {"NET_BIND_SERVICE"}))


def _contexts(pod: Object) -> Iterator[tuple[Mapping[str, Any], str]]:
    yield pod.get("securityContext") or {}, "securityContext"
    for container, path in containers(pod):
        yield container.get("securityContext") or {}, f"{path}.securityContext"

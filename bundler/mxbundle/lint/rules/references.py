"""Names that lead somewhere: selectors match pods, ports are there, what is mounted or named exists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mxbundle.lint.model import Hit, hit, rule
from mxbundle.lint.subject import Item, Subject
from mxbundle.lint.workloads import POD_NAME, Workload, at, matches
from sitebundle.podspecs import CONTAINER_LISTS, Object, containers
from sitebundle.stack import SecretPlan

EVERYWHERE = {("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default")}
"""What Kubernetes itself makes in every namespace."""


@rule(
    id="references.selectors",
    title="Every selector of a Service, a budget or a policy matches pods",
    protects="A Service without pods answers nobody; a policy or a budget without pods protects nothing.",
    todo="Use the labels of the pod template.",
)
def selectors(subject: Subject) -> Iterator[Hit]:
    """In the object's own namespace; a Service without a selector, and a policy for all pods, are left alone."""
    for item in subject.of_kind("Service", group=""):
        wanted = at(item.entry, "spec.selector")
        if wanted and not _selected(subject, item, {"matchLabels": wanted}):
            yield hit(item.entry, "spec.selector", f"no pod of {item.namespace} has {_shown(wanted)}")
    for kind, path in (("PodDisruptionBudget", "spec.selector"), ("NetworkPolicy", "spec.podSelector")):
        for item in subject.of_kind(kind):
            selector = at(item.entry, path)
            if selector and not _selected(subject, item, selector):
                yield hit(item.entry, path, f"no pod of {item.namespace} is selected by {_shown(selector)}")


@rule(
    id="references.ports",
    title="Every port that is named by name exists on the pods",
    protects="A name that no container has makes an endpoint without a port, and a probe that never passes.",
    todo="Name a port of the container, or give its number.",
)
def ports(subject: Subject) -> Iterator[Hit]:
    """targetPort of Services, and probes."""
    for item in subject.of_kind("Service", group=""):
        chosen = at(item.entry, "spec.selector")
        loads = [load for load in _selected(subject, item, {"matchLabels": chosen}) if load.pod] if chosen else []
        for index, port in enumerate(at(item.entry, "spec.ports") or ()):
            target = port.get("targetPort")
            if isinstance(target, str) and loads and not any(target in _port_names(load.pod or {}) for load in loads):
                yield hit(item.entry, f"spec.ports[{index}].targetPort", f"no selected pod has a port {target}")
    for item, _, container, path in subject.containers():
        if subject.operands.pods_of(item.group, item.kind) is not None:
            continue  # The operator names the ports.
        own = {str(port.get("name")) for port in container.get("ports") or ()}
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            for way in ("httpGet", "tcpSocket"):
                port = at(container, f"{probe}.{way}.port")
                if isinstance(port, str) and not port.isdigit() and port not in own:
                    yield hit(item.entry, f"{path}.{probe}.{way}.port", f"the container has no port {port}")


@rule(
    id="references.exist",
    title="Everything that is mounted or named exists",
    protects="A pod waits for a missing Secret or ConfigMap for ever; an unknown PriorityClass refuses it.",
    todo="Render the object, declare the Secret in stack.yaml for this namespace, or mark the reference optional.",
    needs=("whole",),
)
def exist(subject: Subject) -> Iterator[Hit]:
    """ConfigMaps and Secrets with their keys, PriorityClasses, ServiceAccounts, claims, Services, scale targets."""
    for item, pod, path in subject.pods():
        for inside, kind, name, key in _named(pod):
            if (wrong := _missing(subject, item, kind, name, key)) is not None:
                yield hit(item.entry, f"{path}.{inside}" if path else inside, wrong)
    for load in subject.workloads:
        for path in load.operand.secrets if load.operand is not None else ():
            name = at(load.item.entry, path)
            if name and (wrong := _missing(subject, load.item, "Secret", str(name), None)) is not None:
                yield hit(load.item.entry, path, wrong)
    for item in subject.of_kind("StatefulSet"):
        service = at(item.entry, "spec.serviceName")
        if service and subject.find("Service", item.namespace, str(service)) is None:
            yield hit(item.entry, "spec.serviceName", f"there is no Service {service}")
    for item in subject.of_kind("HorizontalPodAutoscaler"):
        target = at(item.entry, "spec.scaleTargetRef") or {}
        if subject.find(str(target.get("kind")), item.namespace, str(target.get("name"))) is None:
            yield hit(item.entry, "spec.scaleTargetRef", f"there is no {target.get('kind')} {target.get('name')}")


def _selected(subject: Subject, item: Item, selector: dict[str, Any]) -> list[Workload]:
    one = (selector.get("matchLabels") or {}).get(POD_NAME)
    return [
        load
        for load in subject.workloads
        if load.namespace == item.namespace
        and matches(selector, load.labels)
        and (one is None or one in load.pod_names())
    ]


def _shown(selector: dict[str, Any]) -> str:
    wanted = selector.get("matchLabels", selector)
    return ", ".join(f"{key}={value}" for key, value in wanted.items()) or str(selector)


def _port_names(pod: Object) -> set[str]:
    return {str(port.get("name")) for container, _ in containers(pod) for port in container.get("ports") or ()}


def _named(pod: Object) -> Iterator[tuple[str, str, str, str | None]]:
    """(path, kind, name, key) of everything that a PodSpec names and cannot do without."""
    if pod.get("serviceAccountName"):
        yield "serviceAccountName", "ServiceAccount", str(pod["serviceAccountName"]), None
    if pod.get("priorityClassName"):
        yield "priorityClassName", "PriorityClass", str(pod["priorityClassName"]), None
    for index, entry in enumerate(pod.get("imagePullSecrets") or ()):
        yield f"imagePullSecrets[{index}]", "Secret", str(entry.get("name")), None
    for index, volume in enumerate(pod.get("volumes") or ()):
        here = f"volumes[{index}]"
        yield from _of_source(volume, here)
        for place, source in enumerate((volume.get("projected") or {}).get("sources") or ()):
            yield from _of_source(source, f"{here}.projected.sources[{place}]")
        claim = at(volume, "persistentVolumeClaim.claimName")
        if claim:
            yield f"{here}.persistentVolumeClaim", "PersistentVolumeClaim", str(claim), None
    for name in CONTAINER_LISTS:
        for number, container in enumerate(pod.get(name) or ()):
            yield from _of_container(container, f"{name}[{number}]")


def _of_source(source: Object, path: str) -> Iterator[tuple[str, str, str, str | None]]:
    for field, kind in (("configMap", "ConfigMap"), ("secret", "Secret")):
        given = source.get(field)
        if isinstance(given, dict) and not given.get("optional"):
            name = str(given.get("secretName") or given.get("name"))
            keys = [str(item.get("key")) for item in given.get("items") or ()] or [None]  # type: ignore[list-item]
            for key in keys:
                yield f"{path}.{field}", kind, name, key


def _of_container(container: Object, path: str) -> Iterator[tuple[str, str, str, str | None]]:
    for index, variable in enumerate(container.get("env") or ()):
        for field, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
            given = at(variable, f"valueFrom.{field}")
            if given and not given.get("optional"):
                yield f"{path}.env[{index}].valueFrom.{field}", kind, str(given.get("name")), str(given.get("key"))
    for index, source in enumerate(container.get("envFrom") or ()):
        for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            given = source.get(field)
            if given and not given.get("optional"):
                yield f"{path}.envFrom[{index}].{field}", kind, str(given.get("name")), None


def _missing(subject: Subject, item: Item, kind: str, name: str, key: str | None) -> str | None:
    """What is wrong with a reference; None when it leads somewhere."""
    if (kind, name) in EVERYWHERE or (kind == "PriorityClass" and name.startswith("system-")):
        return None
    if kind == "Secret" and name == subject.pull_secret:
        return None
    found = subject.find(kind, "" if kind == "PriorityClass" else item.namespace, name)
    plan = _plan(subject, item.namespace, name) if kind == "Secret" else None
    if found is None and plan is None:
        return f"there is no {kind} {name}" + ("" if kind == "PriorityClass" else f" in {item.namespace}")
    keys = _plan_keys(plan) if plan is not None else _keys(found)
    return f"{kind} {name} has no key {key}" if key is not None and key not in keys else None


def _plan(subject: Subject, namespace: str, name: str) -> SecretPlan | None:
    plans = subject.stack.secrets if subject.stack is not None else ()
    return next((plan for plan in plans if plan.name == name and namespace in plan.namespaces), None)


def _plan_keys(plan: SecretPlan) -> set[str]:
    if plan.certificate is not None:
        return {"tls.crt", "tls.key", "ca.crt"}
    return {"ca.crt"} if plan.ca else set(plan.data)


def _keys(found: Item | None) -> set[str]:
    entry = found.entry if found is not None else {}
    return {str(key) for field in ("data", "stringData", "binaryData") for key in at(entry, field) or {}}

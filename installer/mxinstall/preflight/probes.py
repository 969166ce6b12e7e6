"""Pods that try something on the nodes, in a namespace of their own that is removed whatever happens.

What a killed run left is cleared by the next one. Not here: what is tried.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from mxinstall.cluster import Cluster, Object
from mxinstall.deploy.secrets import pull_secret_copies, spread
from sitebundle.errors import ReleaseNotReady

NAMESPACE = "mx-preflight"
LABELS = {"app.kubernetes.io/managed-by": "mxinstall", "mxbundle.io/part": "preflight"}
SCRIPTS = "scripts"

_GONE_SECONDS = 90.0
_POD_SECONDS = 180.0
_PULL_FAULT_SECONDS = 20.0
_LOOK_SECONDS = 0.5
_PULL_FAULTS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_USER = 65532


@dataclass(frozen=True)
class Outcome:
    """What became of a pod: `trouble` is empty when it did its work. `log` is its output."""

    name: str
    node: str
    log: str
    trouble: str


class ProbeSpace:
    """The namespace of the probes, as a context manager; `pull_secret` of `mx-system` is copied into it.

    Raises SiteInvalid when there is no such Secret.
    """

    def __init__(self, cluster: Cluster, pull_secret: str | None = None) -> None:
        self._cluster = cluster
        self._pull_secret = pull_secret

    def __enter__(self) -> ProbeSpace:
        self._clear()
        self._cluster.create(
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {
                    "name": NAMESPACE,
                    "labels": {**LABELS, "pod-security.kubernetes.io/enforce": "restricted"},
                },
            }
        )
        # Without it the API server refuses pods, although ours get no token.
        deadline = time.monotonic() + _GONE_SECONDS
        while self._cluster.get("v1", "ServiceAccount", "default", NAMESPACE) is None:
            if time.monotonic() > deadline:
                detail = f"namespace {NAMESPACE} gets no ServiceAccount: does the controller manager run?"
                raise ReleaseNotReady(release="preflight", seconds=int(_GONE_SECONDS), detail=detail)
            time.sleep(_LOOK_SECONDS / 5)
        if self._pull_secret is not None:
            spread(self._cluster, pull_secret_copies(self._pull_secret, [NAMESPACE]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cluster.delete("v1", "Namespace", NAMESPACE)

    def put(self, obj: Object) -> None:
        """Create an object of the probes."""
        self._cluster.apply({**obj, "metadata": {**obj["metadata"], "namespace": NAMESPACE, "labels": LABELS}})

    def start(
        self,
        name: str,
        image: str,
        script: str,
        *,
        node: str | None = None,
        claim: str | None = None,
    ) -> None:
        """Run the Python `script` in a pod, on `node` if one is named, with `claim` at /volume if one is given."""
        self.put(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name},
                "data": {"probe.py": script},
            }
        )
        self.put(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name},
                "spec": _spec(name, image, node=node, claim=claim, pull_secret=self._pull_secret),
            }
        )

    def wait(self, names: list[str], seconds: float = _POD_SECONDS) -> list[Outcome]:
        """What became of the pods, at the latest after `seconds`."""
        deadline = time.monotonic() + seconds
        faulty_since: dict[str, float] = {}
        outcomes: dict[str, Outcome] = {}
        while len(outcomes) < len(names):
            pods = {pod["metadata"]["name"]: pod for pod in self._cluster.list("v1", "Pod", NAMESPACE)}
            for name in names:
                if name not in outcomes:
                    outcome = self._outcome(name, pods.get(name), faulty_since, time.monotonic() > deadline)
                    if outcome is not None:
                        outcomes[name] = outcome
            if len(outcomes) < len(names):
                time.sleep(_LOOK_SECONDS)
        return [outcomes[name] for name in names]

    def events(self, name: str) -> str:
        """The last warning about an object of the probes, for people."""
        found = [
            event
            for event in self._cluster.list("v1", "Event", NAMESPACE)
            if event.get("involvedObject", {}).get("name") == name and event.get("type") == "Warning"
        ]
        return str(found[-1].get("message", "")) if found else ""

    def _outcome(self, name: str, pod: Object | None, faulty_since: dict[str, float], late: bool) -> Outcome | None:
        if pod is None:
            return Outcome(name, "", "", "the pod is gone") if late else None
        status, node = pod.get("status", {}), str(pod.get("spec", {}).get("nodeName") or "")
        phase = status.get("phase")
        if phase == "Succeeded":
            return Outcome(name, node, self._cluster.logs(NAMESPACE, name), "")
        if phase == "Failed":
            log = self._cluster.logs(NAMESPACE, name)
            return Outcome(name, node, log, status.get("message") or _last_line(log) or "the probe failed")
        waiting = _waiting(status)
        if waiting and waiting[0] in _PULL_FAULTS:
            since = faulty_since.setdefault(name, time.monotonic())
            if late or time.monotonic() - since > _PULL_FAULT_SECONDS:
                return Outcome(name, node, "", f"{waiting[0]}: {waiting[1] or self.events(name)}")
            return None
        faulty_since.pop(name, None)
        if not late:
            return None
        return Outcome(name, node, "", self.events(name) or (": ".join(waiting) if waiting else f"still {phase}"))

    def _clear(self) -> None:
        """Remove what an earlier run left and wait for its end. Raises ReleaseNotReady when it does not end."""
        deadline = time.monotonic() + _GONE_SECONDS
        asked = False
        while self._cluster.get("v1", "Namespace", NAMESPACE) is not None:
            if not asked:
                self._cluster.delete("v1", "Namespace", NAMESPACE)
                asked = True
            if time.monotonic() > deadline:
                detail = f"namespace {NAMESPACE} of an earlier run does not go away"
                raise ReleaseNotReady(release="preflight", seconds=int(_GONE_SECONDS), detail=detail)
            time.sleep(_LOOK_SECONDS)


def _spec(name: str, image: str, *, node: str | None, claim: str | None, pull_secret: str | None) -> dict[str, Any]:
    mounts: list[dict[str, Any]] = [{"name": SCRIPTS, "mountPath": "/probe", "readOnly": True}]
    volumes: list[dict[str, Any]] = [{"name": SCRIPTS, "configMap": {"name": name}}]
    if claim is not None:
        mounts.append({"name": "claim", "mountPath": "/volume"})
        volumes.append({"name": "claim", "persistentVolumeClaim": {"claimName": claim}})
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "probe",
                "image": image,
                "imagePullPolicy": "Always",
                "command": ["python3", "-I", "/probe/probe.py"],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }
    if node is not None:
        spec["nodeName"] = node
    if pull_secret is not None:
        spec["imagePullSecrets"] = [{"name": pull_secret}]
    return spec


def _waiting(status: Object) -> tuple[str, str] | None:
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting")
        if waiting:
            return str(waiting.get("reason", "")), str(waiting.get("message", ""))
    return None


def _last_line(log: str) -> str:
    lines = log.strip().splitlines()
    return lines[-1][:300] if lines else ""

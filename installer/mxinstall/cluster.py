"""The Kubernetes API as plain dicts: read, server-side apply, delete, proxies, tokens. One thin layer over urllib3.

Not here: kubeconfigs, what is deployed, waiting, meaning. Why no client library: docs/decisions/kubernetes-client.md.
"""

from __future__ import annotations

import json
import os
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, NewConnectionError

from mxinstall.kubeconfig import Access, kubeconfig_path, read_access
from sitebundle.errors import ClusterRefused, ClusterUnreachable, FencedOff

Object = dict[str, Any]
Objects = list[Object]

PATIENCE_SECONDS = 30.0
"""How long a server that was there a moment ago is waited for: a restart of an API server takes that long."""
ANSWER_SECONDS = 30.0
"""How long one answer may take."""
_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0
_OVERLOADED = 429
_AWAY = (503, 504)
_PAGE = 500
_PATCH_TYPES = {
    "apply": "application/apply-patch+yaml",
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
}


@dataclass(frozen=True)
class Resource:
    """How a kind is addressed: its plural and whether it lives in namespaces."""

    plural: str
    namespaced: bool


class Cluster:
    """One API server, one identity. Thread-safe.

    Everywhere: ClusterUnreachable when no answer comes within `patience_seconds`, ClusterRefused for an answer that is
    neither success nor an expected 404, FencedOff for a 401 while acting with an installer's token.
    """

    def __init__(
        self,
        access: Access,
        *,
        fenced: bool = False,
        patience_seconds: float = PATIENCE_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._patience_seconds, self._answer_seconds = patience_seconds, answer_seconds
        self.access = access
        self.server = access.server
        self._fenced = fenced
        self._token = access.token
        self._lock = threading.Lock()
        self._resources: dict[str, dict[str, Resource]] = {}
        self._pool = _pool(access)

    @classmethod
    def connect(cls, kubeconfig: Path | None = None, token: str | None = None) -> Cluster:
        """Reach the API server of `kubeconfig`; `token` replaces the kubeconfig's user. Raises ClusterUnreachable."""
        access = read_access(kubeconfig or kubeconfig_path())
        cluster = cls(access).acting_with(token) if token else cls(access)
        # A wrong address should not keep a person waiting: patience is for servers that were there a moment ago.
        cluster.request("GET", "/version", timeout_seconds=5, patience_seconds=1)
        return cluster

    def acting_with(self, token: str) -> Cluster:
        """The same server, reached with an epoch token: from now on a 401 means that we were fenced off."""
        place = self.access
        return Cluster(
            Access(place.server, place.ca, place.insecure, place.server_name, place.proxy, token=token), fenced=True
        )

    @property
    def token(self) -> str | None:
        """The bearer token that proves who we are, if that is how."""
        return self._token

    def renew_token(self, token: str) -> None:
        """Act with a fresh token of the same identity."""
        self._token = token

    # --- objects ----------------------------------------------------------------------------------------------

    def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """The object, or None where there is none (or no such kind)."""
        path = self._path(api_version, kind, name, namespace)
        return None if path is None else self._object("GET", path, missing=True)

    def list(self, api_version: str, kind: str, namespace: str | None = None, labels: str | None = None) -> Objects:
        """All objects of a kind, of one namespace or of all; each with apiVersion and kind set. Unknown kind: none."""
        return [*self.each(api_version, kind, namespace, labels)]

    def each(
        self, api_version: str, kind: str, namespace: str | None = None, labels: str | None = None
    ) -> Iterator[Object]:
        """The same, page by page: of many objects only one page need be in memory."""
        path = self._path(api_version, kind, None, namespace)
        if path is None:
            return
        query: dict[str, str | int] = {"limit": _PAGE, **({"labelSelector": labels} if labels else {})}
        while True:
            page = self._object("GET", path, query=query) or {}
            for item in page.get("items") or []:
                yield {"apiVersion": api_version, "kind": kind, **item}
            following = page.get("metadata", {}).get("continue")
            if not following:
                return
            query["continue"] = following

    def apply(self, obj: Object, *, manager: str = "mxinstall", force: bool = True, dry_run: bool = False) -> Object:
        """Server-side apply as `manager`; returns what the server has (or, on a dry run, would have)."""
        query: dict[str, str | int] = {"fieldManager": manager, "force": "true" if force else "false"}
        if dry_run:
            query["dryRun"] = "All"
        return self._write("PATCH", self._path_of(obj), obj, query, _PATCH_TYPES["apply"])

    def create(self, obj: Object, *, dry_run: bool = False) -> Object:
        """Create; ClusterRefused with status 409 when it exists."""
        metadata = obj["metadata"]
        path = self._known_path(obj["apiVersion"], obj["kind"], None, metadata.get("namespace"))
        query: dict[str, str | int] = {"fieldManager": "mxinstall", **({"dryRun": "All"} if dry_run else {})}
        return self._write("POST", path, obj, query, "application/json")

    def replace(self, obj: Object) -> Object:
        """Put the whole object; ClusterRefused with status 409 when its resourceVersion is no longer the latest."""
        return self._write("PUT", self._path_of(obj), obj, {"fieldManager": "mxinstall"}, "application/json")

    def delete(
        self,
        api_version: str,
        kind: str,
        name: str,
        namespace: str | None = None,
        *,
        propagation: str = "Background",
        grace_seconds: int | None = None,
    ) -> bool:
        """Delete; False where there was nothing."""
        path = self._path(api_version, kind, name, namespace)
        if path is None:
            return False
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        return self._object("DELETE", path, body=options, missing=True) is not None

    def patch(
        self,
        api_version: str,
        kind: str,
        name: str,
        patch: Object | Objects,
        namespace: str | None = None,
        *,
        subresource: str | None = None,
        type: str = "merge",  # noqa: A002 - the API's own word
    ) -> Object:
        """Patch by `merge`, `strategic` or `json`."""
        path = self._known_path(api_version, kind, name, namespace) + (f"/{subresource}" if subresource else "")
        return self._write("PATCH", path, patch, {"fieldManager": "mxinstall"}, _PATCH_TYPES[type])

    def resource(self, api_version: str, kind: str) -> Resource | None:
        """How a kind is addressed; None for a kind that the server does not know."""
        return self._resource(api_version, kind)

    def namespaced(self, api_version: str, kind: str) -> bool | None:
        """Whether a kind lives in namespaces; None for a kind that the server does not know."""
        resource = self._resource(api_version, kind)
        return None if resource is None else resource.namespaced

    # --- pods and services ------------------------------------------------------------------------------------

    def service_proxy(
        self, namespace: str, service: str, port: int | str, path: str, *, timeout_seconds: float = 10
    ) -> tuple[int, bytes]:
        """GET a service's path through the API server: the service's own status and body."""
        return self._proxy(f"services/{service}:{port}", namespace, path, timeout_seconds)

    def pod_proxy(
        self, namespace: str, pod: str, port: int | str, path: str, *, timeout_seconds: float = 10
    ) -> tuple[int, bytes]:
        """GET a pod's path through the API server: the pod's own status and body."""
        return self._proxy(f"pods/{pod}:{port}", namespace, path, timeout_seconds)

    def _proxy(self, target: str, namespace: str, path: str, timeout_seconds: float) -> tuple[int, bytes]:
        return self.request(
            "GET",
            f"/api/v1/namespaces/{namespace}/{target}/proxy/{path.lstrip('/')}",
            timeout_seconds=timeout_seconds,
            accept="*/*",
        )

    def logs(
        self,
        namespace: str,
        pod: str,
        container: str | None = None,
        tail_lines: int | None = None,
        previous: bool = False,
    ) -> str:
        """A container's log so far; empty when there is none (yet)."""
        query: dict[str, str | int] = {"previous": "true"} if previous else {}
        if container:
            query["container"] = container
        if tail_lines is not None:
            query["tailLines"] = tail_lines
        status, body = self.request("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}/log", query=query, accept="*/*")
        return body.decode(errors="replace") if status == 200 else ""

    # --- the server itself ------------------------------------------------------------------------------------

    def version(self) -> str:
        """The server's version, as in `v1.36.3`."""
        return str((self._object("GET", "/version") or {})["gitVersion"])

    def can_i(self, verb: str, resource: str, group: str = "", namespace: str | None = None) -> bool:
        """Whether this identity may do it. `resource` may name a subresource: `pods/log`."""
        name, _, subresource = resource.partition("/")
        attributes: Object = {"verb": verb, "resource": name, "group": group}
        if subresource:
            attributes["subresource"] = subresource
        if namespace:
            attributes["namespace"] = namespace
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(self._write("POST", path, review, {}, "application/json")["status"]["allowed"])

    def service_account_token(self, namespace: str, name: str, bound_secret: Object, seconds: int) -> tuple[str, float]:
        """A token of a ServiceAccount that dies with `bound_secret`, and how many seconds it lives at most."""
        metadata = bound_secret["metadata"]
        reference = {"apiVersion": "v1", "kind": "Secret", "name": metadata["name"], "uid": metadata["uid"]}
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [], "expirationSeconds": seconds, "boundObjectRef": reference},
        }
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        answer = self._write("POST", path, request, {}, "application/json")
        return str(answer["status"]["token"]), float(answer["spec"].get("expirationSeconds", seconds))

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | str | Mapping[str, Any] | Objects | None = None,
        query: Mapping[str, str | int] | None = None,
        content_type: str | None = None,
        timeout_seconds: float | None = None,
        accept: str | None = None,
        patience_seconds: float | None = None,
        head: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """One request as it is: status and body, whatever they are. Dicts and lists are sent as JSON.

        head: is filled with the answer's header fields, in small letters.

        Tried again for `patience_seconds` when no connection came about, when the server is overloaded (429), and, for
        what can safely be said twice (everything but POST), when the connection broke or the server is going or coming
        (503, 504; not those of a service or pod behind its proxy).
        """
        if isinstance(body, Mapping | (list)):
            body, content_type = json.dumps(body).encode(), content_type or "application/json"
        headers = {"Accept": accept or "application/json", "User-Agent": "mxinstall"}
        if content_type:
            headers["Content-Type"] = content_type
        url = self.server + path + (f"?{urlencode(query)}" if query else "")
        timeout_seconds = self._answer_seconds if timeout_seconds is None else timeout_seconds
        again = _Again(self._patience_seconds if patience_seconds is None else patience_seconds)
        while True:
            if self._token:
                headers["Authorization"] = f"Bearer {self._token}"
            elif self.access.basic:
                headers["Authorization"] = f"Basic {self.access.basic}"
            try:
                answer = self._pool.request(
                    method,
                    url,
                    body=body,
                    headers=headers,
                    timeout=urllib3.Timeout(connect=min(5.0, timeout_seconds), read=timeout_seconds),
                    retries=False,
                    redirect=False,
                )
            except (HTTPError, OSError) as fault:
                unsent = isinstance(fault, NewConnectionError | urllib3.exceptions.ConnectTimeoutError)
                final = (method == "POST" and not unsent) or isinstance(fault, _FINAL)
                if final or not again.after_pause():
                    raise ClusterUnreachable(server=self.server, detail=_first_cause(fault)) from fault
                continue
            repeatable = answer.status in _AWAY and method != "POST" and "/proxy/" not in path
            if (answer.status == _OVERLOADED or repeatable) and again.after_pause(answer.headers.get("Retry-After")):
                continue
            self._check_identity(answer.status, answer.data, f"{method} {path}")
            if head is not None:
                head.update({name.lower(): value for name, value in answer.headers.items()})
            return answer.status, answer.data

    # --- inside -----------------------------------------------------------------------------------------------

    def _check_identity(self, status: int, body: bytes, action: str) -> None:
        """A 401 of the API server (not one of a proxied service) ends whatever we do."""
        if status != 401 or b'"kind":"Status"' not in body.replace(b" ", b"")[:200]:
            return
        if self._fenced:
            raise FencedOff(detail=f"the API server answered 401 to {action}")
        raise ClusterRefused(server=self.server, action=action, status=401, detail="who is asking? (credentials)")

    def _object(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        query: Mapping[str, str | int] | None = None,
        missing: bool = False,
    ) -> Object | None:
        status, data = self.request(method, path, body=body, query=query)
        if status == 404 and missing:
            return None
        return self._answer(status, data, f"{method} {path}")

    def _write(
        self, method: str, path: str, body: Object | Objects, query: Mapping[str, str | int], content_type: str
    ) -> Object:
        status, data = self.request(method, path, body=body, query=query, content_type=content_type)
        return self._answer(status, data, f"{method} {path}")

    def _answer(self, status: int, data: bytes, action: str) -> Object:
        if 200 <= status < 300:
            parsed: Object = json.loads(data)
            return parsed
        try:
            detail = str(json.loads(data).get("message") or "")
        except (ValueError, AttributeError):
            detail = data[:300].decode(errors="replace")
        raise ClusterRefused(server=self.server, action=action, status=status, detail=detail or "no message")

    def _path_of(self, obj: Object) -> str:
        metadata = obj["metadata"]
        return self._known_path(obj["apiVersion"], obj["kind"], metadata["name"], metadata.get("namespace"))

    def _known_path(self, api_version: str, kind: str, name: str | None, namespace: str | None) -> str:
        path = self._path(api_version, kind, name, namespace)
        if path is None:
            action = f"{api_version} {kind} {name or ''}".rstrip()
            raise ClusterRefused(server=self.server, action=action, status=404, detail="the server has no such kind")
        return path

    def _path(self, api_version: str, kind: str, name: str | None, namespace: str | None) -> str | None:
        resource = self._resource(api_version, kind)
        if resource is None:
            return None
        path = _group_path(api_version)
        if resource.namespaced and namespace:
            path += f"/namespaces/{quote(namespace)}"
        path += f"/{resource.plural}"
        return path + (f"/{quote(name)}" if name else "")

    def _resource(self, api_version: str, kind: str) -> Resource | None:
        """From discovery; asked again for a kind not seen yet, since CRDs come while we run."""
        with self._lock:
            known = self._resources.get(api_version, {}).get(kind)
        if known is not None:
            return known
        found = self._object("GET", _group_path(api_version), missing=True)
        if found is None:
            return None
        table = {
            entry["kind"]: Resource(entry["name"], bool(entry["namespaced"]))
            for entry in found.get("resources") or []
            if "/" not in entry["name"]
        }
        with self._lock:
            self._resources[api_version] = table
        return table.get(kind)


class _Again:
    """Whether to ask once more, after longer and longer pauses, until `patience_seconds` after the first try."""

    def __init__(self, patience_seconds: float) -> None:
        self._until = time.monotonic() + patience_seconds
        self._pause = _PAUSE_SECONDS

    def after_pause(self, asked: str | None = None) -> bool:
        """Wait, for the seconds that the server `asked` for if it did; False when patience does not reach that far."""
        pause = float(asked) if asked and asked.isdigit() else self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE_SECONDS)
        if time.monotonic() + pause > self._until:
            return False
        time.sleep(pause)
        return True


_FINAL = (urllib3.exceptions.SSLError, ssl.SSLError)


def _group_path(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def _first_cause(fault: BaseException) -> str:
    text = str(fault.__cause__ or fault)
    return text.rpartition(": ")[2] or text


def _pool(access: Access) -> urllib3.PoolManager:
    if urlsplit(access.server).scheme == "http":
        return urllib3.PoolManager(maxsize=10)
    context = ssl.create_default_context(cadata=access.ca)
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if access.certificate and access.key:
        # The call wants a path: this one is of a file in memory, which no other user reads and no kill leaves behind.
        with os.fdopen(os.memfd_create("mxinstall"), "w") as pem:
            pem.write(f"{access.certificate}\n{access.key}")
            pem.flush()
            context.load_cert_chain(f"/proc/self/fd/{pem.fileno()}")
    options: dict[str, Any] = {"ssl_context": context, "maxsize": 10}
    if access.insecure:
        options["cert_reqs"] = "CERT_NONE"
    if access.server_name:
        options |= {"server_hostname": access.server_name, "assert_hostname": access.server_name}
    return urllib3.ProxyManager(access.proxy, **options) if access.proxy else urllib3.PoolManager(**options)

"""Kubeconfigs: from the operator's file to how an API server is reached, and back to one that holds a token alone.

Not here: connecting (`mxinstall.cluster`).
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sitebundle.errors import KubeconfigInvalid

Entry = dict[str, Any]


@dataclass(frozen=True)
class Access:
    """How an API server is reached, from a kubeconfig. `ca` is PEM text; at most one proof of who we are."""

    server: str
    ca: str | None = None
    insecure: bool = False
    server_name: str | None = None
    proxy: str | None = None
    certificate: str | None = None
    key: str | None = None
    token: str | None = None
    basic: str | None = None

    def kubeconfig(self, token: str) -> str:
        """A kubeconfig (YAML text) for the same server that proves itself with `token` alone."""
        cluster: Entry = {"server": self.server}
        if self.ca:
            cluster["certificate-authority-data"] = base64.b64encode(self.ca.encode()).decode()
        if self.insecure:
            cluster["insecure-skip-tls-verify"] = True
        if self.server_name:
            cluster["tls-server-name"] = self.server_name
        if self.proxy:
            cluster["proxy-url"] = self.proxy
        return yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "site", "cluster": cluster}],
                "users": [{"name": "installer", "user": {"token": token}}],
                "contexts": [{"name": "site", "context": {"cluster": "site", "user": "installer"}}],
                "current-context": "site",
            }
        )


def kubeconfig_path() -> Path:
    """The first file of $KUBECONFIG, or ~/.kube/config."""
    listed = [part for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return Path(listed[0]) if listed else Path.home() / ".kube" / "config"


def read_access(path: Path) -> Access:
    """The current context of a kubeconfig. Raises KubeconfigInvalid with what is wrong with it."""
    try:
        config = yaml.safe_load(path.read_text())
        context = _named(config["contexts"], config["current-context"])["context"]
        cluster = _named(config["clusters"], context["cluster"])["cluster"]
        user = _named(config.get("users") or [], context["user"]).get("user") or {} if context.get("user") else {}
        token = user.get("token") or (_text(path, user, "tokenFile") if "tokenFile" in user else None)
        certificate, key = _text(path, user, "client-certificate"), _text(path, user, "client-key")
        if "exec" in user:
            token, certificate, key = _exec_credential(user["exec"])
        basic = None
        if user.get("username"):
            basic = base64.b64encode(f"{user['username']}:{user.get('password', '')}".encode()).decode()
        return Access(
            server=str(cluster["server"]).rstrip("/"),
            ca=_text(path, cluster, "certificate-authority"),
            insecure=bool(cluster.get("insecure-skip-tls-verify")),
            server_name=cluster.get("tls-server-name"),
            proxy=cluster.get("proxy-url"),
            certificate=certificate,
            key=key,
            token=token.strip() if token else None,
            basic=basic,
        )
    except OSError as fault:
        raise KubeconfigInvalid(path=path, detail=fault.strerror or str(fault)) from fault
    except (KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError) as fault:
        raise KubeconfigInvalid(path=path, detail=f"{type(fault).__name__} {fault}") from fault


def _named(entries: list[Entry], name: str) -> Entry:
    for entry in entries:
        if entry.get("name") == name:
            return entry
    raise KeyError(name)


def _text(config: Path, entry: Entry, key: str) -> str | None:
    """An entry's file content: embedded as KEY-data, or a path beside the kubeconfig."""
    if data := entry.get(f"{key}-data"):
        return base64.b64decode(data).decode()
    if path := entry.get(key):
        return (config.parent / str(path)).read_text()
    return None


def _exec_credential(plugin: Entry) -> tuple[str | None, str | None, str | None]:
    version = plugin.get("apiVersion", "client.authentication.k8s.io/v1")
    asked = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
    environment = {**os.environ, "KUBERNETES_EXEC_INFO": json.dumps(asked)}
    environment.update({item["name"]: item["value"] for item in plugin.get("env") or []})
    command = [plugin["command"], *(plugin.get("args") or [])]
    try:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, timeout=60)
    except subprocess.SubprocessError as fault:
        raise ValueError(f"credential plugin {plugin['command']}: {fault}") from fault
    status = json.loads(done.stdout)["status"]
    return status.get("token"), status.get("clientCertificateData"), status.get("clientKeyData")

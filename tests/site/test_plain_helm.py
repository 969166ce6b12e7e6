"""The charts without the installer: `helm install` with values alone, Secrets and a database that somebody else made.

It uses what the demo's site has: nodes, storage and the images in its registry. All that it makes is in one namespace.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mxinstall.deploy.secrets import synapse_signing_key

from darksite import binaries
from darksite.certificates import Authority

pytestmark = pytest.mark.site
CHARTS = Path(__file__).parents[2] / "manifests/charts"
SPACE = "plain"
DATABASE = f"database.{SPACE}.svc.cluster.local"
READY_SECONDS = 480
GONE_SECONDS = 240
Operator = Callable[..., str]

TALK = (Path(__file__).parent / "plain/talk.py").read_text()
SERVE = (Path(__file__).parent / "plain/serve_database.sh").read_text()


@pytest.fixture(scope="module")
def installed(demo: dict[str, Any], operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """Valkey and Synapse put into a namespace of their own by `helm install`; gone again afterwards."""
    assert demo["passed"], demo["failure"]
    folder = tmp_path_factory.mktemp("plain")
    helm = str(binaries.ensure("helm"))
    # A run that was killed has left everything.
    remove(operator)
    kept = folder / "objects.json"
    kept.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": prerequisites(operator)}))
    operator("kubectl", "apply", "--server-side", f"--filename={kept}")
    try:
        wait_ready(operator, "statefulset/database")
        for name, values in (("valkey", valkey_values(operator)), ("synapse", synapse_values(operator))):
            file = folder / f"{name}.yaml"
            file.write_text(yaml.safe_dump(values))
            command = [helm, "install", name, str(CHARTS / name), "--namespace", SPACE, "--values", str(file)]
            operator(*command, "--wait", f"--timeout={READY_SECONDS}s")
        yield operator
    finally:
        remove(operator)


def test_helm_calls_both_releases_deployed(installed: Operator) -> None:
    listed = json.loads(installed(str(binaries.ensure("helm")), "list", "--namespace", SPACE, "--output", "json"))
    assert {(entry["name"], entry["status"]) for entry in listed} == {("synapse", "deployed"), ("valkey", "deployed")}


def test_somebody_talks_through_the_routing_tier(installed: Operator) -> None:
    inside = ["kubectl", "exec", "-n", SPACE, "synapse-main-0", "-c", "synapse", "--"]
    told = json.loads(installed(*inside, "python3", "-c", TALK))
    assert told["sent"] in told["seen"]


def test_a_second_upgrade_with_the_same_values_restarts_nothing(installed: Operator) -> None:
    helm = str(binaries.ensure("helm"))
    before = pods(installed)
    installed(helm, "upgrade", "synapse", str(CHARTS / "synapse"), "--namespace", SPACE, "--reuse-values")
    time.sleep(5)
    assert pods(installed) == before


def pods(operator: Operator) -> dict[str, str]:
    listed = json.loads(operator("kubectl", "get", "pods", "-n", SPACE, "-o", "json"))["items"]
    kept = [pod for pod in listed if pod["metadata"].get("ownerReferences", [{}])[0].get("kind") != "Job"]
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in kept}


def image_of(operator: Operator, namespace: str, kind: str, container: int = 0) -> str:
    """The full reference that the installed system uses: the site's registry has it."""
    path = f"{{.spec.template.spec.containers[{container}].image}}"
    return operator("kubectl", "get", "-n", namespace, kind, "-o", f"jsonpath={path}").strip()


def valkey_values(operator: Operator) -> dict[str, Any]:
    small = {"requests": {"cpu": "10m", "memory": "24Mi"}}
    return {
        "global": {"image": image_of(operator, "matrix-data", "statefulset/valkey-server")},
        "proxy": {"image": image_of(operator, "matrix", "deployment/routing"), "resources": small},
        "server": {"resources": small},
        "sentinel": {"resources": small},
        "maxMemory": "32mb",
    }


def synapse_values(operator: Operator) -> dict[str, Any]:
    small = {"cpu": "20m", "memory": "112Mi", "memoryLimit": "512Mi"}
    return {
        "global": {"image": image_of(operator, "matrix", "statefulset/synapse-main")},
        "serverName": "plain.site",
        "host": "matrix.plain.site",
        "database": {"host": DATABASE, "maxConnections": 100, "reserve": 20},
        "redis": {"host": f"valkey.{SPACE}.svc.cluster.local"},
        "media": {"storage": {"type": "ephemeral", "size": "100Mi"}},
        "workerDefaults": {"resources": small},
        "main": {"resources": small},
        "routing": {"image": image_of(operator, "matrix", "deployment/routing"), "replicas": 2, "resources": small},
    }


def prerequisites(operator: Operator) -> list[dict[str, Any]]:
    """What the charts' pages ask for: the namespace, the Secrets, and a PostgreSQL with TLS, UTF8 and collation C."""
    site, password = Authority("plain-site"), secrets.token_urlsafe(24)
    ca = site.pair.certificate.decode()
    database, edge = (
        site.issue("database", hosts=[DATABASE]),
        site.issue("edge", hosts=["matrix.plain.site", "plain.site"]),
    )
    names = ["macaroon", "form", "registration", "replication"]
    keys = {"signing.key": synapse_signing_key(), **{name: secrets.token_urlsafe(32) for name in names}}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}},
        secret("synapse-keys", keys),
        secret("postgres-synapse", {"username": "synapse", "password": password}),
        secret("valkey-auth", {"password": secrets.token_urlsafe(24)}),
        secret("site-ca", {"ca.crt": ca}),
        secret("database-tls", {"tls.crt": database.certificate.decode(), "tls.key": database.key.decode()}),
        secret("edge-tls", {"tls.crt": edge.certificate.decode(), "tls.key": edge.key.decode(), "ca.crt": ca}),
        *database_objects(operator),
    ]


def secret(name: str, texts: dict[str, str]) -> dict[str, Any]:
    data = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": SPACE}, "data": data}


def database_objects(operator: Operator) -> list[dict[str, Any]]:
    instance = ["-l", "cnpg.io/podRole=instance", "-o", "jsonpath={.items[0].spec.containers[0].image}"]
    image = operator("kubectl", "get", "pods", "-n", "matrix-data", *instance).strip()
    labels = {"app": "database"}
    container = {
        "name": "database",
        "image": image,
        "command": ["/bin/sh", "-ec", SERVE],
        "readinessProbe": {"exec": {"command": ["/bin/sh", "-ec", "/usr/lib/postgresql/17/bin/pg_isready -h /data"]}},
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "tls", "mountPath": "/tls"},
            {"name": "login", "mountPath": "/login"},
        ],
    }
    volumes = [
        {"name": "data", "emptyDir": {}},
        {"name": "tls", "secret": {"secretName": "database-tls", "defaultMode": 0o440}},
        {"name": "login", "secret": {"secretName": "postgres-synapse", "defaultMode": 0o440}},
    ]
    pod = {
        "securityContext": {"runAsUser": 26, "runAsGroup": 26, "fsGroup": 26},
        "containers": [container],
        "volumes": volumes,
    }
    meta = {"name": "database", "namespace": SPACE}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {"selector": labels, "ports": [{"port": 5432}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": meta,
            "spec": {
                "serviceName": "database",
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
    ]


def remove(operator: Operator) -> None:
    """Whoever comes next has the nodes to themselves."""
    operator("kubectl", "delete", "namespace", SPACE, "--ignore-not-found", "--wait", f"--timeout={GONE_SECONDS}s")


def wait_ready(operator: Operator, what: str) -> None:
    operator("kubectl", "rollout", "status", "-n", SPACE, what, f"--timeout={READY_SECONDS}s")

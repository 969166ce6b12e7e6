"""A small chart whose processes take a change as Synapse's do, and a stack that carries it; no node is needed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from mxinstall.carried import Carried
from mxinstall.cluster import Cluster
from mxinstall.deploy import certificates, secrets
from mxinstall.deploy.fencing import hold
from mxinstall.deploy.inventory import read_inventory
from mxinstall.deploy.journal import Account, Journal
from mxinstall.deploy.releases import Deployment, deploy_levels, ensure_namespaces, remove_release
from mxinstall.deploy.workdir import work_dir
from mxinstall.helm_release import HelmReleases
from mxinstall.plan import Plan, make_plan
from mxinstall.site import Site

from darksite import binaries
from sitebundle.digest import Digest
from sitebundle.events import silent
from sitebundle.manifest import BundleManifest, Image, PlatformManifest
from sitebundle.operands import Operands
from sitebundle.stack import Stack

NAMESPACE = "matrix"
RELEASE = "parts"
IMAGE = "ghcr.io/element-hq/synapse:v1"

_CHART = """apiVersion: v2
name: parts
version: 1.0.0
"""
_VALUES = """image: ""
text: a
together: one
check: check
configuration: ""
autoscaled: []
sets: {main: {wave: 0, replicas: 1}, writer: {wave: 1, replicas: 2}, reader: {wave: 2, replicas: 2}}
"""
_TEMPLATE = """
{{- range $name, $set := .Values.sets }}
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: parts-{{ $name }}
  annotations:
    mxbundle.io/wave: {{ $set.wave | quote }}
    mxbundle.io/stop-together: {{ $.Values.together | quote }}
spec:
  {{- if not (has $name $.Values.autoscaled) }}
  replicas: {{ $set.replicas }}
  {{- end }}
  serviceName: parts
  podManagementPolicy: Parallel
  selector: {matchLabels: {part: {{ $name }}}}
  template:
    metadata:
      labels: {part: {{ $name }}}
      annotations: {text: {{ $.Values.text | quote }}, together: {{ $.Values.together | quote }}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 2
      containers:
        - {name: c, image: {{ $.Values.image | quote }}}
      volumes:
        - {name: tls, secret: {secretName: parts-tls}}
        {{- with $.Values.configuration }}
        - {name: configuration, configMap: {name: {{ . }}}}
        {{- end }}
{{- end }}
{{- with .Values.configuration }}
---
# As charts had it before theirs were named after their content: helm deletes it when it is rendered no more.
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ . }}}
{{- end }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: parts-tier
  annotations: {mxbundle.io/wave: "3"}
spec:
  replicas: 1
  selector: {matchLabels: {part: tier}}
  template:
    metadata:
      labels: {part: tier}
      annotations: {text: {{ .Values.text | quote }}}
    spec:
      automountServiceAccountToken: false
      containers:
        - {name: c, image: {{ .Values.image | quote }}}
---
apiVersion: v1
kind: Service
metadata: {name: parts}
spec:
  clusterIP: None
  ports: [{port: 80}]
---
# Stands for the check of a configuration before an upgrade: a name with capitals is refused.
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Values.check }}
  annotations:
    mxbundle.io/check: "true"
    helm.sh/hook: pre-upgrade
    helm.sh/hook-delete-policy: "before-hook-creation,hook-succeeded"
"""


def carried_parts(folder: Path, timeout_seconds: int = 60) -> Carried:
    """A bundle with the one release `parts`."""
    chart = folder / "charts/parts"
    (chart / "templates").mkdir(parents=True, exist_ok=True)
    (chart / "Chart.yaml").write_text(_CHART)
    (chart / "values.yaml").write_text(_VALUES)
    (chart / "templates/all.yaml").write_text(_TEMPLATE)
    command = [str(binaries.ensure("helm")), "package", str(chart), f"--destination={folder}"]
    subprocess.run(command, check=True, capture_output=True)
    stack = Stack.model_validate(
        {
            "apiVersion": "mxbundle.io/v1alpha1",
            "kind": "Stack",
            "name": "parts",
            "kubernetes": ">=1.33",
            "profiles": ["demo"],
            "images": {"synapse": IMAGE},
            "namespaces": [
                {"name": "mx-system", "podSecurity": "restricted"},
                {"name": NAMESPACE, "podSecurity": "privileged"},
            ],
            "secrets": [
                {
                    "name": "parts-tls",
                    "namespaces": [NAMESPACE, "mx-system"],
                    "type": "kubernetes.io/tls",
                    "certificate": {"commonName": "parts", "dns": ["parts"], "site": ["hosts.matrix"]},
                },
                {
                    "name": "reloaded-tls",
                    "namespaces": [NAMESPACE],
                    "taken": "reload",
                    "type": "kubernetes.io/tls",
                    "certificate": {"commonName": "reloaded", "dns": ["reloaded"]},
                },
                {"name": "parts-ca", "namespaces": [NAMESPACE], "taken": "reload", "ca": True},
            ],
            "releases": [
                {
                    "name": RELEASE,
                    "chart": "./charts/parts",
                    "namespace": NAMESPACE,
                    "images": {"synapse": "image"},
                    "ready": [{"statefulset": "*"}, {"deployment": "*"}],
                    "timeout_seconds": timeout_seconds,
                }
            ],
        }
    )
    digest = Digest.of(b"image")
    platform = PlatformManifest(
        platform="linux/amd64", digest=digest, media_type="x", size=1, config=digest, config_size=1, layers=()
    )
    manifest = BundleManifest(
        name="parts",
        generation=1,
        created=0,
        profile="demo",
        lock_digest=Digest.of(b"lock"),
        platforms=("linux/amd64",),
        images=(Image(reference=IMAGE, digest=digest, media_type="x", size=1, carried=(platform,)),),
        charts=(),
        files=(),
        crds=(),
        tools=(),
        members=(),
    )
    (folder / "profiles").mkdir(exist_ok=True)
    (folder / "profiles/demo.yaml").write_text("{}\n")
    return Carried(
        manifest=manifest,
        stack=stack,
        directory=folder,
        charts={RELEASE: folder / "parts-1.0.0.tgz"},
        files={},
        crds=(),
        operands=Operands(fields=(), operators=()),
    )


def parts_site(**values: Any) -> Site:
    """A site with `values` for the release."""
    return Site.model_validate(
        {
            "metadata": {"name": "parts"},
            "spec": {
                "profile": "demo",
                "serverName": "parts.site",
                "hosts": {"matrix": "matrix.parts.site"},
                "registry": {"push": "127.0.0.1:9", "pull": "127.0.0.1:9"},
                "storage": {"default": "local", "database": "local", "objects": "local"},
                "edge": {"address": "127.0.0.1"},
                "values": {RELEASE: values} if values else {},
            },
        }
    )


def deploy_parts(operator: Cluster, folder: Path, timeout_seconds: int = 60, **values: Any) -> Plan:
    """What an install does between seed and audit; the plan that it had."""
    carried, site = carried_parts(folder, timeout_seconds), parts_site(**values)
    helm = binaries.ensure("helm")
    wanted = carried.stack.secrets_at(site.spec_mapping())
    with work_dir() as work, hold(operator, work, silent) as held:
        cluster = held.cluster
        ensure_namespaces(cluster, carried.stack.namespaces)
        secrets.ensure_secrets(cluster, wanted, site.name)
        certificates.renew(cluster, certificates.due(cluster, wanted))
        inventory = read_inventory(cluster)
        plan = make_plan(cluster, carried, site, helm, inventory)
        journal = Journal.open(cluster, _account(carried, plan, site), held.epoch)
        releases = HelmReleases(helm, held.kubeconfig, work)
        deploy_levels(Deployment(cluster, releases, journal, 1, inventory, silent), plan.levels)
        certificates.restart(cluster, certificates.behind(cluster, wanted), silent, "deploy")
        journal.commit()
    return plan


def _account(carried: Carried, plan: Plan, site: Site) -> Account:
    return Account(
        plan.generation,
        str(plan.manifest_digest),
        "parts",
        "demo",
        namespaces=[namespace.name for namespace in carried.stack.namespaces],
        site=site.as_mapping(),
        stack=carried.stack.model_dump(mode="json", by_alias=True),
    )


def plan_of_parts(operator: Cluster, folder: Path, **values: Any) -> Plan:
    """What an install would do."""
    carried = carried_parts(folder)
    return make_plan(operator, carried, parts_site(**values), binaries.ensure("helm"), read_inventory(operator))


def remove_parts(operator: Cluster) -> None:
    """Nothing of the release is left; the secrets stay."""
    with work_dir() as work, hold(operator, work, silent) as held:
        helm = HelmReleases(binaries.ensure("helm"), held.kubeconfig, work)
        for record in read_inventory(held.cluster).values():
            remove_release(held.cluster, helm, record, 60)

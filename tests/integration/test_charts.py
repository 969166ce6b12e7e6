"""Every chart rendered by the real helm in every profile, and what must hold for whatever comes out.

Image contracts are held against what the charts ask of images. What HAProxy and Synapse make of their configuration
is in test_routing.py and test_synapse_configuration.py.
"""

import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from shipped_stack import (
    DIGEST,
    KUBE_VERSION,
    MANIFESTS,
    PULL_SECRET,
    configuration_files,
    named,
    rendered,
    rendered_text,
    stack,
    values_of,
)

from darksite import binaries
from sitebundle.errors import RenderFailed
from sitebundle.helm import Helm
from sitebundle.operands import read_operands
from sitebundle.podspecs import containers, pod_specs
from sitebundle.rendering import Sources, render

CHARTS = [release.name for release in stack().releases if release.chart is not None]
FOUNDATION = "foundation"
"""Rules for other namespaces, and no pods."""
CASES = [(release, profile) for release in CHARTS for profile in stack().profiles]
DEMO_CPU, DEMO_MEMORY_BYTES = 1.5, 6 << 30
OPERATOR_CPU, OPERATOR_MEMORY_BYTES = 0.1, 100 << 20
"""What CloudNativePG's published Deployment asks for."""

everywhere = pytest.mark.parametrize(("release", "profile"), CASES)


def workloads(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Pods as the charts write them. A Pooler's is finished by the operator: test_postgres_chart.py."""
    for entry in (entry for entry in objects if entry["kind"] != "Pooler"):
        for pod, _ in pod_specs(entry):
            yield f"{entry['kind']}/{entry['metadata']['name']}", entry, pod


@everywhere
def test_two_renders_are_the_same_bytes(release: str, profile: str) -> None:
    assert rendered_text(release, profile) == rendered_text(release, profile)


@everywhere
def test_each_image_is_pinned_rewritten_and_pulled_only_when_it_is_missing(release: str, profile: str) -> None:
    objects = rendered(release, profile)
    seen = 0
    for name, _, pod in workloads(objects):
        assert {"name": PULL_SECRET} in pod["imagePullSecrets"], name
        for container, _ in containers(pod):
            seen += 1
            assert container["image"].startswith("registry.example.site:5000/mx/"), name
            assert container["image"].endswith(f"@{DIGEST}"), name
            assert container["imagePullPolicy"] == "IfNotPresent", name
    for cluster in (entry for entry in objects if entry["kind"] == "Cluster"):
        seen += 1
        assert cluster["spec"]["imageName"].endswith(f"@{DIGEST}")
        assert cluster["spec"]["imagePullSecrets"] == [{"name": PULL_SECRET}]
        assert cluster["spec"]["imagePullPolicy"] == "IfNotPresent"
    assert seen or release == FOUNDATION
    without_pins = rendered_text(release, profile).replace(f"@{DIGEST}", "")
    assert "sha256:" not in without_pins


@everywhere
def test_each_container_can_do_no_more_than_run(release: str, profile: str) -> None:
    for name, _, pod in workloads(rendered(release, profile)):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        assert not any("hostPath" in volume for volume in pod["volumes"]), name
        for container, _ in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name


@everywhere
def test_each_pod_runs_as_the_user_that_its_image_promises(release: str, profile: str) -> None:
    promised = {}
    # By the stack's key: the contract of a derived image is that of its base.
    for key, reference in stack().images.items():
        contract = tomllib.loads((MANIFESTS / "images" / f"{key}.toml").read_text())
        promised[f"/mx/{reference}@"] = contract["process"]["uid"]
    for name, _, pod in workloads(rendered(release, profile)):
        for container, _ in containers(pod):
            (uid,) = (uid for part, uid in promised.items() if part in container["image"])
            assert pod["securityContext"]["runAsUser"] == uid, name


@everywhere
def test_each_container_has_requests_a_memory_limit_and_lenient_probes(release: str, profile: str) -> None:
    for name, entry, pod in workloads(rendered(release, profile)):
        assert pod["terminationGracePeriodSeconds"] <= 60, name
        for container, place in containers(pod):
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
            assert "memory" in container["resources"]["limits"], name
            if place.startswith("initContainers") or entry["kind"] == "Job":
                continue
            startup, liveness = container["startupProbe"], container["livenessProbe"]
            assert startup["periodSeconds"] * startup["failureThreshold"] >= 60, name
            assert liveness["timeoutSeconds"] >= 12, name
            assert "readinessProbe" in container, name


@everywhere
def test_each_workload_has_its_own_disruption_budget_that_lets_a_drain_through(release: str, profile: str) -> None:
    objects = rendered(release, profile)
    budgets = [entry["spec"] for entry in objects if entry["kind"] == "PodDisruptionBudget"]
    for name, entry, _ in workloads(objects):
        if entry["kind"] == "Job":
            continue
        selector = entry["spec"]["selector"]
        assert [budget for budget in budgets if budget["selector"] == selector] == [
            {"maxUnavailable": 1, "selector": selector}
        ], name
        labels = entry["spec"]["template"]["metadata"]["labels"]
        assert selector["matchLabels"].items() <= labels.items(), name


@pytest.mark.parametrize("release", CHARTS)
def test_a_new_chart_version_changes_nothing(release: str, tmp_path: Path) -> None:
    changed = shutil.copytree(MANIFESTS / "charts" / release, tmp_path / release)
    chart = changed / "Chart.yaml"
    chart.write_text(re.sub(r"^version: .*$", "version: 99.98.97", chart.read_text(), flags=re.M))
    entry = stack().release(release)
    helm = Helm(binaries.ensure("helm"))
    text = helm.template(changed, entry.name, entry.namespace, values_of(release, "demo"), KUBE_VERSION)
    assert "99.98.97" in chart.read_text()
    assert text == rendered_text(release, "demo")


@everywhere
def test_a_release_holds_no_crd_no_secret_and_no_hook_but_the_check_of_the_configuration(
    release: str, profile: str
) -> None:
    for entry in rendered(release, profile):
        assert entry["kind"] not in ("CustomResourceDefinition", "Secret")
        if "helm.sh/hook" in str(entry["metadata"].get("annotations")):
            assert entry["kind"] in ("ConfigMap", "Job")
            assert entry["metadata"]["name"] == "synapse-check-config"
        if release != FOUNDATION:
            assert entry["metadata"]["namespace"] == stack().release(release).namespace


def drawn(folder: Path, place: str, content: str) -> list[dict[str, Any]]:
    """What a chart of one file renders to."""
    chart = folder / "foreign"
    (chart / place).parent.mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: foreign\nversion: 0.1.0\n")
    (chart / place).write_text(content)
    entry = stack().release(CHARTS[0])
    sources, helm = Sources(charts={entry.name: chart}), Helm(binaries.ensure("helm"))
    return render(stack(), entry, sources, {}, helm, KUBE_VERSION, str, read_operands(MANIFESTS / "operands"))


def test_a_crd_that_helm_would_delete_with_its_release_is_refused(tmp_path: Path) -> None:
    crd = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: things.example.org}\n"
    assert [entry["kind"] for entry in drawn(tmp_path / "kept", "crds/things.yaml", crd)] == [
        "CustomResourceDefinition"
    ]
    with pytest.raises(RenderFailed, match=r"foreign/templates/things\.yaml makes a CustomResourceDefinition"):
        drawn(tmp_path / "deleted", "templates/things.yaml", crd)


@everywhere
def test_the_secrets_that_pods_mount_are_made_by_the_installer(release: str, profile: str) -> None:
    namespace = stack().release(release).namespace
    made = {plan.name for plan in stack().secrets if namespace in plan.namespaces}
    for _, _, pod in workloads(rendered(release, profile)):
        wanted = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
        assert wanted <= made


def test_the_demonstration_fits_a_machine_with_two_cores() -> None:
    cpu, memory_bytes = OPERATOR_CPU, float(OPERATOR_MEMORY_BYTES)
    for release in CHARTS:
        objects = rendered(release, "demo")
        for _, entry, pod in workloads(objects):
            for container, place in containers(pod):
                if not place.startswith("initContainers") and entry["kind"] != "Job":
                    cpu += entry["spec"]["replicas"] * _quantity(container["resources"]["requests"]["cpu"])
                    memory_bytes += entry["spec"]["replicas"] * _quantity(container["resources"]["requests"]["memory"])
        for instances, requests in _of_the_database(objects):
            cpu += instances * _quantity(requests["cpu"])
            memory_bytes += instances * _quantity(requests["memory"])
    assert 0.5 < cpu <= DEMO_CPU
    assert memory_bytes <= DEMO_MEMORY_BYTES


def _of_the_database(objects: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """How many pods of PostgreSQL, of its sidecars and of the pooler ask for how much."""
    for entry in objects:
        spec = entry.get("spec", {})
        if entry["kind"] == "Cluster":
            yield spec["instances"], spec["resources"]["requests"]
            (store,) = (other["spec"] for other in objects if other["kind"] == "ObjectStore")
            yield spec["instances"], store["instanceSidecarConfiguration"]["resources"]["requests"]
        elif entry["kind"] == "Pooler":
            (container,) = spec["template"]["spec"]["containers"]
            yield spec["instances"], container["resources"]["requests"]


def _quantity(text: str | float) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)(m|Mi|Gi)?", str(text)).groups()  # type: ignore[union-attr]
    return float(number) * {"m": 0.001, "Mi": 1 << 20, "Gi": 1 << 30, None: 1}[unit]


def test_the_storage_class_of_the_site_reaches_volumes() -> None:
    assert named(rendered("postgres", "demo"), "Cluster", "postgres")["spec"]["storage"]["storageClass"] == "fast"
    media = named(rendered("synapse", "demo"), "StatefulSet", "synapse-media-repository")
    assert media["spec"]["volumeClaimTemplates"][0]["spec"]["storageClassName"] == "bulk"


# --- Synapse --------------------------------------------------------------------------------------------------


def homeserver(objects: list[dict[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(configuration_files(objects)["homeserver.yaml"])
    return content


@pytest.mark.parametrize("profile", stack().profiles)
def test_each_writer_of_a_stream_can_be_reached_by_the_others(profile: str) -> None:
    objects = rendered("synapse", profile)
    shared = homeserver(objects)
    services = {
        f"{entry['metadata']['name']}.{entry['metadata']['namespace']}.svc.cluster.local": entry["spec"]
        for entry in objects
        if entry["kind"] == "Service"
    }
    persisters = values_of("synapse", profile)["workers"]["event-persister"]["replicas"]
    assert shared["stream_writers"]["events"] == [f"synapse-event-persister-{n}" for n in range(persisters)]
    writers = {name for names in shared["stream_writers"].values() for name in names} - {"master"}
    assert writers <= set(shared["instance_map"])
    for name, place in shared["instance_map"].items():
        pod, _, service = place["host"].partition(".")
        assert pod == ("synapse-main-0" if name == "main" else name)
        assert place["port"] in [port["port"] for port in services[service]["ports"]]
        owner = named(objects, "StatefulSet", pod.rpartition("-")[0])
        assert int(pod.rpartition("-")[2]) < owner["spec"]["replicas"]
        assert owner["spec"]["serviceName"] == service.split(".")[0]


@pytest.mark.parametrize("profile", stack().profiles)
def test_all_processes_together_cannot_use_up_the_connections_of_the_database(profile: str) -> None:
    objects = rendered("synapse", profile)
    config = configuration_files(objects)
    open_at_most = 0
    for entry in (entry for entry in objects if entry["kind"] == "StatefulSet"):
        own = yaml.safe_load(config[entry["metadata"]["name"].removeprefix("synapse-") + ".yaml"])
        open_at_most += entry["spec"]["replicas"] * own["database"]["args"]["cp_max"]
    cluster = named(rendered("postgres", profile), "Cluster", "postgres")
    reserve = values_of("synapse", profile)["database"]["reserve"]
    assert 0 < open_at_most <= int(cluster["spec"]["postgresql"]["parameters"]["max_connections"]) - reserve


def test_nothing_in_the_configuration_asks_the_internet() -> None:
    shared = homeserver(rendered("synapse", "demo"))
    assert shared["report_stats"] is False
    assert shared["trusted_key_servers"] == []
    assert shared["federation_domain_whitelist"] == []
    assert shared["url_preview_enabled"] is False


def test_no_secret_stands_in_a_config_map() -> None:
    text = str(configuration_files(rendered("synapse", "demo")))
    for key in ("registration_shared_secret:", "macaroon_secret_key:", "form_secret:", "worker_replication_secret:"):
        assert key not in text
    assert "password:" not in text


def test_main_serves_media_when_no_worker_does() -> None:
    objects = rendered("synapse", "demo", {"workers": {"media-repository": {"replicas": 0}}})
    shared = homeserver(objects)
    main = yaml.safe_load(configuration_files(objects)["main.yaml"])
    assert shared["enable_media_repo"] is True
    assert "media" in main["listeners"][0]["resources"][0]["names"]
    mounts = named(objects, "StatefulSet", "synapse-main")["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert {"name": "media", "mountPath": "/media"} in mounts
    assert "media-repository" not in named(objects, "ConfigMap", "synapse-routing")["data"]["path.map"]


def test_a_type_without_workers_leaves_no_trace() -> None:
    workers = {name: {"replicas": 0} for name in values_of("synapse", "demo")["workers"]}
    objects = rendered("synapse", "demo", {"workers": workers})
    assert [entry["metadata"]["name"] for entry in objects if entry["kind"] == "StatefulSet"] == ["synapse-main"]
    shared = homeserver(objects)
    assert shared["stream_writers"] == {}
    assert list(shared["instance_map"]) == ["main"]
    routing = named(objects, "ConfigMap", "synapse-routing")["data"]
    assert {line.split()[1] for line in routing["path.map"].splitlines()} == {"main"}


def pod_hashes(objects: list[dict[str, Any]]) -> dict[str, str]:
    return {
        entry["metadata"]["name"]: entry["spec"]["template"]["metadata"]["annotations"]["mxbundle.io/config-hash"]
        for entry in objects
        if entry["kind"] in ("StatefulSet", "Deployment")
    }


def test_a_new_writer_rolls_every_process_for_each_must_know_it() -> None:
    before = pod_hashes(rendered("synapse", "demo"))
    after = pod_hashes(rendered("synapse", "demo", {"workers": {"event-persister": {"replicas": 3}}}))
    assert {name for name in before if before[name] != after[name]} == set(before) - {"routing"}


def test_a_new_synchrotron_rolls_the_routing_tier_only() -> None:
    before = pod_hashes(rendered("synapse", "demo"))
    after = pod_hashes(rendered("synapse", "demo", {"workers": {"synchrotron": {"replicas": 3}}}))
    assert {name for name in before if before[name] != after[name]} == {"routing"}


def test_the_upload_limit_is_one_value() -> None:
    objects = rendered("synapse", "demo", {"maxUploadMiB": 7})
    assert homeserver(objects)["max_upload_size"] == "7M"
    assert f"gt {7 << 20} " in named(objects, "ConfigMap", "synapse-routing")["data"]["haproxy.cfg"]


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ({"workers": {"synchrotron": {"replicas": 40}}}, ["may open", "raise maxConnections"]),
        (
            {"workers": {"media-repository": {"replicas": 2}}},
            ["workers.media-repository.replicas: at most one may run"],
        ),
        ({"config": {"instance_map": {}}}, ["config.instance_map: the chart derives it"]),
        (
            {"serverName": "", "workers": {"media-repository": {"replicas": 2}}},
            ["serverName is empty", "at most one may run"],
        ),
        ({"workers": {"synchrotrons": {"replicas": 1}}}, ["synchrotrons"]),
        ({"routing": {"answerSeconds": 30}}, ["answerSeconds"]),
    ],
)
def test_values_that_do_not_fit_are_all_named_at_once(over: dict[str, Any], told: list[str]) -> None:
    with pytest.raises(RenderFailed) as failure:
        rendered("synapse", "demo", over)
    for words in told:
        assert words in str(failure.value)

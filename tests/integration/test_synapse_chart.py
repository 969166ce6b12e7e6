"""What the synapse chart makes of its workers table and switches: processes, who writes what, scaling, refusals.

What real Synapse makes of the files is in test_synapse_configuration.py, what holds for every chart in test_charts.py.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from mxinstall.site.model import Federation
from shipped_stack import KUBE_VERSION, MANIFESTS, configuration_files, named, pinned, rendered, stack, values_of

from darksite import binaries
from sitebundle.errors import RenderFailed
from sitebundle.helm import Helm
from sitebundle.rendering import values_for

CHART = MANIFESTS / "charts/synapse"
TYPES: dict[str, dict[str, Any]] = {
    entry["name"]: entry for entry in yaml.safe_load((CHART / "files/worker-types.yaml").read_text())
}
WRITERS = {
    "typing": "typing",
    "to_device": "to-device",
    "account_data": "account-data",
    "receipts": "receipts",
    "presence": "presence",
    "push_rules": "push-rules",
    "device_lists": "device-lists",
    "thread_subscriptions": "account-data",
}
FEDERATED = {
    "federation": {"enabled": True, "allow": ["other.example", "third.example:8448"]},
    "workers": {
        "federation-inbound": {"replicas": 1},
        "federation-reader": {"replicas": 1},
        "federation-sender": {"replicas": 2},
    },
}


def configuration(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """Each file of the configuration, read."""
    data = configuration_files(objects)
    return {name: yaml.safe_load(text) for name, text in data.items() if name.endswith(".yaml")}


def shared(over: dict[str, Any] | None = None, profile: str = "demo") -> dict[str, Any]:
    content: dict[str, Any] = configuration(rendered("synapse", profile, over))["homeserver.yaml"]
    return content


def processes(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """StatefulSets by type."""
    return {
        entry["metadata"]["name"].removeprefix("synapse-"): entry for entry in objects if entry["kind"] == "StatefulSet"
    }


def resources(objects: list[dict[str, Any]], process: str) -> list[str]:
    """What that process offers on its client port."""
    content = configuration(objects)[f"{process}.yaml"]
    listeners = content["listeners" if process == "main" else "worker_listeners"]
    return [name for entry in listeners if entry["port"] == 8008 for name in entry["resources"][0]["names"]]


def refusal(over: dict[str, Any], profile: str = "demo") -> str:
    with pytest.raises(RenderFailed) as failure:
        rendered("synapse", profile, over)
    return str(failure.value)


# --- who does what --------------------------------------------------------------------------------------------------


def test_the_demonstration_runs_every_type_that_it_can() -> None:
    running = processes(rendered("synapse", "demo"))
    absent = {"sso-login", "federation-inbound", "federation-reader", "federation-sender"}
    assert set(running) == {"main"} | set(TYPES) - absent
    assert {name for name, entry in running.items() if entry["spec"]["replicas"] == 2} == {
        "synchrotron",
        "event-persister",
    }


def test_each_stream_leaves_main_with_its_worker() -> None:
    writers = shared()["stream_writers"]
    assert {stream: names for stream, names in writers.items() if stream in WRITERS} == {
        stream: [f"synapse-{kind}-0"] for stream, kind in WRITERS.items()
    }


def test_each_duty_has_one_worker_and_goes_back_to_main_without_it() -> None:
    duties = {
        "run_background_tasks_on": "synapse-background-0",
        "notify_appservices_from_worker": "synapse-background-0",
        "update_user_directory_from_worker": "synapse-user-dir-0",
        "pusher_instances": ["synapse-pusher-0"],
        "media_instance_running_background_jobs": "synapse-media-repository-0",
    }
    content = shared()
    assert {key: content.get(key) for key in duties} == duties
    none = {"workers": {name: {"replicas": 0} for name in ("background", "user-dir", "pusher", "media-repository")}}
    assert set(duties) & set(shared(none)) == set()
    assert shared({"workers": {"user-dir": {"replicas": 0}}})["update_user_directory_from_worker"] == (
        "synapse-background-0"
    )


def test_one_worker_may_write_several_streams_and_gets_their_requests() -> None:
    over = {
        "workers": {
            "typing": {"replicas": 0},
            "account-data": {"replicas": 0},
            "event-persister": {"replicas": 1, "streams": ["typing"]},
            "receipts": {"replicas": 1, "streams": ["account_data", "thread_subscriptions"]},
        }
    }
    objects = rendered("synapse", "demo", over)
    writers = configuration(objects)["homeserver.yaml"]["stream_writers"]
    assert writers["typing"] == writers["events"] == ["synapse-event-persister-0"]
    assert writers["account_data"] == writers["thread_subscriptions"] == writers["receipts"] == ["synapse-receipts-0"]
    # The persister alone is asked nothing by clients; now it is.
    assert resources(objects, "event-persister") == ["client"]
    assert resources(rendered("synapse", "demo"), "event-persister") == []
    routes = dict(
        line.split(" ")
        for line in named(objects, "ConfigMap", "synapse-routing")["data"]["path.map"].splitlines()
        if line
    )
    for kind, writer in (("account-data", "receipts"), ("typing", "event-persister")):
        patterns = [path for route in TYPES[kind]["routes"] for path in route["paths"]]
        assert {routes[pattern].split("-by-")[0] for pattern in patterns} <= {writer}
    assert routes[r"^/_matrix/client/unstable/io.element.msc4308/thread_subscriptions$"] == "receipts"


def test_presence_is_one_switch() -> None:
    on, off = rendered("synapse", "demo"), rendered("synapse", "demo", {"presence": {"enabled": False}})
    assert "presence" in processes(on)
    assert "presence" not in processes(off)
    assert configuration(off)["homeserver.yaml"]["presence"] == {"enabled": False}
    assert "presence" not in configuration(off)["homeserver.yaml"]["stream_writers"]
    assert shared({}, "small")["presence"] == {"enabled": False}


# --- federation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", stack().profiles)
def test_without_federation_nobody_is_talked_to_and_openid_still_works(profile: str) -> None:
    over = {"workers": FEDERATED["workers"]}
    objects = rendered("synapse", profile, over)
    content = configuration(objects)["homeserver.yaml"]
    assert content["federation_domain_whitelist"] == []
    assert content["trusted_key_servers"] == []
    assert "federation_sender_instances" not in content
    assert not [name for name in processes(objects) if name.startswith("federation-")]
    assert "openid" in resources(objects, "main")
    assert not [name for name in processes(objects) if "federation" in resources(objects, name)]


def test_with_federation_the_named_servers_are_talked_to_by_workers_of_its_own() -> None:
    objects = rendered("synapse", "demo", FEDERATED)
    content = configuration(objects)["homeserver.yaml"]
    assert content["federation_domain_whitelist"] == ["other.example", "third.example:8448"]
    assert content["trusted_key_servers"] == []
    assert content["federation_custom_ca_list"] == ["/secrets/ca/ca.crt"]
    assert content["federation_sender_instances"] == ["synapse-federation-sender-0", "synapse-federation-sender-1"]
    assert resources(objects, "main") == ["client", "federation"]
    assert resources(objects, "federation-inbound") == resources(objects, "federation-reader") == ["federation"]
    assert resources(objects, "media-repository") == ["client", "media", "federation"]
    assert resources(objects, "federation-sender") == []


def test_every_server_is_talked_to_only_when_that_is_said() -> None:
    everyone = {**FEDERATED, "federation": {"enabled": True, "allow": ["*"]}}
    assert "federation_domain_whitelist" not in shared(everyone)
    assert "federation.allow is empty" in refusal({"federation": {"enabled": True}})


def test_the_switch_of_site_yaml_reaches_synapse() -> None:
    assert stack().release("synapse").site["federation.enabled"] == "federation.enabled"
    given = {"enabled": True, "allow": ["*"], "port": 8448, "peerPorts": [7443], "allowedAddresses": ["10.20.0.0/16"]}
    plan = Federation.model_validate(given).model_dump(mode="json", by_alias=True)
    values = values_for(stack(), stack().release("synapse"), "demo", MANIFESTS, pinned, {"federation": plan})
    assert values["federation"] == {key: given[key] for key in ("enabled", "allow", "port", "peerPorts")}
    assert values["allowedAddresses"] == ["10.20.0.0/16"]


# --- scaling and restarts -------------------------------------------------------------------------------------------


def together(objects: list[dict[str, Any]]) -> set[str]:
    return {entry["metadata"]["annotations"]["mxbundle.io/stop-together"] for entry in processes(objects).values()}


@pytest.mark.parametrize(
    ("over", "stops"),
    [
        ({"workers": {"event-persister": {"replicas": 3}}}, True),
        ({"workers": {"pusher": {"replicas": 2}}}, True),
        ({"workers": {"background": {"replicas": 0}}}, True),
        ({"workers": {"receipts": {"replicas": 2}}}, True),
        ({"workers": {"user-dir": {"replicas": 0}}}, True),
        (FEDERATED, True),
        # Streams of two databases must never meet in running processes.
        ({"database": {"host": "postgres-restored-pooler.matrix-data.svc.cluster.local"}}, True),
        ({"workers": {"synchrotron": {"replicas": 3}}}, False),
        ({"workers": {"client-reader": {"replicas": 0}}}, False),
        ({"logLevel": "WARNING"}, False),
        ({"workers": {"typing": {"replicas": 1, "connections": {"max": 3}}}}, False),
    ],
    ids=lambda value: str(value)[:60],
)
def test_all_stop_together_exactly_when_the_set_that_configuration_names_changes(
    over: dict[str, Any], stops: bool
) -> None:
    (before,), (after,) = together(rendered("synapse", "demo")), together(rendered("synapse", "demo", over))
    assert (before != after) is stops


def test_processes_are_rolled_main_first_then_writers_then_readers() -> None:
    waves: dict[str, set[str]] = {}
    for name, entry in processes(rendered("synapse", "demo")).items():
        waves.setdefault(entry["metadata"]["annotations"]["mxbundle.io/wave"], set()).add(name)
        # A wave's number on pods would restart them when it changes; what main does at its start is the same for ever.
        on_pods = set(entry["spec"]["template"]["metadata"]["annotations"])
        assert on_pods - {"mxbundle.io/starting"} == {"mxbundle.io/config-hash"}
    writers = {*WRITERS.values(), "event-persister", "media-repository"}
    assert waves["0"] == {"main"}
    assert waves["1"] == writers
    assert waves["2"] == set(processes(rendered("synapse", "demo"))) - writers - {"main"}


def test_a_type_that_no_configuration_names_scales_by_itself() -> None:
    over = {"workers": {"synchrotron": {"replicas": 2, "autoscaling": {"maximum": 5, "cpuPercent": 70}}}}
    objects = rendered("synapse", "demo", over)
    (scaler,) = (entry for entry in objects if entry["kind"] == "HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] == "synapse-synchrotron"
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 5)
    # Nothing sets what the autoscaler decides, and the tier knows each process that may come.
    assert "replicas" not in processes(objects)["synchrotron"]["spec"]
    assert "synapse-synchrotron-4." in named(objects, "ConfigMap", "synapse-routing")["data"]["haproxy.cfg"]
    assert together(objects) == together(rendered("synapse", "demo"))


@pytest.mark.parametrize("kind", sorted(name for name, entry in TYPES.items() if not entry.get("elastic")))
def test_a_type_that_configuration_names_is_never_scaled_by_itself(kind: str) -> None:
    said = refusal({"workers": {kind: {"replicas": 1, "autoscaling": {"maximum": 2, "cpuPercent": 70}}}})
    assert "autoscaling" in said


def test_the_connections_of_every_process_that_may_come_are_counted() -> None:
    most = {"workers": {"synchrotron": {"replicas": 2, "autoscaling": {"maximum": 90, "cpuPercent": 70}}}}
    assert "may open" in refusal(most)


def test_hard_spread_holds_for_the_core_only() -> None:
    objects = rendered("synapse", "20k")
    hard = {
        name
        for name, entry in processes(objects).items()
        for constraint in entry["spec"]["template"]["spec"]["topologySpreadConstraints"]
        if constraint["whenUnsatisfiable"] == "DoNotSchedule"
    }
    assert hard == {"main", "event-persister", *WRITERS.values()} - {"presence"}


def test_the_core_is_more_important_than_other_workers() -> None:
    objects = rendered("synapse", "demo", {"priorityClasses": {"core": "mx-core", "workers": "mx-workers"}})
    core = {"main", "event-persister", *WRITERS.values()}
    for name, entry in processes(objects).items():
        wanted = "mx-core" if name in core else "mx-workers"
        assert entry["spec"]["template"]["spec"]["priorityClassName"] == wanted, name
    assert named(objects, "Deployment", "routing")["spec"]["template"]["spec"]["priorityClassName"] == "mx-core"
    for entry in processes(rendered("synapse", "demo", {"priorityClasses": {"core": "", "workers": ""}})).values():
        assert "priorityClassName" not in entry["spec"]["template"]["spec"]


# --- media, monitoring, the check ----------------------------------------------------------------------------------

S3 = {"media": {"s3": {"endpoint": "https://s3.example.site", "bucket": "media", "secret": "media-s3"}}}


def test_uploads_are_in_the_object_store_before_they_are_acknowledged() -> None:
    objects = rendered("synapse", "demo", S3)
    (store,) = configuration(objects)["media-repository.yaml"]["media_storage_providers"]
    assert (store["store_synchronous"], store["store_local"], store["store_remote"]) == (True, True, True)
    assert store["config"] == {
        "endpoint_url": "https://s3.example.site",
        "bucket": "media",
        "region_name": "us-east-1",
    }
    holders = {
        name
        for name, entry in processes(objects).items()
        for volume in entry["spec"]["template"]["spec"]["volumes"]
        if volume["name"] == "s3"
    }
    assert holders == {"media-repository"}
    assert "media_storage_providers" not in str(configuration(rendered("synapse", "demo")))


def test_prometheus_gets_the_labels_that_the_dashboards_of_synapse_ask_for() -> None:
    assert not [entry for entry in rendered("synapse", "demo") if entry["kind"] == "ServiceMonitor"]
    on = {"monitoring": {"serviceMonitors": True, "labels": {"release": "monitoring"}}}
    objects = rendered("synapse", "demo", on)
    monitor = named(objects, "ServiceMonitor", "synapse")
    assert monitor["metadata"]["labels"]["release"] == "monitoring"
    (endpoint,) = monitor["spec"]["endpoints"]
    assert {rule["targetLabel"] for rule in endpoint["relabelings"]} == {"instance", "job", "index"}
    chosen = monitor["spec"]["selector"]["matchLabels"].items()
    services = [e for e in objects if e["kind"] == "Service" and chosen <= e["metadata"]["labels"].items()]
    assert len(services) == len(processes(objects))
    for service in services:
        assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]


def mounted(objects: list[dict[str, Any]]) -> dict[str, set[str]]:
    """The ConfigMaps that each type's pods mount."""
    return {
        name: {
            source["configMap"]["name"]
            for volume in entry["spec"]["template"]["spec"]["volumes"]
            for source in volume.get("projected", {}).get("sources", [volume])
            if "configMap" in source
        }
        for name, entry in processes(objects).items()
    }


def test_a_pod_that_starts_anew_in_the_middle_of_a_change_finds_the_configuration_that_it_had() -> None:
    before, after = rendered("synapse", "demo"), rendered("synapse", "demo", {"maxUploadMiB": 7})
    contents: dict[str, dict[str, str]] = {}
    for entry in (entry for entry in [*before, *after] if entry["kind"] == "ConfigMap"):
        if "helm.sh/hook" not in entry["metadata"].get("annotations", {}):
            # What stood under a name once stands there for good, and a newer release does not take it away.
            assert contents.setdefault(entry["metadata"]["name"], entry["data"]) == entry["data"]
    for entry in (entry for entry in before if entry["kind"] == "ConfigMap" and entry.get("immutable")):
        assert entry["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    old, new = mounted(before), mounted(after)
    for name, sources in old.items():
        assert {file for source in sources for file in contents[source]} == {
            *("homeserver.yaml", "log.yaml", "configure.py", f"{name}.yaml")
        }
        assert sources != new[name]


def test_a_change_of_one_type_gives_no_other_type_a_new_configuration() -> None:
    before = mounted(rendered("synapse", "demo"))
    after = mounted(rendered("synapse", "demo", {"workers": {"typing": {"connections": {"max": 3}}}}))
    assert {name for name in before if before[name] != after[name]} == {"typing"}


def test_prometheus_finds_every_replica_of_haproxy_at_the_port_of_its_metrics() -> None:
    objects = rendered(
        "synapse", "demo", {"monitoring": {"serviceMonitors": True, "labels": {"release": "monitoring"}}}
    )
    monitor = named(objects, "ServiceMonitor", "synapse-routing")
    assert monitor["metadata"]["labels"]["release"] == "monitoring"
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["path"] == "/metrics"
    chosen = monitor["spec"]["selector"]["matchLabels"].items()
    scraped = {
        service["metadata"]["name"]: port
        for service in objects
        if service["kind"] == "Service" and chosen <= service["metadata"]["labels"].items()
        for port in service["spec"]["ports"]
        if port["name"] == endpoint["port"]
    }
    assert scraped == {"routing": {"name": "status", "port": 8405, "targetPort": "status"}}
    (container,) = named(objects, "Deployment", "routing")["spec"]["template"]["spec"]["containers"]
    assert {"name": "status", "containerPort": 8405} in container["ports"]


def test_what_is_checked_before_an_upgrade_is_what_the_processes_get() -> None:
    objects = rendered("synapse", "demo")
    checked = named(objects, "ConfigMap", "synapse-check-config")
    assert {key: text for key, text in checked["data"].items() if key != "check_config.py"} == (
        configuration_files(objects)
    )
    job = named(objects, "Job", "synapse-check-config")
    weights = []
    for entry in (checked, job):
        annotations = entry["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
        weights.append(int(annotations["helm.sh/hook-weight"]))
    assert weights == sorted(weights)
    assert len(set(weights)) == 2
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (other,) = processes(objects)["main"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == other["image"]


def test_a_value_of_the_operator_counts_even_when_it_is_false_or_empty() -> None:
    content = shared({"config": {"enable_metrics": False, "caches": {"per_cache_factors": {"x": 2}}}})
    assert content["enable_metrics"] is False
    assert content["caches"] == {"global_factor": 0.2, "per_cache_factors": {"x": 2}}


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["typing", "to-device", "account-data", "presence", "push-rules"])
def test_a_stream_with_exactly_one_writer_gets_no_second(kind: str) -> None:
    said = refusal({"workers": {kind: {"replicas": 2}}})
    assert f"workers.{kind}.replicas: exactly one may write {kind.replace('-', '_')}" in said


@pytest.mark.parametrize("kind", ["receipts", "device-lists", "event-persister"])
def test_a_stream_that_may_have_two_writers_gets_them(kind: str) -> None:
    writers = shared({"workers": {kind: {"replicas": 2}}})["stream_writers"]
    assert [f"synapse-{kind}-0", f"synapse-{kind}-1"] in writers.values()


@pytest.mark.parametrize("kind", ["media-repository", "sso-login", "background"])
def test_of_some_types_at_most_one_may_run(kind: str) -> None:
    assert f"workers.{kind}.replicas: at most one may run" in refusal({"workers": {kind: {"replicas": 2}}})


@pytest.mark.parametrize(
    ("over", "told"),
    [
        (
            {"workers": {"receipts": {"replicas": 1, "streams": ["typing"]}}},
            "typing is written by typing already",
        ),
        (
            {"workers": {"typing": {"replicas": 0}, "receipts": {"replicas": 2, "streams": ["typing"]}}},
            "workers.receipts.replicas: exactly one may write typing",
        ),
        ({"workers": {"synchrotron": {"replicas": 1, "streams": ["typing"]}}}, "streams"),
        ({"workers": {"receipts": {"replicas": 1, "streams": ["quarantined_media_changes"]}}}, "streams"),
        (
            {"workers": {"synchrotron": {"replicas": 3, "autoscaling": {"maximum": 2, "cpuPercent": 70}}}},
            "workers.synchrotron.autoscaling.maximum is below replicas",
        ),
        (
            {"workers": {"pusher": {"replicas": 1, "connections": {"min": 9}}}},
            "workers.pusher.connections: max is below",
        ),
        ({"federation": {"enabled": True, "allow": ["*", "other.example"]}}, 'federation.allow: "*" stands for every'),
        ({"federation": {"port": 443}}, "port"),
        ({"media": {"s3": {"endpoint": "https://s3.example.site"}}}, "media.s3.bucket is empty"),
        ({"media": {"s3": {"bucket": "media", "secret": "x"}}}, "media.s3.endpoint is empty"),
        ({"config": {"federation_domain_whitelist": ["x"]}}, "config.federation_domain_whitelist: the chart derives"),
        ({"config": {"pusher_instances": []}}, "config.pusher_instances: the chart derives it"),
        ({"config": {"registration_shared_secret": "x"}}, "config.registration_shared_secret: the chart derives it"),
        ({"rateLimits": {"rc_message": {"per_second": "many"}}}, "per_second"),
        ({"peerWaitSeconds": -1}, "peerWaitSeconds"),
        ({"allowedAddresses": ["everything"]}, "allowedAddresses"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_values_that_cannot_work_are_refused(over: dict[str, Any], told: str) -> None:
    assert told in refusal(over)


def test_a_release_whose_pods_could_not_be_named_is_refused() -> None:
    helm = Helm(binaries.ensure("helm"))
    helm.template(CHART, "r" * 32, "matrix", values_of("synapse", "demo"), KUBE_VERSION)
    with pytest.raises(RenderFailed, match="longer than 32"):
        helm.template(CHART, "r" * 33, "matrix", values_of("synapse", "demo"), KUBE_VERSION)


# --- plain helm -----------------------------------------------------------------------------------------------------


def test_plain_helm_needs_nothing_but_a_few_values(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(
        yaml.safe_dump(
            {
                "global": {"image": pinned("ghcr.io/element-hq/synapse:v1.162.0")},
                "routing": {"image": pinned("docker.io/library/haproxy:3.2.23-alpine")},
                "serverName": "example.site",
                "host": "matrix.example.site",
            }
        )
    )
    chart = shutil.copytree(CHART, tmp_path / "synapse")
    helm = binaries.ensure("helm")
    for arguments in (["lint", "--strict", str(chart)], ["template", "anyname", str(chart), "--namespace=chat"]):
        done = subprocess.run(
            [str(helm), *arguments, f"--values={values}", f"--kube-version={KUBE_VERSION}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    made = [entry for entry in yaml.safe_load_all(done.stdout) if entry]
    sets = sorted(entry["metadata"]["name"] for entry in made if entry["kind"] == "StatefulSet")
    assert sets == ["anyname-event-persister", "anyname-main", "anyname-synchrotron"]
    assert {entry["metadata"]["namespace"] for entry in made} == {"chat"}


# --- a start that takes long ----------------------------------------------------------------------------------


def startup_seconds(name: str, over: dict[str, Any] | None = None) -> int:
    pod = named(rendered("synapse", "small", over), "StatefulSet", name)["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    probe = container["startupProbe"]
    return int(probe["periodSeconds"]) * int(probe["failureThreshold"])


def test_no_probe_ends_a_migration_and_main_says_what_it_does_until_it_answers() -> None:
    assert startup_seconds("synapse-main") >= 12 * 3600
    assert startup_seconds("synapse-main", {"migrationSeconds": 7200}) == 7200
    assert startup_seconds("synapse-client-reader") == 300
    for name, told in (("synapse-main", True), ("synapse-client-reader", False)):
        template = named(rendered("synapse", "small"), "StatefulSet", name)["spec"]["template"]
        assert ("mxbundle.io/starting" in template["metadata"]["annotations"]) is told

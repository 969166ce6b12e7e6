"""The postgres chart rendered by the real helm: the Cluster, its pooler, its backups, and recovery by plain values."""

import re
from typing import Any

import pytest
import yaml
from shipped_stack import DIGEST, PULL_SECRET, configuration_files, named, rendered, stack, values_of

from sitebundle.errors import RenderFailed
from sitebundle.podspecs import containers, pod_specs

PLUGIN = "barman-cloud.cloudnative-pg.io"
NO_STORE = {"backup": {"endpoint": ""}}
RECOVERY = {
    "name": "postgres-restored",
    "recovery": {"source": "postgres", "targetTime": "2026-11-26T05:40:00Z"},
}

in_every_profile = pytest.mark.parametrize("profile", stack().profiles)


def certificate_names(secret: str) -> tuple[str, ...]:
    (plan,) = (plan for plan in stack().secrets if plan.name == secret)
    assert plan.certificate is not None
    return plan.certificate.dns


def pooler_of(profile: str, over: dict[str, Any] | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = named(rendered("postgres", profile, over), "Pooler", "postgres-pooler")["spec"]
    return spec


# --- the Cluster ----------------------------------------------------------------------------------------------


@in_every_profile
def test_a_commit_is_on_two_instances_and_synapse_finds_the_collation_it_needs(profile: str) -> None:
    spec = named(rendered("postgres", profile), "Cluster", "postgres")["spec"]
    assert spec["instances"] == 3
    assert spec["postgresql"]["synchronous"] == {
        "method": "any",
        "number": 1,
        "dataDurability": "required",
        "failoverQuorum": True,
    }
    initdb = spec["bootstrap"]["initdb"]
    assert (initdb["encoding"], initdb["localeCollate"], initdb["localeCType"]) == ("UTF8", "C", "C")
    assert spec["switchoverDelay"] <= 300  # seconds; a design once meant milliseconds
    assert spec["enablePDB"] is True
    assert spec["walStorage"]["storageClass"] == spec["storage"]["storageClass"] == "fast"
    assert spec["certificates"] == {
        "serverCASecret": "site-ca",
        "serverTLSSecret": "postgres-server-tls",
        "clientCASecret": "site-ca",
        "replicationTLSSecret": "postgres-replication-tls",
    }


@in_every_profile
@pytest.mark.parametrize(
    ("label", "expression"),
    [
        ("mxbundle.io/database", {"key": "mxbundle.io/database", "operator": "Exists"}),
        ("disk=fast", {"key": "disk", "operator": "In", "values": ["fast"]}),
    ],
)
def test_instances_go_to_the_nodes_that_the_site_labels_and_to_others_where_there_are_none(
    profile: str, label: str, expression: dict[str, Any]
) -> None:
    affinity = named(rendered("postgres", profile, {"nodeLabel": label}), "Cluster", "postgres")["spec"]["affinity"]
    assert affinity["nodeAffinity"] == {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "preference": {"matchExpressions": [expression]}}
        ]
    }
    assert affinity["tolerations"] == [{"key": expression["key"], "operator": "Exists", "effect": "NoSchedule"}]


def test_a_label_that_no_node_can_have_is_refused() -> None:
    with pytest.raises(RenderFailed, match="nodeLabel"):
        rendered("postgres", "demo", {"nodeLabel": "not a label"})


def test_helm_never_deletes_a_database() -> None:
    cluster = named(rendered("postgres", "demo"), "Cluster", "postgres")
    assert cluster["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_a_priority_class_is_a_value_and_none_by_default() -> None:
    plain = rendered("postgres", "demo", {"priorityClassName": ""})
    assert "priorityClassName" not in named(plain, "Cluster", "postgres")["spec"]
    objects = rendered("postgres", "demo", {"priorityClassName": "mx-data"})
    assert named(objects, "Cluster", "postgres")["spec"]["priorityClassName"] == "mx-data"
    assert named(objects, "Pooler", "postgres-pooler")["spec"]["template"]["spec"]["priorityClassName"] == "mx-data"


def test_what_is_scraped_is_said_by_pod_monitors_of_our_own() -> None:
    assert not [entry for entry in rendered("postgres", "demo") if entry["kind"] == "PodMonitor"]
    objects = rendered("postgres", "demo", {"monitoring": {"podMonitor": True, "labels": {"release": "watch"}}})
    for name, selected in (
        ("postgres", {"cnpg.io/cluster": "postgres", "cnpg.io/podRole": "instance"}),
        ("postgres-pooler", {"cnpg.io/poolerName": "postgres-pooler"}),
    ):
        monitor = named(objects, "PodMonitor", name)
        assert monitor["spec"]["selector"]["matchLabels"] == selected
        assert monitor["metadata"]["labels"]["release"] == "watch"
    assert "enablePodMonitor" not in str(objects)


# --- the pooler -----------------------------------------------------------------------------------------------


@in_every_profile
def test_the_pooler_is_pinned_apart_and_asks_for_what_it_needs(profile: str) -> None:
    spec = pooler_of(profile)
    assert spec["cluster"] == {"name": "postgres"}
    assert spec["type"] == "rw"
    image = spec["pgbouncer"]["image"]
    assert image.startswith("registry.example.site:5000/mx/ghcr.io/cloudnative-pg/pgbouncer:")
    assert image.endswith(f"@{DIGEST}")
    pod = spec["template"]["spec"]
    assert pod["imagePullSecrets"] == [{"name": PULL_SECRET}]
    (container,) = pod["containers"]
    assert (container["name"], container["imagePullPolicy"]) == ("pgbouncer", "IfNotPresent")
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]
    (apart,) = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["topologyKey"] == "kubernetes.io/hostname"
    # With one pod more than nodes apart from each other, no roll would ever end.
    assert spec["deploymentStrategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


@in_every_profile
def test_the_pooler_has_a_disruption_budget_that_lets_a_drain_through(profile: str) -> None:
    budget = named(rendered("postgres", profile), "PodDisruptionBudget", "postgres-pooler")["spec"]
    assert budget == {"maxUnavailable": 1, "selector": {"matchLabels": {"cnpg.io/poolerName": "postgres-pooler"}}}


@in_every_profile
def test_a_lost_pooler_pod_leaves_room_for_every_process_and_all_pods_fit_the_database(profile: str) -> None:
    values, spec = values_of("postgres", profile), pooler_of(profile)
    parameters = spec["pgbouncer"]["parameters"]
    size, pods = int(parameters["default_pool_size"]), spec["instances"]
    assert spec["pgbouncer"]["poolMode"] == "session"
    assert size * (pods - 1) >= values["clients"] > 0
    assert size * pods <= values["maxConnections"] - values["reserve"]
    assert int(parameters["max_client_conn"]) > values["clients"]


@in_every_profile
def test_the_processes_of_synapse_together_open_no_more_than_the_database_has_for_them(profile: str) -> None:
    objects = rendered("synapse", profile)
    config = configuration_files(objects)
    most = 0
    for entry in (entry for entry in objects if entry["kind"] == "StatefulSet"):
        own = yaml.safe_load(config[entry["metadata"]["name"].removeprefix("synapse-") + ".yaml"])
        most += entry["spec"]["replicas"] * own["database"]["args"]["cp_max"]
    assert 0 < most <= values_of("postgres", profile)["clients"]


@pytest.mark.parametrize(
    ("clients", "instances", "size"), [(120, 2, 120), (250, 3, 125), (251, 3, 126), (7, 4, 3), (6, 4, 2)]
)
def test_the_pool_is_rounded_up(clients: int, instances: int, size: int) -> None:
    spec = pooler_of("demo", {"clients": clients, "maxConnections": 600, "pooler": {"instances": instances}})
    assert spec["pgbouncer"]["parameters"]["default_pool_size"] == str(size)


def test_both_sides_of_the_pooler_are_verified_with_certificates_of_the_sites_ca() -> None:
    bouncer = pooler_of("demo")["pgbouncer"]
    assert bouncer["parameters"]["server_tls_sslmode"] == "verify-full"
    assert bouncer["parameters"]["client_tls_sslmode"] == "require"
    assert bouncer["serverCASecret"] == bouncer["clientCASecret"] == {"name": "site-ca"}
    assert "postgres-rw" in certificate_names("postgres-server-tls")  # the host that the operator writes
    assert "postgres-pooler.matrix-data.svc.cluster.local" in certificate_names(bouncer["clientTLSSecret"]["name"])
    (client,) = (plan for plan in stack().secrets if plan.name == bouncer["serverTLSSecret"]["name"])
    assert client.certificate is not None
    # The operator's rules of pg_hba.conf let in exactly this user by certificate.
    assert (client.certificate.common_name, client.certificate.usages) == ("cnpg_pooler_pgbouncer", ("client",))


def test_the_poolers_user_may_ask_for_one_hash_at_a_time_and_nothing_else() -> None:
    statements = named(rendered("postgres", "demo"), "Cluster", "postgres")["spec"]["bootstrap"]["initdb"][
        "postInitSQL"
    ]
    assert statements[0] == "CREATE ROLE cnpg_pooler_pgbouncer LOGIN"
    (function,) = (text for text in statements if text.startswith("CREATE FUNCTION"))
    assert "SECURITY DEFINER SET search_path = pg_catalog, pg_temp" in function
    assert "REVOKE ALL ON FUNCTION public.user_search(text) FROM public" in statements
    assert pooler_of("demo")["pgbouncer"]["authQuery"] == "SELECT usename, passwd FROM public.user_search($1)"


def test_synapse_verifies_the_name_that_it_connects_to_and_can_go_direct() -> None:
    pooled = values_of("synapse", "demo")["database"]["host"]
    assert pooled.split(".")[0] == "postgres-pooler"
    assert pooled in certificate_names("postgres-pooler-tls")
    assert pooled.replace("postgres-pooler", "postgres-rw") in certificate_names("postgres-server-tls")
    config = configuration_files(rendered("synapse", "demo"))
    arguments = yaml.safe_load(config["main.yaml"])["database"]["args"]
    assert (arguments["host"], arguments["sslmode"]) == (pooled, "verify-full")
    assert "options" not in arguments  # PgBouncer drops it without a word


def test_without_a_pooler_there_is_none() -> None:
    objects = rendered("postgres", "demo", {"pooler": {"enabled": False}})
    assert not [entry for entry in objects if entry["kind"] in ("Pooler", "PodDisruptionBudget")]


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"clients": 0}, "clients is not given"),
        ({"clients": 121}, r"2 pooler pods with 121 server connections each may open 242, .* is 240"),
        ({"pooler": {"instances": 3}, "clients": 161}, "3 pooler pods with 81 server connections each may open 243"),
        ({"pooler": {"enabled": False}, "clients": 241}, "clients is 241, and maxConnections - reserve is 240"),
        ({"pooler": {"image": ""}}, "pooler.image is empty"),
        ({"global": {"image": ""}}, "global.image is empty"),
        ({"synchronous": {"number": 3}}, "synchronous.number is 3, and there are 2 standbys"),
        ({"pooler": {"instances": 1}}, "instances"),
        ({"backup": {"schedule": "0 2 * * *"}}, "schedule"),
        ({"backup": {"retention": "thirty days"}}, "retention"),
        ({"backup": {"bucket": ""}}, "backup.bucket is empty"),
        ({"backup": {"secret": ""}}, "backup.secret is empty"),
        ({"recovery": {"targetTime": "2026-11-26T05:40:00Z"}}, "targetTime is given without recovery.source"),
        ({"recovery": {"source": "other", "targetTime": "yesterday"}}, "targetTime"),
        ({"recovery": {"source": "postgres"}}, "which is also the archive that this Cluster would write"),
        ({**RECOVERY, **NO_STORE}, "there is no archive to recover from"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_that_do_not_fit_are_refused_with_the_numbers(over: dict[str, Any], said: str) -> None:
    with pytest.raises(RenderFailed) as refusal:
        rendered("postgres", "demo", over)
    assert re.search(said, refusal.value.message), refusal.value.message


def test_direct_connections_need_no_second_pool() -> None:
    cluster = named(rendered("postgres", "demo", {"pooler": {"enabled": False}, "clients": 240}), "Cluster", "postgres")
    assert cluster["spec"]["postgresql"]["parameters"]["max_connections"] == "260"


# --- backups --------------------------------------------------------------------------------------------------


@in_every_profile
def test_the_log_and_a_daily_backup_go_to_the_store_that_site_yaml_names(profile: str) -> None:
    objects = rendered("postgres", profile)
    store = named(objects, "ObjectStore", "postgres-backup")["spec"]["configuration"]
    assert store["endpointURL"] == "https://backup.example.site"
    assert store["destinationPath"] == "s3://matrix/postgres"
    assert store["endpointCA"] == {"name": "backup-s3", "key": "ca.crt"}
    assert store["s3Credentials"] == {
        "accessKeyId": {"name": "backup-s3", "key": "accessKeyId"},
        "secretAccessKey": {"name": "backup-s3", "key": "secretAccessKey"},
    }
    assert named(objects, "Cluster", "postgres")["spec"]["plugins"] == [
        {
            "name": PLUGIN,
            "enabled": True,
            "isWALArchiver": True,
            "parameters": {"barmanObjectName": "postgres-backup", "serverName": "postgres"},
        }
    ]
    scheduled = named(objects, "ScheduledBackup", "postgres")["spec"]
    assert len(scheduled["schedule"].split()) == 6
    assert (scheduled["method"], scheduled["pluginConfiguration"]) == ("plugin", {"name": PLUGIN})
    assert (scheduled["backupOwnerReference"], scheduled["cluster"]) == ("cluster", {"name": "postgres"})


def test_the_secret_of_the_store_is_copied_to_where_the_chart_looks_for_it() -> None:
    (given,) = (given for given in stack().given_secrets if given.site == "backups.s3.secret")
    assert stack().release("postgres").namespace in given.namespaces
    assert set(given.keys) == {"accessKeyId", "secretAccessKey"}


def test_without_a_store_nothing_asks_for_the_plugin() -> None:
    objects = rendered("postgres", "demo", NO_STORE)
    assert not [entry for entry in objects if entry["kind"] in ("ObjectStore", "ScheduledBackup")]
    assert "plugins" not in named(objects, "Cluster", "postgres")["spec"]


# --- recovery -------------------------------------------------------------------------------------------------


def test_a_recovered_cluster_reads_one_archive_and_writes_another() -> None:
    objects = rendered("postgres", "demo", RECOVERY)
    spec = named(objects, "Cluster", "postgres-restored")["spec"]
    assert spec["bootstrap"] == {
        "recovery": {
            "source": "postgres",
            "database": "synapse",
            "owner": "synapse",
            "secret": {"name": "postgres-synapse"},
            "recoveryTarget": {"targetTime": "2026-11-26T05:40:00Z"},
        }
    }
    (external,) = spec["externalClusters"]
    assert external["name"] == external["plugin"]["parameters"]["serverName"] == "postgres"
    assert spec["plugins"][0]["parameters"]["serverName"] == "postgres-restored"
    assert named(objects, "Pooler", "postgres-restored-pooler")["spec"]["cluster"] == {"name": "postgres-restored"}
    assert named(objects, "ScheduledBackup", "postgres-restored")["spec"]["cluster"] == {"name": "postgres-restored"}


def test_the_certificates_are_valid_for_the_names_of_a_recovered_cluster() -> None:
    assert "postgres-restored-rw" in certificate_names("postgres-server-tls")
    pooled = values_of("synapse", "demo")["database"]["host"].replace("postgres-pooler", "postgres-restored-pooler")
    assert pooled in certificate_names("postgres-pooler-tls")


def test_keys_that_were_handed_out_are_emptied_before_synapse_starts_and_the_install_waits_for_it() -> None:
    (job,) = (entry for entry in rendered("postgres", "demo", RECOVERY) if entry["kind"] == "Job")
    ((pod, _),) = pod_specs(job)
    ((container, _),) = containers(pod)
    script = container["command"][-1]
    assert "TRUNCATE e2e_one_time_keys_json" in script
    assert "host=postgres-restored-rw" in script
    assert "sslmode=verify-full" in script
    assert pod["securityContext"]["runAsUser"] == 26
    assert pod["imagePullSecrets"] == [{"name": PULL_SECRET}]
    assert container["image"].endswith(f"@{DIGEST}")
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert len(job["metadata"]["name"]) <= 63
    waited = [ready.resource for ready in stack().release("postgres").ready]
    assert "jobs.batch/*" in waited
    assert not [entry for entry in rendered("postgres", "demo") if entry["kind"] == "Job"]


@pytest.mark.parametrize(
    "over",
    [
        {"recovery": {"source": "postgres", "targetTime": "2026-11-26T05:41:00Z"}},
        {"backup": {"serverName": "postgres-restored-2"}},
        {"global": {"image": f"registry.example.site:5000/mx/postgresql:17.12@{DIGEST}"}},
    ],
    ids=["another-moment", "another-archive", "another-image"],
)
def test_a_job_is_never_changed_but_replaced_by_another(over: dict[str, Any]) -> None:
    names = [
        [
            entry["metadata"]["name"]
            for entry in rendered("postgres", "demo", {**RECOVERY, **values})
            if entry["kind"] == "Job"
        ]
        for values in ({}, over)
    ]
    assert len(names[0]) == len(names[1]) == 1
    assert names[0] != names[1]


def test_another_image_does_not_empty_the_keys_again() -> None:
    def marks(over: dict[str, Any]) -> list[str]:
        (job,) = (entry for entry in rendered("postgres", "demo", {**RECOVERY, **over}) if entry["kind"] == "Job")
        script = job["spec"]["template"]["spec"]["containers"][0]["command"][-1]
        return re.findall(r"COMMENT ON TABLE \S+ IS '(.*?)'", script)

    image = {"global": {"image": f"registry.example.site:5000/mx/postgresql:17.12@{DIGEST}"}}
    assert marks({}) == marks(image) != []
    assert marks({}) != marks({"backup": {"serverName": "postgres-restored-2"}})

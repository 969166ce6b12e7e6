"""What the values of the valkey chart make of it. What the running system does is in test_valkey_failover.py."""

from __future__ import annotations

from typing import Any

import pytest
from shipped_stack import KUBE_VERSION, MANIFESTS, named, rendered, rendered_text, stack, values_of

from darksite import binaries
from sitebundle.errors import RenderFailed
from sitebundle.helm import Helm
from sitebundle.rendering import read_objects

COMPONENTS = ("server", "sentinel", "proxy")


def kinds(objects: list[dict[str, Any]], kind: str) -> set[str]:
    return {entry["metadata"]["name"] for entry in objects if entry["kind"] == kind}


def pod_of(objects: list[dict[str, Any]], component: str) -> dict[str, Any]:
    kind = "Deployment" if component == "proxy" else "StatefulSet"
    pod: dict[str, Any] = named(objects, kind, f"valkey-{component}")["spec"]["template"]["spec"]
    return pod


def test_the_service_that_synapse_is_told_of_is_the_proxy_and_speaks_as_synapse_does() -> None:
    synapse = values_of("synapse", "demo")["redis"]
    name, namespace = synapse["host"].split(".")[:2]
    objects = rendered("valkey", "demo")
    service = named(objects, "Service", name)
    assert service["metadata"]["namespace"] == namespace
    assert service["spec"]["ports"][0]["port"] == 6379
    assert service["spec"]["selector"]["app.kubernetes.io/component"] == "proxy"
    assert synapse["tls"] is values_of("valkey", "demo")["tls"]["enabled"] is True


def test_clients_that_speak_sentinel_need_no_proxy() -> None:
    objects = rendered("valkey", "demo", {"proxy": {"enabled": False, "image": ""}})
    assert kinds(objects, "Deployment") == set()
    assert kinds(objects, "ConfigMap") == {"valkey"}
    assert kinds(objects, "PodDisruptionBudget") == {"valkey-server", "valkey-sentinel"}
    assert "valkey" not in kinds(objects, "Service")
    sentinels = named(objects, "Service", "valkey-sentinel")["spec"]
    assert (sentinels["clusterIP"], sentinels["ports"][0]["port"]) == ("None", 26379)
    assert (
        sentinels["selector"].items()
        <= named(objects, "StatefulSet", "valkey-sentinel")["spec"]["template"]["metadata"]["labels"].items()
    )


def test_each_server_and_each_sentinel_has_an_address_that_outlives_its_pod() -> None:
    objects = rendered("valkey", "demo")
    for component in ("server", "sentinel"):
        for ordinal in range(3):
            spec = named(objects, "Service", f"valkey-{component}-{ordinal}")["spec"]
            assert "clusterIP" not in spec
            assert spec["publishNotReadyAddresses"] is True
            assert spec["selector"]["statefulset.kubernetes.io/pod-name"] == f"valkey-{component}-{ordinal}"


@pytest.mark.parametrize("component", COMPONENTS)
def test_no_node_has_two_of_a_kind_unless_the_values_allow_it(component: str) -> None:
    strict = pod_of(rendered("valkey", "demo"), component)["affinity"]["podAntiAffinity"]
    (term,) = strict["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == component
    lenient = pod_of(rendered("valkey", "demo", {"antiAffinity": "preferred"}), component)["affinity"]
    assert list(lenient["podAntiAffinity"]) == ["preferredDuringSchedulingIgnoredDuringExecution"]


def test_all_pods_start_together_since_each_waits_for_others() -> None:
    objects = rendered("valkey", "demo")
    for component in ("server", "sentinel"):
        assert named(objects, "StatefulSet", f"valkey-{component}")["spec"]["podManagementPolicy"] == "Parallel"


def test_no_certificate_is_mounted_where_nothing_speaks_tls() -> None:
    text = rendered_text("valkey", "demo", {"tls": {"enabled": False}})
    assert "valkey-tls" not in text
    assert "/secrets/tls" not in text


def test_the_proxy_gets_the_authority_and_no_key() -> None:
    (volume,) = (entry for entry in pod_of(rendered("valkey", "demo"), "proxy")["volumes"] if entry["name"] == "tls")
    assert volume["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ({"global": {"image": ""}}, "global.image is needed"),
        ({"proxy": {"image": ""}}, "proxy.image is needed"),
        ({"maxMemoryPolicy": "never"}, "maxMemoryPolicy"),
        ({"antiAffinity": "hard"}, "antiAffinity"),
        ({"server": {"replicas": 5}}, "replicas"),
    ],
)
def test_values_that_do_not_fit_are_named(over: dict[str, Any], told: str) -> None:
    with pytest.raises(RenderFailed, match=told):
        rendered("valkey", "demo", over)


def test_a_second_release_beside_the_first_shares_no_name_and_no_master_with_it() -> None:
    """For calls, from the same chart in the same namespace."""
    entry = stack().release("valkey")
    assert entry.chart is not None
    chart, values = MANIFESTS / entry.chart, values_of("valkey", "demo")
    text = Helm(binaries.ensure("helm")).template(chart, "calls", entry.namespace, values, KUBE_VERSION)
    second = read_objects(text, "calls")
    names = [
        {(one["kind"], one["metadata"]["name"]) for one in objects} for objects in (rendered("valkey", "demo"), second)
    ]
    assert names[0] & names[1] == set()
    settings = named(second, "ConfigMap", "calls")["data"]["settings.sh"]
    assert "MASTER_NAME=calls\n" in settings
    assert "valkey-" not in settings
    assert "GET-MASTER-ADDR-BY-NAME calls" in named(second, "ConfigMap", "calls-proxy")["data"]["haproxy.cfg"]

"""The network policies of the charts: every rule is one end of a named edge, and every edge has both of its ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from mxinstall.site.model import NetworkPlan
from shipped_stack import MANIFESTS, named, pinned, rendered, stack

from darksite import backup_host
from sitebundle.rendering import values_for
from tests.matrix import edges as _cases
from tests.matrix import policies as page
from tests.matrix.brought import BROUGHT
from tests.matrix.policies import EVERYTHING
from tests.matrix.registry import CASES

CHARTS = [release.name for release in stack().releases if release.chart is not None]
EDGE = _cases.EDGE
FOUNDATION = "foundation"
OUTSIDE = {
    "everybody",
    "dns",
    "api-server",
    "operators",
    "clients",
    "inner-clients",
    "monitoring",
    "backup-store",
    "media-store",
    "other-servers",
    "allowed-addresses",
}
"""Places of which at least one end is not in the hands of these charts."""


def policies(profile: str = "demo", over: dict[str, dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Every NetworkPolicy of the whole stack."""
    return [
        entry
        for release in CHARTS
        for entry in rendered(release, profile, (over or {}).get(release))
        if entry["kind"] == "NetworkPolicy"
    ]


def edges(found: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Edge → end (in, out, both) → policy."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for policy in found:
        name = policy["metadata"].get("annotations", {}).get(EDGE)
        if name:
            table.setdefault(name, {})[policy["metadata"]["name"].rpartition("-")[2]] = policy
    return table


def test_the_file_that_makes_policies_is_the_same_in_every_chart() -> None:
    files = {(MANIFESTS / "charts" / name / "templates/_edges.tpl").read_text() for name in CHARTS}
    assert len(files) == 1


@pytest.mark.parametrize("profile", stack().profiles)
def test_every_policy_is_an_end_of_an_edge_or_closes_a_namespace(profile: str) -> None:
    found = policies(profile, EVERYTHING if profile == page.PROFILE else None)
    names = [(entry["metadata"]["namespace"], entry["metadata"]["name"]) for entry in found]
    assert len(set(names)) == len(names) > 20
    for entry in found:
        notes = entry["metadata"].get("annotations", {})
        if entry["metadata"]["name"] == "foundation-closed":
            assert entry["spec"] == {"policyTypes": ["Ingress", "Egress"], "podSelector": {}}
        else:
            assert notes[EDGE]
            assert notes["mxbundle.io/for"]


def test_every_namespace_with_pods_of_the_stack_is_closed() -> None:
    closed = {
        entry["metadata"]["namespace"] for entry in policies() if entry["metadata"]["name"] == "foundation-closed"
    }
    assert closed == {release.namespace for release in stack().releases if release.name != FOUNDATION}


@pytest.mark.parametrize("profile", stack().profiles)
def test_an_edge_between_two_of_our_pods_has_both_ends_on_the_same_ports(profile: str) -> None:
    seen = 0
    for name, ends in edges(policies(profile, EVERYTHING if profile == page.PROFILE else None)).items():
        if "both" in ends:
            spec = ends["both"]["spec"]
            assert spec["ingress"][0]["ports"] == spec["egress"][0]["ports"], name
            seen += 1
            continue
        notes = next(iter(ends.values()))["metadata"]["annotations"]
        if set(ends) != {"in", "out"}:
            assert {notes["mxbundle.io/from"], notes["mxbundle.io/to"]} & OUTSIDE, f"{name} has only {sorted(ends)}"
            continue
        assert ends["out"]["spec"]["egress"][0]["ports"] == ends["in"]["spec"]["ingress"][0]["ports"], name
        seen += 1
    assert seen > 8


def test_the_page_of_the_policy_matrix_is_what_the_charts_render_to() -> None:
    """After a change: `python -m tests.matrix policies`."""
    assert page.PAGE.read_text() == page.render()


def test_every_edge_has_a_case_and_those_that_the_demo_lacks_are_brought() -> None:
    declared = {str(edge["edge"]) for _, edge in page.edges()}
    cases = {case.id for case in CASES.values() if case.family == "edges"}
    assert declared == cases - {"unlisted"}
    assert declared - set(page.policies({})) == set(BROUGHT)


@pytest.mark.parametrize("edge", BROUGHT)
def test_what_a_case_brings_are_the_rules_of_its_edge_for_whoever_asks_and_answers(edge: str) -> None:
    how, trial = BROUGHT[edge], SimpleNamespace(site=None)
    with pytest.MonkeyPatch.context() as patch:
        target = backup_host.Target("https://10.77.0.9:9000", "matrix", "", "", "")
        patch.setattr(backup_host, "target", lambda _site: target)
        over = how.values(trial, "mxtrial-x", "10.1.2.3")  # type: ignore[arg-type]
        asked_of = how.outside(trial) if how.outside else "10.1.2.3"  # type: ignore[arg-type]
    rules = [
        entry
        for entry in policies(over={how.chart: over})
        if entry["metadata"].get("annotations", {}).get(EDGE) == edge
    ]
    assert rules
    for rule in rules:
        for part in ("ingress", "egress"):
            for one in rule["spec"].get(part, ()):
                assert how.port in [port["port"] for port in one["ports"]] or not one["ports"]
        if rule["metadata"]["name"].endswith("-out"):
            labels = dict(pair.split("=") for pair in how.asks.split(" ")[-1].split(",")) if how.asks else how.labels
            selected = rule["spec"]["podSelector"].get("matchLabels", {})
            assert {**selected, **(labels or {})} == {"app.kubernetes.io/instance": how.chart, **(labels or {})}
            blocks = [peer["ipBlock"]["cidr"] for peer in rule["spec"]["egress"][0]["to"] if "ipBlock" in peer]
            assert not blocks or f"{asked_of}/32" in blocks or "0.0.0.0/0" in blocks
        elif not how.inside:
            (peer,) = rule["spec"]["ingress"][0]["from"]
            assert peer["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "mxtrial-x"}}
            assert peer.get("podSelector") in (None, {"matchLabels": how.labels})


def test_an_edge_that_needs_a_value_is_there_only_with_it() -> None:
    asked = {str(edge["edge"]): edge.get("when") for _, edge in page.edges()}
    shipped = set(page.policies({"postgres": {"backup": {"endpoint": ""}, "pooler": {"enabled": False}}}))
    needless = {name for name, when in asked.items() if when and not when.startswith("proxy.")}
    assert shipped - {""} == set(asked) - needless


def test_synapse_reaches_postgresql_by_the_pooler_or_where_there_is_none_the_instances() -> None:
    for pooler, taken_in in ((True, "cnpg.io/poolerName"), (False, "cnpg.io/cluster")):
        ends = edges(policies(over={"postgres": {"pooler": {"enabled": pooler}}}))["clients-to-postgres"]
        assert list(ends["in"]["spec"]["podSelector"]["matchLabels"]) == [taken_in]
        (way_out,) = ends["out"]["spec"]["egress"]
        assert way_out["ports"] == ends["in"]["spec"]["ingress"][0]["ports"]


def test_no_rule_but_that_of_allowed_addresses_lets_through_without_naming_ports() -> None:
    for entry in policies(over=EVERYTHING):
        if entry["metadata"]["name"] == "synapse-to-allowed-addresses-out":
            continue
        for rule in (*entry["spec"].get("ingress", ()), *entry["spec"].get("egress", ())):
            assert rule["ports"], entry["metadata"]["name"]


def test_only_the_edge_takes_anybody_in_and_only_a_store_with_a_name_may_be_at_any_address() -> None:
    """A name in a URL is nothing that a policy can say: then the store's addresses are to be given."""
    at_any = set()
    for entry in policies():
        name = entry["metadata"]["name"]
        for rule in entry["spec"].get("ingress", ()):
            assert ("from" in rule) == (name != "synapse-clients-to-routing-in"), name
        for rule in entry["spec"].get("egress", ()):
            at_any |= (
                {name} if any(peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0" for peer in rule["to"]) else set()
            )
    assert at_any == {"postgres-to-backup-store-out"}


def test_a_store_is_allowed_at_the_address_and_port_of_its_url_or_at_the_addresses_given() -> None:
    def rule(endpoint: str, *addresses: str) -> dict[str, Any]:
        backup = {"endpoint": endpoint, "bucket": "backups", "secret": "backup-s3"}
        over = {"backup": backup, "networkPolicies": {"backupStore": {"addresses": list(addresses)}}}
        policy = named(rendered("postgres", "demo", over), "NetworkPolicy", "postgres-to-backup-store-out")
        (found,) = policy["spec"]["egress"]
        return {"ports": [port["port"] for port in found["ports"]], "to": [p["ipBlock"]["cidr"] for p in found["to"]]}

    assert rule("http://10.0.0.30:9000") == {"ports": [9000], "to": ["10.0.0.30/32"]}
    assert rule("http://10.0.0.30") == {"ports": [80], "to": ["10.0.0.30/32"]}
    assert rule("https://store.example.site") == {"ports": [443], "to": ["0.0.0.0/0", "::/0"]}
    assert rule("https://store.example.site", "10.0.0.0/28") == {"ports": [443], "to": ["10.0.0.0/28"]}


def test_other_servers_are_reached_at_the_ports_that_their_names_and_delegations_have() -> None:
    federation = {"enabled": True, "allow": ["a.example", "b.example:9443", "c.example:8448"], "peerPorts": [7443]}
    policy = named(
        rendered("synapse", "demo", {"federation": federation}), "NetworkPolicy", "synapse-to-other-servers-out"
    )
    assert [port["port"] for port in policy["spec"]["egress"][0]["ports"]] == [443, 8448, 9443, 7443]


def test_the_networks_of_site_yaml_are_what_policies_name() -> None:
    asked = {
        "apiServer": ["10.0.0.1/32"],
        "apiServerPorts": [7443],
        "dns": {"namespace": "dns", "labels": {"app": "coredns"}, "ports": [5353], "addresses": ["169.254.20.10/32"]},
    }
    site = {"network": NetworkPlan.model_validate(asked).model_dump(mode="json", by_alias=True)}
    given = {name: values_for(stack(), stack().release(name), "demo", MANIFESTS, pinned, site) for name in CHARTS}
    found = edges(policies(over=given))
    for edge in ("operators-to-api-server", "postgres-to-api-server", "pooler-to-api-server"):
        (rule,) = found[edge]["out"]["spec"]["egress"]
        assert [port["port"] for port in rule["ports"]] == [7443]
        assert rule["to"] == [{"ipBlock": {"cidr": "10.0.0.1/32"}}]
    (rule,) = found["dns"]["out"]["spec"]["egress"]
    assert {port["port"] for port in rule["ports"]} == {5353}
    selected, block = rule["to"]
    assert selected["podSelector"] == {"matchLabels": {"app": "coredns"}}
    assert selected["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "dns"}}
    assert block == {"ipBlock": {"cidr": "169.254.20.10/32"}}


@pytest.mark.parametrize("release", CHARTS)
def test_without_the_switch_a_chart_has_no_policy(release: str) -> None:
    objects = rendered(release, "demo", {"networkPolicies": {"enabled": False}})
    assert [entry["metadata"]["name"] for entry in objects if entry["kind"] == "NetworkPolicy"] == []


def test_the_priority_classes_that_pods_name_are_made() -> None:
    made = {
        entry["metadata"]["name"]: entry for entry in rendered(FOUNDATION, "demo") if entry["kind"] == "PriorityClass"
    }
    assert made["mx-data"]["value"] > made["mx-core"]["value"] > made["mx-workers"]["value"] > 0
    named = set()
    for release in CHARTS:
        for entry in rendered(release, "demo"):
            spec = entry.get("spec", {})
            pod = spec.get("template", {}).get("spec", {}) if entry["kind"] != "Cluster" else spec
            named |= {pod["priorityClassName"]} if pod.get("priorityClassName") else set()
    assert named
    assert named <= set(made)

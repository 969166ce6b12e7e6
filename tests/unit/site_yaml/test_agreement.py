"""Values of a `site.yaml` against each other: each rule by cases as data, and the profiles that ship break none."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from mxinstall.site import Site
from mxinstall.site.agreement import RULES, ClusterFacts, disagreements
from mxinstall.site.bundle_values import BundleValues, bundle_values

from sitebundle.stack import read_stack

HERE = Path(__file__).parent
MANIFESTS = Path(__file__).parents[3] / "manifests"
GOOD = yaml.safe_load((HERE / "good" / "small.yaml").read_text())
CASES = yaml.safe_load((HERE / "agreement_cases.yaml").read_text())


def site_with(changes: Mapping[str, Any], profile: str = "demo") -> Site:
    content = yaml.safe_load(yaml.safe_dump(GOOD))
    content["spec"]["profile"] = profile
    for path, value in changes.items():
        *above, name = path.split(".")
        part = content["spec"]
        for word in above:
            part = part.setdefault(word, {})
        part[name] = value
    return Site.model_validate(content)


STACK = read_stack(MANIFESTS / "stack.yaml")


def charts() -> dict[str, Path]:
    return {release.name: MANIFESTS / release.chart for release in STACK.releases if release.chart}


def shipped(site: Site) -> BundleValues:
    return bundle_values(STACK, MANIFESTS, charts(), site)


def cluster_of(case: Mapping[str, Any] | None) -> ClusterFacts | None:
    if case is None:
        return None
    classes = case.get("storage_classes")
    ranges = {key: tuple(map(ip_network, case.get(key, []))) for key in ("pod_ranges", "service_ranges")}
    return ClusterFacts(tuple(classes) if classes else None, **ranges)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['rule']}: {case['says']}")
def test_a_rule_names_the_field_and_says_what_it_met(case: dict[str, Any]) -> None:
    site = site_with(case.get("set", {}), case.get("bundle", "demo"))
    bundle = shipped(site) if "bundle" in case else None
    all_met = disagreements(site, bundle, cluster_of(case.get("cluster")))
    met = [found for found in all_met if found.rule.id == case["rule"]]
    assert [found.field for found in met] == case["fields"]
    assert any(case["says"] in found.met.seen for found in met), [found.met.seen for found in met]
    assert all(found.met.todo for found in met)


def test_every_rule_has_a_case() -> None:
    # The shipped stack has no release that a profile leaves out: test_values_of_a_release_that_a_profile_leaves_out.
    assert {case["rule"] for case in CASES} == set(RULES) - {"values.profile"}


def test_no_case_is_only_met_because_every_site_breaks_the_rule() -> None:
    assert disagreements(site_with({})) == []
    everywhere = ClusterFacts(("bulk", "fast"), (ip_network("10.42.0.0/16"),), (ip_network("10.43.0.0/16"),))
    assert disagreements(site_with({}), shipped(site_with({})), everywhere) == []


@pytest.mark.parametrize("profile", STACK.profiles)
@pytest.mark.parametrize("federates", [False, True])
def test_a_profile_that_ships_breaks_no_rule(profile: str, federates: bool) -> None:
    changes = {"federation": {"enabled": True, "allow": ["*"]}} if federates else {}
    site = site_with(changes, profile)
    known = shipped(site)
    assert known.of("synapse") is not None
    assert len(known.worker_types) > 15
    assert [f"{found.field}: {found.met.seen}" for found in disagreements(site, known)] == []


def test_the_budget_ends_where_the_charts_own_rule_ends() -> None:
    # Profile small without federation: 12 kinds of process, 220 connections.
    def budget(replicas: int) -> list[str]:
        site = site_with({"workers": {"synchrotron": {"replicas": replicas}}}, "small")
        return [found.rule.id for found in disagreements(site, shipped(site)) if found.rule.id == "connections.budget"]

    most = 9
    assert budget(most) == []
    assert budget(most + 1) == ["connections.budget"]
    values = shipped(site_with({"workers": {"synchrotron": {"replicas": most}}}, "small")).of("synapse")
    assert values is not None
    others = {name: entry for name, entry in values["workers"].items() if name != "synchrotron"}
    running = sum(entry["replicas"] for name, entry in others.items() if not name.startswith("federation"))
    assert values["main"]["connections"]["max"] == values["workerDefaults"]["connections"]["max"] == 10
    assert (1 + running + most) * 10 <= 220 < (1 + running + most + 1) * 10


def test_values_of_a_release_that_a_profile_leaves_out() -> None:
    site = site_with({"values": {"monitoring": {}}})
    known = BundleValues(("demo",), ("synapse", "monitoring"), ("synapse",))
    assert [found.rule.id for found in disagreements(site, known)] == ["values.profile"]


def test_what_is_not_at_hand_is_not_judged() -> None:
    site = site_with({"workers": {"nobody": {"replicas": 1}}}, "nowhere")
    assert disagreements(site) == []
    assert {found.rule.id for found in disagreements(site, shipped(site))} == {"profile.known"}


def test_a_packed_chart_says_the_same_as_its_folder(tmp_path: Path) -> None:
    packed = {}
    for name, folder in charts().items():
        packed[name] = tmp_path / f"{name}.tgz"
        with tarfile.open(packed[name], "w:gz") as archive:
            archive.add(folder, arcname=folder.name)
    site = site_with({"workers": {"synchrotron": {"replicas": 3}}}, "small")
    assert bundle_values(STACK, MANIFESTS, packed, site) == shipped(site)

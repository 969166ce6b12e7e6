"""What a rule of site.yaml tells, the chart refuses, and the other way round: the shipped charts and a real helm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from mxinstall.site import Site
from mxinstall.site.agreement import disagreements
from mxinstall.site.bundle_values import BundleValues, bundle_values
from shipped_stack import KUBE_VERSION, MANIFESTS, pinned, stack

from darksite import binaries
from sitebundle.errors import RenderFailed
from sitebundle.helm import Helm
from sitebundle.rendering import merged, values_for

HERE = Path(__file__).parents[1] / "unit" / "site_yaml"
GOOD = yaml.safe_load((HERE / "good" / "small.yaml").read_text())
CASES = [case for case in yaml.safe_load((HERE / "agreement_cases.yaml").read_text()) if "refused_by" in case]


def site_from(changes: dict[str, Any], profile: str = "small") -> Site:
    content = {**GOOD, "spec": {**GOOD["spec"], "profile": profile}}
    for path, value in changes.items():
        change = value
        for word in reversed(path.split(".")):
            change = {word: change}
        content["spec"] = merged(content["spec"], change)
    return Site.model_validate(content)


def shipped(site: Site) -> BundleValues:
    charts = {release.name: MANIFESTS / release.chart for release in stack().releases if release.chart}
    return bundle_values(stack(), MANIFESTS, charts, site)


def rendered(release: str, site: Site) -> str:
    """As an install renders it: the profile, then site.yaml's paths, then its values."""
    entry = stack().release(release)
    assert entry.chart is not None
    values = values_for(stack(), entry, site.spec.profile, MANIFESTS, pinned, site.spec_mapping())
    values = merged(values, site.spec.values.get(release, {}))
    helm = Helm(binaries.ensure("helm"))
    return helm.template(MANIFESTS / entry.chart, entry.name, entry.namespace, values, KUBE_VERSION)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['rule']}: {case['says']}")
def test_a_chart_refuses_what_the_rule_tells(case: dict[str, Any]) -> None:
    with pytest.raises(RenderFailed):
        rendered(case["refused_by"], site_from(case["set"], case.get("bundle", "small")))


@pytest.mark.parametrize("release", sorted({case["refused_by"] for case in CASES}))
def test_without_the_change_it_renders(release: str) -> None:
    assert "kind:" in rendered(release, site_from({}))


def test_the_budget_of_connections_is_the_same_number_for_both() -> None:
    def site(replicas: int) -> Site:
        return site_from({"workers": {"synchrotron": {"replicas": replicas}}}, "small")

    assert "kind:" in rendered("synapse", site(9))
    assert disagreements(site(9), shipped(site(9))) == []
    with pytest.raises(RenderFailed) as refused:
        rendered("synapse", site(10))
    (told,) = disagreements(site(10), shipped(site(10)))
    for number in ("230", "220"):
        assert number in refused.value.message
        assert number in told.met.seen

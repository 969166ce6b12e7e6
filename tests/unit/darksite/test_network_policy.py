"""Whether a site's network enforces policies: who asks decides, then the site's memory, then the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from darksite import network_policy, site
from darksite.site import Site


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(site, "STATE_ROOT", tmp_path)
    monkeypatch.delenv(network_policy.VARIABLE, raising=False)
    return Site("paper")


def test_policies_are_enforced_unless_somebody_says_otherwise(place: Site) -> None:
    assert network_policy.decide(place, None)
    assert network_policy.is_enforced(place)


@pytest.mark.parametrize(("said", "enforced"), [("1", True), ("0", False), ("off", False)])
def test_the_environment_decides_for_a_site_that_is_new(
    place: Site, monkeypatch: pytest.MonkeyPatch, said: str, enforced: bool
) -> None:
    monkeypatch.setenv(network_policy.VARIABLE, said)
    assert network_policy.decide(place, None) is enforced


@pytest.mark.parametrize("asked", [True, False])
def test_the_site_remembers_what_was_asked_whatever_the_environment_says(
    place: Site, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    network_policy.decide(place, asked)
    monkeypatch.setenv(network_policy.VARIABLE, "0" if asked else "1")
    assert network_policy.decide(place, None) is asked
    assert network_policy.is_enforced(place) is asked


def test_asking_again_changes_the_mind_of_the_site(place: Site) -> None:
    network_policy.decide(place, False)
    assert network_policy.decide(place, True)
    assert network_policy.is_enforced(place)

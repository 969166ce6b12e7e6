"""`mxbundle lint` as a user runs it: on the stack, on files, on standard input; its options and exit codes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from shipped_stack import MANIFESTS, rendered_text, stack

from darksite import binaries, upstream

MXBUNDLE = str(Path(sys.executable).with_name("mxbundle"))
LINT_SECONDS = 20


def lint(*arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MXBUNDLE, "lint", *arguments], input=given, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A connected side whose published files lie on this machine."""
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    for address, content in upstream.published().items():
        target = tmp_path / "files" / address.removeprefix("https://")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(content, target)
    files = (tmp_path / "files/github.com").as_uri()
    (tmp_path / "mirrors.toml").write_text(f'[files]\n"https://github.com" = "{files}"\n')
    return tmp_path


def on_stack(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return lint(
        *("--manifests", str(place / "manifests"), "--mirrors", str(place / "mirrors.toml")),
        *("--helm", str(binaries.ensure("helm")), *arguments),
    )


def test_the_shipped_stack_is_clean_for_every_profile_and_quickly(place: Path) -> None:
    began = time.monotonic()
    done = on_stack(place, "--json")
    assert time.monotonic() - began < LINT_SECONDS
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["profiles"] == list(stack().profiles)
    assert report["findings"] == []
    assert set(report["not_checked"]) == {"images.locked"}
    assert report["objects"] > 60


def test_a_broken_profile_is_named_with_place_and_advice(place: Path) -> None:
    profile = place / "manifests/profiles/small.yaml"
    content = yaml.safe_load(profile.read_text())
    content["nodes"]["count"] = 2
    profile.write_text(yaml.safe_dump(content))
    done = on_stack(place)
    assert done.returncode == 90
    assert "fail nodes.anti-affinity  Cluster/matrix-data/postgres spec [small]" in done.stdout
    assert "to do: " in done.stdout
    assert "error[lint-failed]: " in done.stderr
    assert on_stack(place, "--profile", "demo").returncode == 0
    assert on_stack(place, "--rule", "images.pinned").returncode == 0


def test_an_accepted_finding_is_counted_and_not_told(place: Path) -> None:
    profile = place / "manifests/profiles/small.yaml"
    content = yaml.safe_load(profile.read_text())
    content["nodes"]["count"] = 2
    profile.write_text(yaml.safe_dump(content))
    reason = "a test says that two are enough here"
    entry = {"rule": "nodes.anti-affinity", "object": "*/matrix-data/*", "path": "spec*", "reason": reason}
    listed = place / "manifests/lint.yaml"
    known = (yaml.safe_load(listed.read_text()) or {}).get("accepted", []) if listed.exists() else []
    listed.write_text(yaml.safe_dump({"accepted": [*known, entry]}))
    done = on_stack(place, "--rule", "nodes.anti-affinity")
    assert done.returncode == 0, done.stdout
    assert re.search(r"[1-9]\d* accepted", done.stdout)


def test_what_helm_rendered_can_be_linted_from_standard_input() -> None:
    text = rendered_text("synapse", "demo")
    done = lint("-", "--registry", "registry.example.site:5000/mx", "--pull-secret", "site-registry", given=text)
    assert done.returncode == 0, done.stdout
    assert "not checked references.exist: needs the whole of a profile (no FILE)" in done.stdout
    done = lint("-", "--registry", "other.example.site", "--rule", "images.rewritten", "--json", given=text)
    assert done.returncode == 90
    report = json.loads(done.stdout.splitlines()[0])
    assert {finding["rule"] for finding in report["findings"]} == {"images.rewritten"}
    first = report["findings"][0]
    assert first["kind"]
    assert first["name"]
    assert first["path"].startswith("spec.")
    assert first["namespace"] == "matrix"
    assert json.loads(done.stdout.splitlines()[-1])["error"] == "lint-failed"


def test_what_selects_an_operators_pods_matches_them_without_a_profile_too(tmp_path: Path) -> None:
    rule, text = ("--rule", "references.selectors"), rendered_text("postgres", "demo")
    assert lint("-", "--manifests", str(MANIFESTS), *rule, given=text).returncode == 0
    # Without the table of what operators run, nobody can know.
    assert lint("-", "--manifests", str(tmp_path), *rule, given=text).returncode == 90


def test_files_of_a_profile_are_judged_by_its_declarations(tmp_path: Path) -> None:
    file = tmp_path / "synapse.yaml"
    file.write_text(rendered_text("synapse", "demo").replace("allowPrivilegeEscalation: false", "privileged: true"))
    assert lint(str(file), "--rule", "security.pod-security").returncode == 0
    done = lint(str(file), "--manifests", str(MANIFESTS), "--profile", "demo", "--rule", "security.pod-security")
    assert done.returncode == 90
    assert "matrix is restricted" in done.stdout


def test_a_definition_from_a_template_is_found_and_one_from_crds_is_not(tmp_path: Path) -> None:
    crd = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: a.example.org}\n"
    crd += "spec: {group: example.org, names: {kind: A}}\n"
    assert lint("-", given=f"---\n# Source: x/templates/a.yaml\n{crd}").returncode == 90
    assert lint("-", given=f"---\n# Source: x/crds/a.yaml\n{crd}").returncode == 0


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "just: text\n",
        "kind: ConfigMap\napiVersion: v1\nmetadata: {}\n",
        "kind: ConfigMap\napiVersion: v1\nmetadata: {name: a}\ndata: {day: 2024-13-45}\n",
        "kind: CustomResourceDefinition\napiVersion: apiextensions.k8s.io/v1\nmetadata: {name: a}\n",
    ],
)
def test_what_is_no_object_is_one_clear_error(text: str) -> None:
    done = lint("-", given=text)
    assert done.returncode == 91
    assert "error[lint-input-unreadable]: standard input cannot be linted" in done.stderr


def test_fields_that_others_leave_empty_are_read_as_kubernetes_does() -> None:
    text = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: a, namespace: b}
spec:
  replicas: 2
  selector: {matchLabels: {app: a}}
  strategy: {rollingUpdate: {maxUnavailable: null}}
  template:
    metadata: {labels: {app: a}}
    spec:
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: a}}}
      containers: [{name: c, image: "registry.site/a:1"}]
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: a, namespace: b}
"""
    done = lint("-", given=text)
    assert done.returncode == 90
    assert "error[internal]" not in done.stderr


def test_rules_are_listed_and_explained() -> None:
    listed = lint("--list")
    assert listed.returncode == 0
    assert any(line.startswith("synapse.stream-writers ") for line in listed.stdout.splitlines())
    explained = lint("--explain", "availability.budget-lets-drain")
    assert "stops every drain" in explained.stdout
    wrong = lint("--rule", "synapse.nothing")
    assert wrong.returncode == 2
    assert "there is no rule synapse.nothing" in wrong.stderr

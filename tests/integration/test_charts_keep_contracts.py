"""Every container that the stack renders uses its image only as the contract allows: real helm, every profile."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from mxbundle.derive.recipe import read_recipes

from darksite import binaries, upstream
from darksite.images import Contract, all_contracts
from sitebundle.helm import Helm
from sitebundle.operands import read_operands
from sitebundle.podspecs import image_uses
from sitebundle.rendering import Sources, render, values_for
from sitebundle.stack import read_stack

MANIFESTS = Path(__file__).parents[2] / "manifests"
STACK = read_stack(MANIFESTS / "stack.yaml")
BASES = {recipe.reference: recipe.base for recipe in read_recipes(MANIFESTS / "derived")}
_OF_BASES = {contract.reference: contract for contract in all_contracts()}
CONTRACTS = {reference: _OF_BASES[BASES.get(reference, reference)] for reference in STACK.images.values()}
OWN_SCRIPTS = {"/etc/synapse/configure.py", "/etc/synapse/check_config.py"}
"""Programs that a chart brings itself: what they read from their environment is no business of the image."""


def containers(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Where it is, pod specification, container."""
    for one in objects:
        if one["kind"] == "Pooler":
            continue  # Its template says what is other than what the operator makes; the image has its own field.
        pod = one.get("spec", {}).get("template", {}).get("spec", {})
        for container in (*pod.get("initContainers", ()), *pod.get("containers", ())):
            yield f"{one['kind']}/{one['metadata']['name']}/{container['name']}", pod, container


def violations(contract: Contract, pod: Mapping[str, Any], container: Mapping[str, Any]) -> list[str]:
    """What the container uses that the contract does not give."""
    found = []
    programs = {binary.path for binary in contract.binaries} | set(contract.process.files) | {contract.process.shell}
    programs |= {Path(path).name for path in programs if str(Path(path).parent) in search_path(contract)}
    probes = [container.get(name, {}) for name in ("livenessProbe", "readinessProbe", "startupProbe")]
    hooks = list(container.get("lifecycle", {}).values())
    commands = [container.get("command", []), *(holder.get("exec", {}).get("command", []) for holder in probes + hooks)]
    for command in filter(None, commands):
        if command[0] not in programs - {""}:
            found.append(f"starts {command[0]}")
    security = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
    process = contract.process
    if (security.get("runAsUser"), security.get("runAsGroup")) != (process.uid, process.gid) and not process.any_uid:
        found.append(f"runs as {security.get('runAsUser')}:{security.get('runAsGroup')}")
    if (
        security.get("runAsNonRoot")
        and not contract.config.user.split(":")[0].isdigit()
        and "runAsUser" not in security
    ):
        found.append("needs runAsUser: the image's user is root or a name")
    if security.get("readOnlyRootFilesystem") and not process.read_only_root:
        found.append("mounts the root read-only")
    if not OWN_SCRIPTS & set(container.get("command", ())):
        found += [
            f"sets {variable['name']}"
            for variable in container.get("env", ())
            if variable["name"] not in process.environment
        ]
    for variable in container.get("env", ()):
        # The dynamic linker of Debian expands $LIB to the folder of the machine's architecture (ld.so(8)).
        value = variable.get("value", "").replace("$LIB", "lib/x86_64-linux-gnu")
        if variable["name"] == "LD_PRELOAD" and value not in process.files:
            found.append(f"preloads {value}")
    return found


def search_path(contract: Contract) -> list[str]:
    return contract.config.environment["PATH"].split(":")


@pytest.fixture(scope="module", params=STACK.profiles)
def rendered(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    site = yaml.safe_load((MANIFESTS / "profiles" / "lock-site.yaml").read_text())
    operands = read_operands(MANIFESTS / "operands")
    helm = Helm(binaries.ensure("helm"))
    published = upstream.published()
    objects: list[dict[str, Any]] = []
    for release in STACK.releases:
        sources = Sources(
            charts={release.name: MANIFESTS / "charts" / release.name},
            files={release.name: published[release.manifest]} if release.manifest else {},
        )
        values = values_for(STACK, release, request.param, MANIFESTS, str, site)
        objects += render(STACK, release, sources, values, helm, "1.36.0", str, operands)
    return objects


def test_every_image_that_is_rendered_or_named_has_a_contract(rendered: list[dict[str, Any]]) -> None:
    operands = read_operands(MANIFESTS / "operands")
    used = {use.reference for use in image_uses(rendered, "any", operands)}
    assert used == set(STACK.images.values())
    assert used <= CONTRACTS.keys()


def test_no_container_uses_what_its_image_does_not_promise(rendered: list[dict[str, Any]]) -> None:
    found = {
        place: broken
        for place, pod, container in containers(rendered)
        if (broken := violations(CONTRACTS[container["image"]], pod, container))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("name", "container", "said"),
    [
        ("valkey", {"command": ["/bin/bash", "-c", "true"]}, "starts /bin/bash"),
        ("cloudnative-pg", {"livenessProbe": {"exec": {"command": ["/bin/sh", "-c", "true"]}}}, "starts /bin/sh"),
        ("haproxy", {"lifecycle": {"preStop": {"exec": {"command": ["curl"]}}}}, "starts curl"),
        ("haproxy", {"securityContext": {"runAsNonRoot": True}}, "needs runAsUser: the image's user is root or a name"),
        ("postgresql", {"securityContext": {"runAsUser": 1000, "runAsGroup": 26}}, "runs as 1000:26"),
        ("valkey", {"env": [{"name": "VALKEY_PASSWORD", "value": "x"}]}, "sets VALKEY_PASSWORD"),
        (
            "synapse",
            {"env": [{"name": "LD_PRELOAD", "value": "/usr/lib/jemalloc.so"}]},
            "preloads /usr/lib/jemalloc.so",
        ),
    ],
)
def test_what_is_outside_a_contract_is_found(name: str, container: dict[str, Any], said: str) -> None:
    (contract,) = (known for known in CONTRACTS.values() if known.name == name)
    assert said in violations(contract, {}, container)


@pytest.mark.parametrize("name", ["valkey", "haproxy", "synapse", "cloudnative-pg"])
def test_what_a_contract_names_may_be_used(name: str) -> None:
    (contract,) = (known for known in CONTRACTS.values() if known.name == name)
    process = contract.process
    container = {
        "command": [Path(contract.binaries[0].path).name if process.shell else contract.binaries[0].path],
        "securityContext": {"runAsUser": process.uid, "runAsGroup": process.gid, "runAsNonRoot": True},
        "env": [{"name": variable, "value": process.files[0]} for variable in process.environment],
    }
    assert violations(contract, {}, container) == []

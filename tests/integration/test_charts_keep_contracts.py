"""Every container that the stack renders uses its image only as the contract allows: real helm, every profile.

The rule itself is lint's `images.contract`; here it is asked about each contract, and its reading is held against ours.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from linted import declared, shipped_subject
from mxbundle.lint.rules import RULES
from mxbundle.lint.rules.images import violations
from mxbundle.lint.run import lint
from mxbundle.lock.contracts import Contract
from shipped_stack import MANIFESTS, stack

from darksite.images import all_contracts
from sitebundle.podspecs import image_uses
from sitebundle.reference import Reference

CONTRACTS = declared().contracts.by_name


def contract(name: str) -> Contract:
    return CONTRACTS[Reference.parse(stack().images[name]).name]


@pytest.mark.parametrize("profile", stack().profiles)
def test_every_image_that_is_rendered_or_named_has_a_contract(profile: str) -> None:
    subject = shipped_subject(profile)
    used = {
        Reference.parse(use.reference.removeprefix(f"{subject.registry}/")).tagged
        for item in subject.items
        for use in image_uses([item.entry], item.release, subject.operands)
    }
    assert used == set(stack().images.values())
    assert lint([subject], [RULES["images.has-contract"]]).findings == ()


@pytest.mark.parametrize("profile", stack().profiles)
def test_no_container_uses_what_its_image_does_not_promise(profile: str) -> None:
    assert lint([shipped_subject(profile)], [RULES["images.contract"]]).findings == ()


def test_lint_reads_of_a_contract_what_the_stand_ins_are_built_to() -> None:
    assert {entry.name for entry in all_contracts()} == {path.stem for path in (MANIFESTS / "images").glob("*.toml")}
    for theirs in all_contracts():
        process = asdict(contract(theirs.name).process)
        assert process.pop("binaries") == tuple(binary.path for binary in theirs.binaries)
        assert process == {key: value for key, value in asdict(theirs.process).items() if key != "absent"}


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
    assert said in violations(contract(name), {}, container)


@pytest.mark.parametrize("name", ["valkey", "haproxy", "synapse", "cloudnative-pg"])
def test_what_a_contract_names_may_be_used(name: str) -> None:
    process = contract(name).process
    first = process.binaries[0]
    container = {
        "command": [Path(first).name if process.shell else first],
        "securityContext": {"runAsUser": process.uid, "runAsGroup": process.gid, "runAsNonRoot": True},
        "env": [{"name": variable, "value": process.files[0]} for variable in process.environment],
    }
    assert violations(contract(name), {}, container) == []

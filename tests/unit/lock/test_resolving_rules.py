from __future__ import annotations

from pathlib import Path

import pytest
from mxbundle.lock.contracts import Contract, Process
from mxbundle.lock.resolve import fits_platform, wanted_images

from sitebundle.podspecs import ImageUse


def use(reference: str, name: str = "a") -> ImageUse:
    return ImageUse(reference, "r", f"Pod/{name}", "spec.containers[0].image")


def test_two_spellings_of_one_image_are_one_image_with_both_uses() -> None:
    images, problems = wanted_images([use("redis:7", "a"), use("docker.io/library/redis:7", "b")])
    assert problems == ()
    assert [image.reference.tagged for image in images] == ["docker.io/library/redis:7"]
    assert len(images[0].uses) == 2
    assert images[0].needed_by == "r Pod/a spec.containers[0].image and 1 more"


@pytest.mark.parametrize("reference", ["redis", "redis:latest", "Not An Image", "ghcr.io/A/b:1"])
def test_what_cannot_be_locked_is_a_problem_with_its_use(reference: str) -> None:
    _, problems = wanted_images([use(reference)])
    assert [str(problem.wanted.uses[0]) for problem in problems] == ["r Pod/a spec.containers[0].image"]


def test_one_tag_with_two_digests_is_a_problem() -> None:
    a, b = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    _, problems = wanted_images([use(f"redis:7@{a}"), use(f"redis:7@{b}")])
    assert [problem.detail for problem in problems] == ["it is named with different digests"]


@pytest.mark.parametrize(
    ("offered", "asked", "fits"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/arm/v7", "linux/arm/v6", False),
        ("linux/arm64", "linux/arm", False),
        ("linux/amd64", "linux/amd64/v2", False),
    ],
)
def test_a_variant_matters_only_when_it_was_asked_for(offered: str, asked: str, fits: bool) -> None:
    assert fits_platform(offered, asked) is fits


PROCESS = Process(991, 991, True, True, "", (), (), (), (), ())
CONTRACT = Contract(Path("x.toml"), ("/a",), (), "991", {"PATH": "/bin"}, PROCESS)


@pytest.mark.parametrize(
    ("config", "difference"),
    [
        ({"Entrypoint": ["/a"], "User": "991", "Env": ["PATH=/bin", "EXTRA=1"], "Cmd": None}, None),
        ({"Entrypoint": ["/b"], "User": "991", "Env": ["PATH=/bin"]}, "entrypoint is ['/b'] instead of ['/a']"),
        ({"Entrypoint": ["/a"], "User": "991", "Env": ["PATH=/bin"], "Cmd": ["x"]}, "command is ['x'] instead of []"),
        ({"Entrypoint": ["/a"], "Env": ["PATH=/bin"]}, "user is '' instead of '991'"),
        ({"Entrypoint": ["/a"], "User": "991"}, "PATH is missing instead of '/bin' in its environment"),
        (
            {"Entrypoint": ["/a"], "User": "991", "Env": ["PATH=/x"]},
            "PATH is '/x' instead of '/bin' in its environment",
        ),
    ],
)
def test_a_contract_is_about_entrypoint_command_user_and_the_variables_it_names(
    config: dict[str, object], difference: str | None
) -> None:
    assert CONTRACT.differences({"config": config}) == ([] if difference is None else [difference])

"""How two states of an object differ, and that nothing secret is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mxinstall.outlook.differences import differences


def secret(**data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "type": "Opaque", "data": data}


def pod(**container: Any) -> dict[str, Any]:
    return {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "main", **container}]}}


def told(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [str(change) for change in differences(before, after)]


def test_fields_are_told_by_path_with_entries_of_lists_by_their_name() -> None:
    before = pod(image="a:1", ports=[{"containerPort": 80}], args=["x"])
    after = pod(image="a:2", ports=[{"containerPort": 80}, {"containerPort": 81}], args=["x", "y"])
    assert told(before, after) == [
        "~ spec.containers[main].image: a:1 -> a:2",
        '+ spec.containers[main].ports[81]: {"containerPort": 81}',
        '~ spec.containers[main].args: ["x"] -> ["x", "y"]',
    ]


def test_the_same_name_twice_in_a_list_is_compared_as_a_whole() -> None:
    before = {"spec": {"ports": [{"name": "a", "port": 1}, {"name": "a", "port": 1}]}}
    after = {"spec": {"ports": [{"name": "a", "port": 1}, {"name": "a", "port": 2}]}}
    (change,) = differences(before, after)
    assert change.path == "spec.ports"


def test_what_the_server_keeps_for_itself_is_no_difference() -> None:
    before = {"metadata": {"name": "p", "resourceVersion": "1", "managedFields": [1]}, "status": {"x": 1}}
    after = {"metadata": {"name": "p", "resourceVersion": "2", "managedFields": [2]}, "status": {"x": 2}}
    assert differences(before, after) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (secret(key="c2VjcmV0MQ=="), secret(key="c2VjcmV0Mg==")),
        (secret(), secret(key="c2VjcmV0MQ==", other="c2VjcmV0Mg==")),
        (secret(key="c2VjcmV0MQ=="), secret()),
        ({**secret(), "data": None}, secret(key="c2VjcmV0MQ==")),
        (secret(), {**secret(), "stringData": {"key": "c2VjcmV0Mg=="}}),
        (pod(), pod(env=[{"name": "DB_PASSWORD", "value": "c2VjcmV0MQ=="}])),
        (
            pod(env=[{"name": "DB_PASSWORD", "value": "c2VjcmV0MQ=="}]),
            pod(env=[{"name": "DB_PASSWORD", "value": "c2VjcmV0Mg=="}]),
        ),
        ({"data": {"c": "a: 1\npassword: c2VjcmV0MQ==\n"}}, {"data": {"c": "a: 1\npassword: c2VjcmV0Mg==\n"}}),
        ({"spec": {"token": "c2VjcmV0MQ=="}}, {"spec": {"token": "c2VjcmV0Mg=="}}),
        ({}, {"data": {"c": "password: c2VjcmV0MQ==\n"}}),
        ({}, {"spec": {"deep": {"list": [{"access_key": "c2VjcmV0MQ=="}, {"b": 1}]}}}),
        (
            {"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "c2VjcmV0MQ=="}}},
            {"metadata": {"annotations": {}}, "spec": {}},
        ),
    ],
)
def test_no_secret_value_is_told(before: dict[str, Any], after: dict[str, Any]) -> None:
    said = json.dumps([vars(change) for change in differences(before, after)])
    assert "c2VjcmV0" not in said


def test_that_a_secret_changes_is_told_all_the_same() -> None:
    assert told(secret(key="old"), secret(key="newer")) == [
        "~ data.key: (hidden, 3 characters) -> (hidden, 5 characters)"
    ]


def test_names_of_secrets_are_no_secrets() -> None:
    before = {"spec": {"secretName": "one", "tokenExpirationSeconds": 1}}
    after = {"spec": {"secretName": "two", "tokenExpirationSeconds": 2}}
    assert told(before, after) == ["~ spec.secretName: one -> two", "~ spec.tokenExpirationSeconds: 1 -> 2"]


def test_a_text_is_told_by_the_lines_that_differ() -> None:
    before = {"data": {"homeserver.yaml": "a: 1\nb: 2\nc: 3\n"}}
    after = {"data": {"homeserver.yaml": "a: 1\nb: 3\nc: 3\nd: 4\n"}}
    assert told(before, after) == ['~ data."homeserver.yaml": b: 2 -> b: 3 | d: 4']


def test_long_values_are_cut_and_told_apart() -> None:
    (change,) = differences({"spec": {"x": "a" * 500}}, {"spec": {"x": "a" * 499 + "b"}})
    assert change.before != change.after
    assert len(change.before or "") < 150

"""Files that somebody else rendered: what they leave open can be said."""

from __future__ import annotations

from pathlib import Path

from mxbundle.lint.files import subject_of
from mxbundle.lint.rules import RULES
from mxbundle.lint.run import lint

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: a, namespace: chat}
spec:
  selector: {matchLabels: {app: a}}
  template:
    metadata: {labels: {app: a}}
    spec: {containers: [{name: a, image: "registry.site/a:1"}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: a}
"""
ADDRESSES = """
apiVersion: v1
kind: ConfigMap
metadata: {name: a, namespace: chat}
data: {own: "https://chat.example.com/x", part: "https://a.chat.example.com", other: "https://notchat.example.com"}
"""


def found(
    folder: Path, text: str, rule: str, namespace: str | None = None, own_hosts: tuple[str, ...] = ()
) -> list[str]:
    path = folder / "others.yaml"
    path.write_text(text)
    subject = subject_of([path], folder, None, None, None, None, namespace=namespace, own_hosts=own_hosts)
    return [one.path for one in lint([subject], [RULES[rule]]).findings]


def test_objects_without_a_namespace_go_where_one_says(tmp_path: Path) -> None:
    assert found(tmp_path, SERVICE, "references.selectors") == ["spec.selector"]
    assert found(tmp_path, SERVICE, "references.selectors", namespace="chat") == []
    subject = subject_of([tmp_path / "others.yaml"], tmp_path, None, None, None, None, namespace="chat")
    assert [item.namespace for item in subject.items] == ["chat", "chat", ""]


def test_a_name_that_one_declares_is_inside_and_no_other(tmp_path: Path) -> None:
    every = {"data.own", "data.part", "data.other"}
    assert set(found(tmp_path, ADDRESSES, "outside.urls")) == every
    assert found(tmp_path, ADDRESSES, "outside.urls", own_hosts=("chat.example.com",)) == ["data.other"]

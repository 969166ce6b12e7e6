"""A Synapse of somebody else's chart is recognised also where only its image says what it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from mxbundle.lint.files import subject_of
from mxbundle.lint.rules import RULES
from mxbundle.lint.run import lint

OTHERS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: synapse, namespace: chat}
data:
  homeserver.yaml: |
    server_name: example.site
    report_stats: true
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: synapse, namespace: chat}
spec:
  selector: {matchLabels: {app: synapse}}
  template:
    metadata: {labels: {app: synapse}}
    spec:
      containers:
        - name: synapse
          image: IMAGE
          ARGS
          volumeMounts: [{name: config, mountPath: MOUNT}]
      volumes: [{name: config, configMap: {name: synapse}}]
"""


def found(folder: Path, image: str, args: str = "env: []", mount: str = "/data") -> list[str]:
    path = folder / "others.yaml"
    path.write_text(OTHERS.replace("IMAGE", image).replace("ARGS", args).replace("MOUNT", mount))
    subject = subject_of([path], folder, None, None, None, None)
    return [one.path for one in lint([subject], [RULES["outside.synapse-defaults"]]).findings]


@pytest.mark.parametrize(
    ("image", "args", "mount"),
    [
        ("docker.io/matrixdotorg/synapse:v1.162.0", "env: []", "/data"),
        ("registry.site:5000/mx/matrix-synapse@sha256:0", 'args: ["run"]', "/data"),
        ("synapse", "env: [{name: SYNAPSE_CONFIG_DIR, value: /etc/chat}]", "/etc/chat"),
        ("ghcr.io/element-hq/synapse:latest", "env: [{name: SYNAPSE_CONFIG_PATH, value: /c/homeserver.yaml}]", "/c"),
        # What starts it by name needs no image of that name.
        ("registry.site/chat:1", "command: [python, -m, synapse.app.homeserver, -c, /c/homeserver.yaml]", "/c"),
    ],
)
def test_its_configuration_is_read(tmp_path: Path, image: str, args: str, mount: str) -> None:
    assert 'data["homeserver.yaml"].report_stats' in found(tmp_path, image, args, mount)


@pytest.mark.parametrize(
    ("image", "args"),
    [
        ("docker.io/matrixdotorg/synapse:v1.162.0", 'args: ["generate"]'),
        ("docker.io/matrixdotorg/synapse:v1.162.0", 'command: ["sleep", "60"]'),
        ("docker.io/matrixdotorg/synapse-admin:1", "env: []"),
        ("synapse.example.site/bot:1", "env: []"),
    ],
)
def test_what_is_no_homeserver_is_left_alone(tmp_path: Path, image: str, args: str) -> None:
    assert found(tmp_path, image, args) == []

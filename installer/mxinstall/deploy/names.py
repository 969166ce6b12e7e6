"""What the installer calls its own objects in the cluster. Names and labels only."""

from __future__ import annotations

import base64
import json
from typing import Any

NAMESPACE = "mx-system"
LEASE = "installer"
SERVICE_ACCOUNT = "mxinstall"
PART = "mxbundle.io/part"
"""The label that says what an object of ours is: system, epoch, journal, inventory, admission, secret, authority."""

OURS = {"app.kubernetes.io/managed-by": "mxinstall"}


def labels(part: str) -> dict[str, str]:
    """The labels of an object of ours."""
    return {**OURS, PART: part}


def document_secret(name: str, part: str, key: str, document: Any) -> dict[str, Any]:
    """A Secret in `mx-system` that holds one JSON document, sorted, so that equal content is equal bytes."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels(part)},
        "type": f"mxbundle.io/{part}",
        "data": {key: base64.b64encode(text.encode()).decode()},
    }


def document_of(secret: dict[str, Any], key: str) -> Any:
    """The JSON document that a Secret holds under `key`. Raises KeyError, ValueError."""
    return json.loads(base64.b64decode(secret["data"][key]))

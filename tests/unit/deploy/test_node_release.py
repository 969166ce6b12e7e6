"""What a release of a node asks before it writes anything: a cluster that can only be read."""

from __future__ import annotations

from typing import Any, cast

import pytest
from mxinstall.cluster import Cluster
from mxinstall.node_loss import release_held

from sitebundle.errors import NodeAlive, NodeUnknown
from sitebundle.events import silent

ALIVE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "n1"},
    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
}


class OnlyRead:
    """One node that is Ready; whatever would change something is no part of it."""

    def get(self, _: str, kind: str, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        return ALIVE if (kind, name, namespace) == ("Node", "n1", None) else None

    def list(self, _: str, kind: str, namespace: str | None = None, labels: str | None = None) -> list[dict[str, Any]]:
        return [ALIVE] if kind == "Node" else []


@pytest.mark.parametrize(("name", "refusal"), [("n1", NodeAlive), ("n7", NodeUnknown)])
def test_a_node_that_is_alive_or_unknown_is_refused_before_the_site_is_held(
    name: str, refusal: type[NodeAlive] | type[NodeUnknown]
) -> None:
    with pytest.raises(refusal):
        release_held(cast(Cluster, OnlyRead()), name, silent)

"""PostgreSQL's instances end when their operator gets another image, and not for anything else of it."""

from __future__ import annotations

import pytest
from mxinstall.deploy.inventory import Deployed
from mxinstall.outlook import FieldChange, ObjectChange
from mxinstall.outlook.changes import Seen, by_operators

CLUSTER = {
    "apiVersion": "postgresql.cnpg.io/v1",
    "kind": "Cluster",
    "metadata": {"namespace": "matrix-data", "name": "postgres"},
    "spec": {"instances": 3},
}


@pytest.mark.parametrize(
    ("kind", "name", "path", "ends"),
    [
        ("Deployment", "cnpg-controller-manager", "spec.template.spec.containers[manager].image", 3),
        ("Deployment", "cnpg-controller-manager", "spec.replicas", 0),
        ("Deployment", "routing", "spec.template.spec.containers[haproxy].image", 0),
        ("ConfigMap", "cnpg-default-monitoring", "data.image", 0),
    ],
)
def test_only_another_image_of_the_operator_ends_instances(kind: str, name: str, path: str, ends: int) -> None:
    change = ObjectChange(Deployed("apps/v1", kind, "n", name), "change", (FieldChange(path, "a", "b"),))
    assert sum(restart.pods for restart in by_operators([Seen(change)], [CLUSTER])) == ends

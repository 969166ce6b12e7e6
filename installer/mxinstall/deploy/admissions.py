"""The cluster's copy of what was admitted at this site, beside the host's own record.

Not here: the rule (`mxinstall.trust.admit`).
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from mxinstall.cluster import Cluster
from mxinstall.deploy.names import NAMESPACE, labels
from sitebundle.errors import ClusterRefused, ClusterUnreachable, JournalUnwritable

if TYPE_CHECKING:
    from mxinstall.trust import Record

_NAME = "admitted"
_RECORD, _SIGNERS = "admitted.json", "allowed_signers"


def read_cluster_record(cluster: Cluster) -> Record | None:
    """What the cluster remembers; None when it has no record. Raises JournalUnwritable for an unreadable one."""
    from mxinstall.trust import record_from_json

    secret = cluster.get("v1", "Secret", _NAME, NAMESPACE)
    if secret is None:
        return None
    try:
        return record_from_json(base64.b64decode(secret["data"][_RECORD]).decode())
    except (KeyError, ValueError) as fault:
        raise JournalUnwritable(detail=f"Secret {NAMESPACE}/{_NAME}: {fault}") from fault


def write_cluster_record(cluster: Cluster, record: Record, allowed_signers: str) -> None:
    """Keep the record and the trust store's copy in the cluster. Raises JournalUnwritable."""
    from mxinstall.trust import record_to_json

    data = {_RECORD: record_to_json(record), _SIGNERS: allowed_signers}
    try:
        cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": _NAME, "namespace": NAMESPACE, "labels": labels("admission")},
                "type": "mxbundle.io/admission",
                "data": {key: base64.b64encode(text.encode()).decode() for key, text in data.items()},
            }
        )
    except (ClusterRefused, ClusterUnreachable) as fault:
        raise JournalUnwritable(detail=fault.message) from fault

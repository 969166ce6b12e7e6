"""The rules, one file per subject. Importing this package declares them all, in the order of the report."""

from mxbundle.lint.model import RULES
from mxbundle.lint.rules import (
    availability,
    database,
    edge,
    images,
    network,
    nodes,
    outside,
    references,
    releases,
    security,
    synapse,
)

__all__ = [
    "RULES",
    "availability",
    "database",
    "edge",
    "images",
    "network",
    "nodes",
    "outside",
    "references",
    "releases",
    "security",
    "synapse",
]

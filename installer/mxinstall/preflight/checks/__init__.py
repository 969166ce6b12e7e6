"""The checks, one file per category. Importing this package declares them all, in the order of the report."""

from mxinstall.preflight.checks import site, kubernetes, nodes, storage, registry, backups, ports, leftovers, clock  # noqa: I001

__all__ = ["backups", "clock", "kubernetes", "leftovers", "nodes", "ports", "registry", "site", "storage"]

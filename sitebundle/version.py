"""Which version of the distribution this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def program_version() -> str:
    """The version of the installed distribution, `0+unknown` when it runs from somewhere else."""
    try:
        return version("mxbundle")
    except PackageNotFoundError:
        return "0+unknown"

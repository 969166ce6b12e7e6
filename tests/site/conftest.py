"""The running dark site that the tests in this folder share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from darksite import lifecycle
from darksite.site import Site


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is marked `site`."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.site)


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """The site that `$MXDARK_SITE` names (demo), up. One that was up before stays up; one that starts here goes.

    A site that cannot start is an error of the test, never a reason to skip it.
    """
    wanted = Site.from_environment()
    found = lifecycle.status(wanted)
    lifecycle.up(wanted, print)
    yield wanted
    if not found.exists:
        lifecycle.down(wanted, print)

"""Somebody changes one image of the running system: the audit fails and names it, and the next run puts it right."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darksite import demo as demonstration
from darksite import node_images

pytestmark = pytest.mark.site
PLACES = demonstration.Places(Path(__file__).parents[2] / "build")
CHANGED = "statefulset/synapse-client-reader"


def audited(operator: Callable[..., str]) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(operator("mxinstall", "--json", "status", check=False).splitlines()[-1])
    return status


def problems(status: dict[str, Any]) -> list[tuple[str, str]]:
    """Pod and problem of each container that the audit finds fault with."""
    return [(one["pod"], one["problem"]) for one in status["audit"]["containers"] if one["problem"]]


def test_a_changed_image_fails_the_audit_by_name_and_the_next_run_puts_it_right(
    demo: dict[str, Any], operator: Callable[..., str]
) -> None:
    assert demo["passed"], demo["failure"]
    before = audited(operator)
    assert before["healthy"], before
    operator("kubectl", "-n", "matrix", "set", "image", CHANGED, f"synapse={node_images.SHELL}")
    try:
        deadline = time.monotonic() + 90
        while not (named := problems(told := audited(operator))) and time.monotonic() < deadline:
            time.sleep(2)
        # The pod is new, so that its other containers may not have started yet; that is told as well.
        assert {pod for pod, _ in named} == {"synapse-client-reader-0"}
        assert [problem for _, problem in named if node_images.SHELL in problem]
        assert told["audit"]["mismatched"] == len(named)
        assert told["healthy"] is False
    finally:
        carried, signers = PLACES.stick / "site.tar.zst", PLACES.dark / "allowed_signers"
        operator("mxinstall", "--bundle", str(carried), "--yes", "--no-proof", "--allowed-signers", str(signers))
    after = audited(operator)
    assert after["audit"]["mismatched"] == 0
    assert after["healthy"], after

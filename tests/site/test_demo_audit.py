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


def test_a_changed_image_fails_the_audit_by_name_and_the_next_run_puts_it_right(
    demo: dict[str, Any], operator: Callable[..., str]
) -> None:
    assert demo["passed"], demo["failure"]
    before = audited(operator)
    assert before["healthy"], before
    operator("kubectl", "-n", "matrix", "set", "image", CHANGED, f"synapse={node_images.SHELL}")
    try:
        deadline = time.monotonic() + 90
        while not (told := audited(operator))["audit"]["mismatched"] and time.monotonic() < deadline:
            time.sleep(2)
        assert told["audit"]["mismatched"] == 1, told["audit"]
        (problem,) = [one for one in told["audit"]["containers"] if one["problem"]]
        assert problem["pod"] == "synapse-client-reader-0"
        assert node_images.SHELL in problem["problem"]
        assert told["healthy"] is False
    finally:
        carried, signers = PLACES.stick / "site.tar.zst", PLACES.dark / "allowed_signers"
        operator("mxinstall", "--bundle", str(carried), "--yes", "--no-proof", "--allowed-signers", str(signers))
    after = audited(operator)
    assert after["audit"]["mismatched"] == 0
    assert after["healthy"], after

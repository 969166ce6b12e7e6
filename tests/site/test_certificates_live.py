"""Every certificate of the running site is renewed at once, under load, and the proof passes afterwards."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ACROSS = ("-m", "tests.support.across_change")
MXINSTALL = str(Path(sys.executable).parent / "mxinstall")

pytestmark = pytest.mark.site


def certificates(operator: Callable[..., str]) -> dict[str, str]:
    """`namespace/name` → the certificate, of every Secret that the installer made one for."""
    found = {}
    for secret in json.loads(
        operator("kubectl", "get", "secrets", "-A", "-l", "mxbundle.io/part=secret", "-o", "json")
    )["items"]:
        if "tls.crt" in secret.get("data", {}):
            found[f"{secret['metadata']['namespace']}/{secret['metadata']['name']}"] = secret["data"]["tls.crt"]
    return found


def test_all_are_renewed_under_load_and_the_proof_passes(demo: dict[str, Any], operator: Callable[..., str]) -> None:
    assert demo["failure"] == ""
    before = certificates(operator)
    assert len(before) >= 5
    command = [MXINSTALL, "certificates", "renew", "--all", "--prove", "--json"]
    told = json.loads(operator(sys.executable, *ACROSS, "400", "4", "200", *command))
    assert told["code"] == 0, (told["stderr"], told["stdout"][-2000:])
    print(json.dumps({key: value for key, value in told.items() if key not in ("stdout", "stderr")}))
    result = json.loads(told["stdout"].splitlines()[-1])
    assert set(result["renewed"]) == set(before)
    assert all(step["ok"] for step in result["proof"])
    after = certificates(operator)
    assert all(after[name] != before[name] for name in before)
    assert told["lost"] == 0
    assert told["acknowledged"] == told["sent"] == 400


def test_status_lists_every_expiry_and_nothing_is_due_any_more(operator: Callable[..., str]) -> None:
    status = json.loads(operator(MXINSTALL, "status", "--json"))
    listed = {entry["secret"] for entry in status["certificates"]}
    assert listed >= {*certificates(operator), "mx-system/site-authority"}
    assert any(name.startswith("shown by ") for name in listed)
    assert status["healthy"]
    assert json.loads(operator(MXINSTALL, "certificates", "renew", "--json"))["renewed"] == []

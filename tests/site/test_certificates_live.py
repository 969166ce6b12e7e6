"""Every certificate of the running site is renewed at once, under load, and the proof passes afterwards.

What counts is what servers show in a handshake: a new Secret that nobody has taken renews nothing.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

ACROSS = ("-m", "tests.support.across_change")
SHOWN = ("-m", "tests.support.shown_certificates")
TAKEN_SECONDS = 240
"""The kubelet brings a changed Secret within about a minute and a half; CloudNativePG tells its pods by itself."""
SERVERS = {
    "matrix/edge-tls": 2,
    "matrix-data/postgres-server-tls": 3,
    "matrix-data/postgres-pooler-tls": 2,
    "matrix-data/valkey-tls": 3 + 3 + 2,
    "cnpg-system/barman-cloud-server-tls": 1,
    "cnpg-system/cnpg-webhook-cert": 2,
}
"""Secret → how many servers show it: Valkey's servers, sentinels, and the master behind each proxy."""
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


def shown(operator: Callable[..., str]) -> list[dict[str, str]]:
    """Of every server: who it is, whose certificate it should show, and the serial number of what it shows."""
    told: list[dict[str, str]] = json.loads(operator(sys.executable, *SHOWN))
    return told


def kept(operator: Callable[..., str]) -> dict[str, str]:
    """Secret → the serial number of its certificate, of those that servers show."""
    found = {}
    for place in SERVERS:
        namespace, name = place.split("/")
        secret = json.loads(operator("kubectl", "-n", namespace, "get", "secret", name, "-o", "json"))
        text = base64.b64decode(secret["data"]["tls.crt"])
        found[place] = f"{x509.load_pem_x509_certificate(text).serial_number:x}"
    return found


def unlike(operator: Callable[..., str]) -> list[dict[str, str]]:
    """The servers that show another certificate than their Secret has, or none."""
    serials = kept(operator)
    return [one for one in shown(operator) if one["serial"] != serials[one["secret"]]]


def test_all_are_renewed_under_load_every_server_shows_its_new_one_and_the_proof_passes(
    demo: dict[str, Any], operator: Callable[..., str]
) -> None:
    assert demo["failure"] == ""
    before, shown_before = certificates(operator), shown(operator)
    assert len(before) >= 5
    counted = {place: sum(one["secret"] == place for one in shown_before) for place in SERVERS}
    assert counted == SERVERS
    assert unlike(operator) == []
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
    began = time.monotonic()
    while (late := unlike(operator)) and time.monotonic() - began < TAKEN_SECONDS:
        time.sleep(5)
    assert late == []
    shown_after = shown(operator)
    assert {place: sum(one["secret"] == place for one in shown_after) for place in SERVERS} == SERVERS
    # The operator's webhook has a certificate of its operator's, which is not ours to renew.
    old = {one["serial"] for one in shown_before if one["secret"] in before}
    new = {one["serial"] for one in shown_after if one["secret"] in before}
    assert len(old) == len(new) == len(set(SERVERS) & set(before)) == 5
    assert not old & new


def test_status_lists_every_expiry_and_nothing_is_due_any_more(operator: Callable[..., str]) -> None:
    status = json.loads(operator(MXINSTALL, "status", "--json"))
    listed = {entry["secret"] for entry in status["certificates"]}
    assert listed >= {*certificates(operator), "mx-system/site-authority"}
    assert any(name.startswith("shown by ") for name in listed)
    # Those of the operators, of the store that was given, and of the kubeconfig are told with who renews them.
    assert listed >= {"cnpg-system/cnpg-webhook-cert", "cnpg-system/cnpg-ca-secret ca.crt", "the kubeconfig's CA"}
    assert any("matrix-data/backup-s3 ca.crt" in entry["places"] for entry in status["certificates"])
    assert all(entry["renewed_by"] for entry in status["certificates"])
    assert status["healthy"]
    assert json.loads(operator(MXINSTALL, "certificates", "renew", "--json"))["renewed"] == []

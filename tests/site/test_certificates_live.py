"""Every certificate of the running site is renewed at once, then its CA is: under load, with a proof after each.

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
from mxinstall.deploy.authority import issued_by

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


def under_load(operator: Callable[..., str], messages: int, *words: str) -> dict[str, Any]:
    """Four messages a second while `mxinstall certificates WORDS` runs and proves the system; what the command said."""
    command = [MXINSTALL, "certificates", *words, "--prove", "--json"]
    told = json.loads(operator(sys.executable, *ACROSS, str(messages), "4", "200", *command))
    assert told["code"] == 0, (told["stderr"], told["stdout"][-2000:])
    print(json.dumps({key: value for key, value in told.items() if key not in ("stdout", "stderr")}))
    result: dict[str, Any] = json.loads(told["stdout"].splitlines()[-1])
    assert all(step["ok"] for step in result["proof"])
    assert (told["lost"], told["acknowledged"]) == (0, messages)
    assert told["during"] >= 200
    return result


def await_shown(operator: Callable[..., str]) -> None:
    """Until every server shows what its Secret has, and all that should are there."""
    began = time.monotonic()
    while (late := unlike(operator)) and time.monotonic() - began < TAKEN_SECONDS:
        time.sleep(5)
    assert late == []
    asked = shown(operator)
    assert {place: sum(one["secret"] == place for one in asked) for place in SERVERS} == SERVERS


def trusted(operator: Callable[..., str]) -> set[str]:
    """What every Secret of the installer's that has a `ca.crt` holds there."""
    asked = operator("kubectl", "get", "secrets", "-A", "-l", "mxbundle.io/part=secret", "-o", "json")
    held = (secret.get("data", {}).get("ca.crt") for secret in json.loads(asked)["items"])
    return {base64.b64decode(text).decode() for text in held if text}


def signed_by(operator: Callable[..., str], authority: str) -> set[str]:
    """The Secrets whose certificate this CA (PEM) signed."""
    return {
        place for place, text in certificates(operator).items() if issued_by(base64.b64decode(text).decode(), authority)
    }


def test_the_sites_ca_is_replaced_under_load_and_what_people_see_stays_the_old_ones(
    demo: dict[str, Any], operator: Callable[..., str]
) -> None:
    assert demo["failure"] == ""
    before, edge = certificates(operator), kept(operator)["matrix/edge-tls"]
    (old,) = json.loads(operator(MXINSTALL, "certificates", "ca", "--json"))["authorities"]
    ahead = json.loads(operator(MXINSTALL, "certificates", "renew", "--ca", "--dry-run", "--json"))["ahead"]
    assert [step["step"] for step in ahead] == ["new", "trust", "wait", "issue"]
    assert {"StatefulSet/valkey-server", "StatefulSet/valkey-sentinel", "Deployment/valkey-proxy"} == {
        *ahead[1]["restarts"]
    }
    assert certificates(operator) == before
    result = under_load(operator, 1200, "renew", "--ca")
    assert set(result["restarted"]) == set(ahead[1]["restarts"])
    new, still = result["authorities"]
    assert [new["role"], still["role"], still["certificate"]] == ["signs", "old", old["certificate"]]
    assert signed_by(operator, new["certificate"]) == set(before) - {"matrix/edge-tls"}
    assert signed_by(operator, old["certificate"]) == {"matrix/edge-tls"}
    assert trusted(operator) == {new["certificate"] + old["certificate"]}
    await_shown(operator)
    assert kept(operator)["matrix/edge-tls"] == edge
    status = json.loads(operator(MXINSTALL, "status", "--json"))
    assert status["healthy"]
    assert {entry["secret"] for entry in status["certificates"]} >= {
        "mx-system/site-authority",
        "mx-system/site-authority old.crt",
    }
    assert json.loads(operator(MXINSTALL, "certificates", "renew", "--json"))["renewed"] == []
    assert json.loads(operator(MXINSTALL, "certificates", "renew", "--ca", "--json"))["renewed"] == []


def test_the_old_ca_is_forgotten_under_load_by_people_who_have_the_new_one(operator: Callable[..., str]) -> None:
    new, old = json.loads(operator(MXINSTALL, "certificates", "ca", "--json"))["authorities"]
    assert (new["role"], old["role"]) == ("signs", "old")
    result = under_load(operator, 1000, "forget-old-ca", "--yes")
    assert [one["certificate"] for one in result["authorities"]] == [new["certificate"]]
    assert signed_by(operator, new["certificate"]) == set(certificates(operator))
    assert trusted(operator) == {new["certificate"]}
    keys = json.loads(operator("kubectl", "-n", "mx-system", "get", "secret", "site-authority", "-o", "json"))["data"]
    assert set(keys) == {"ca.crt", "ca.key"}
    await_shown(operator)
    # Who had to be restarted trusts the new one alone; all of it still works.
    assert json.loads(operator(MXINSTALL, "status", "--json"))["healthy"]
    assert json.loads(operator(MXINSTALL, "certificates", "forget-old-ca", "--json"))["renewed"] == []


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

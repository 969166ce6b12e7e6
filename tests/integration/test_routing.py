"""Who answers which request: the rendered configuration in the real HAProxy, before processes that say who they are.

The requests are those of docs/reference/routing.md.
"""

import concurrent.futures
import http.client
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from routing_table import TYPES, Example, answers, examples
from routing_tier import FOLDER, Tier, configuration, run_haproxy, running_tier
from shipped_stack import MANIFESTS, stack, unpack_image, values_of

MANY = {
    "synchrotron": 3,
    "initial-synchrotron": 2,
    "client-reader": 2,
    "event-creator": 2,
    "federation-inbound": 2,
    "federation-reader": 2,
    "receipts": 2,
    "device-lists": 2,
    "background": 0,
    "pusher": 0,
    "federation-sender": 0,
}
"""Replicas of the types that a test looks at more closely; the others that answer requests have one."""
EVERY_TYPE: dict[str, Any] = {
    "workers": {entry["name"]: {"replicas": MANY.get(entry["name"], 1)} for entry in TYPES},
    "database": {"maxConnections": 900},
    "federation": {"enabled": True, "allow": ["*"]},
    "presence": {"enabled": True},
}
SOME_TYPES: dict[str, Any] = {
    "workers": {
        **{entry["name"]: {"replicas": 0} for entry in TYPES},
        "synchrotron": {"replicas": 1},
        "event-persister": {"replicas": 1},
        "account-data": {"replicas": 1},
    },
    "database": {"maxConnections": 300},
}
"""Those with the broadest patterns run, those with the narrow ones do not."""
VALUES = {
    "ROOM": "!r:example.site",
    "USER": "@u:example.site",
    "EVENT": "$e",
    "ALIAS": "%23a:example.site",
    "DEVICE": "ABCDEF",
    "SINCE": "s1_2",
}
EXAMPLES = examples()


@pytest.fixture(scope="module")
def haproxy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_image("haproxy", tmp_path_factory.mktemp("images") / "haproxy")


@pytest.fixture(scope="module")
def tier(haproxy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tier]:
    with running_tier(haproxy_root, tmp_path_factory.mktemp("tier"), EVERY_TYPE, replicas=2) as running:
        yield running


@pytest.fixture(scope="module")
def small_tier(haproxy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tier]:
    with running_tier(haproxy_root, tmp_path_factory.mktemp("small"), SOME_TYPES) as running:
        yield running


@pytest.mark.parametrize(
    ("profile", "over"),
    [
        ("demo", {}),
        ("small", {}),
        ("demo", EVERY_TYPE),
        ("demo", {**EVERY_TYPE, "federation": {"enabled": True, "allow": ["*"], "port": 8448}}),
        ("demo", {"edge": {"mode": "none", "trustedProxies": ["10.0.0.0/8", "fd00::/8"]}}),
        ("demo", {"edge": {"hstsSeconds": 300, "wellKnownClient": {"x": "it's"}}}),
    ],
    ids=["demo", "small", "every-type", "federation-port", "no-edge", "hsts"],
)
def test_haproxy_accepts_the_configuration_as_it_is_shipped(
    tier: Tier, haproxy_root: Path, tmp_path: Path, profile: str, over: dict[str, Any]
) -> None:
    for name, text in configuration(over, profile).items():
        (tmp_path / name).write_text(text)
    tmp_path.chmod(0o755)
    resolv_conf = tmp_path.parent / f"{tmp_path.name}-resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.1\n")
    checking = run_haproxy(
        haproxy_root,
        tmp_path,
        tier.certificates,
        resolv_conf,
        "/bin/sh",
        "-c",
        f"echo 1 > /var/lib/haproxy/servers; haproxy -c -dW -f {FOLDER}/haproxy.cfg",
    )
    said, _ = checking.communicate(timeout=60)
    assert [line for line in said.splitlines() if "WARNING" in line or "ALERT" in line] == []
    assert checking.returncode == 0, said


def test_each_pattern_has_an_example() -> None:
    without = {
        pattern
        for entry in TYPES
        for route in entry["routes"]
        for pattern in route["paths"]
        if not any(
            one.type == entry["name"] and re.search(pattern, one.with_values(VALUES).partition("?")[0])
            for one in EXAMPLES
        )
    }
    # The admin API's are asked below, of a tier that lets them in.
    assert {pattern for pattern in without if "_synapse/admin" not in pattern} == set()


def test_a_route_says_nothing_that_the_chart_does_not_read() -> None:
    known = {"balance", "paths", "methods", "without", "with"}
    assert {key for entry in TYPES for route in entry["routes"] for key in route} <= known
    balances = {route["balance"] for entry in TYPES for route in entry["routes"]}
    assert balances == {"token", "room", "source", "uri", "robin"}


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_a_request_reaches_the_type_that_serves_it(tier: Tier, example: Example) -> None:
    answer = tier.ask(example.method, example.with_values(VALUES))
    assert (answer.status, answer.backend) == (200, example.backend)
    assert answer.headers["x-mx-worker"] == f"{example.backend}/{answer.worker}"
    assert re.sub(r"-\d+$", "", answer.worker) == f"synapse-{example.type}"


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_what_a_missing_type_would_do_falls_to_main_and_not_to_a_broader_pattern(
    small_tier: Tier, example: Example
) -> None:
    answer = small_tier.ask(example.method, example.with_values(VALUES))
    expected = answers(example, {"synchrotron", "account-data"})
    assert (answer.status, re.sub(r"-\d+$", "", answer.worker)) == (200, f"synapse-{expected}")


def test_a_stream_that_another_writer_took_over_brings_its_requests(haproxy_root: Path, tmp_path: Path) -> None:
    over = {
        "workers": {
            **SOME_TYPES["workers"],
            "account-data": {"replicas": 0},
            "typing": {"replicas": 1, "streams": ["account_data", "push_rules"]},
        },
        "database": {"maxConnections": 300},
    }
    with running_tier(haproxy_root, tmp_path, over) as taken:
        for path, worker in (
            (f"/_matrix/client/v3/user/{VALUES['USER']}/account_data/m.direct", "synapse-typing-0"),
            ("/_matrix/client/v3/pushrules/global/override/tags", "synapse-typing-0"),
            (f"/_matrix/client/v3/rooms/{VALUES['ROOM']}/typing/{VALUES['USER']}", "synapse-typing-0"),
            ("/_matrix/client/v3/sendToDevice/org.x/account_data", "synapse-main-0"),
        ):
            assert taken.ask("PUT", path).worker == worker, path


@pytest.mark.parametrize(
    ("method", "path", "backend"),
    [
        ("GET", "/_synapse/admin/v2/users/@u:x", "client-reader"),
        ("PUT", "/_synapse/admin/v2/users/@u:x", "main"),
        ("GET", "/_synapse/admin/v2/users", "main"),
        ("GET", "/_synapse/admin/v1/rooms/!r:x", "client-reader"),
        ("GET", "/_synapse/admin/v1/rooms/!r:x/members", "main"),
        ("POST", "/_synapse/admin/v1/purge_media_cache", "media-repository"),
        ("GET", "/_synapse/admin/v1/room/!r:x/media", "media-repository"),
        ("POST", "/_synapse/admin/v1/quarantine_media/!r:x", "media-repository"),
        ("GET", "/_synapse/admin/v1/users/@u:x/media", "media-repository"),
        ("POST", "/_synapse/admin/v1/register", "main"),
    ],
)
def test_an_open_admin_api_has_its_routes(open_tier: Tier, method: str, path: str, backend: str) -> None:
    assert open_tier.ask(method, path).backend == backend


@pytest.fixture(scope="module")
def open_tier(haproxy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tier]:
    over = {
        "adminApi": "open",
        "workers": {**SOME_TYPES["workers"], "client-reader": {"replicas": 1}, "media-repository": {"replicas": 1}},
        "database": {"maxConnections": 300},
    }
    with running_tier(haproxy_root, tmp_path_factory.mktemp("open"), over) as running:
        yield running


@pytest.mark.parametrize(
    "path", ["/_synapse/admin/v1/register", "/_synapse/admin/v2/users/@u:x", "/_synapse/%61dmin/v1/register"]
)
def test_the_admin_api_is_closed_to_the_outside(tier: Tier, path: str) -> None:
    assert tier.ask("GET", path).status == 403
    assert tier.ask_tls("GET", path).status == 403


def test_a_path_arrives_as_the_client_wrote_it(tier: Tier) -> None:
    path = "/_matrix/client/v3/rooms/%21a%2Fb%3Aexample.site/send/m.room.message/..%2F//t%201?x=%2F"
    assert tier.ask("PUT", path).body["path"] == path


def test_as_it_is_shipped_an_answer_does_not_name_the_process_that_gave_it(
    haproxy_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for profile in stack().profiles:
        assert not values_of("synapse", profile).get("routing", {}).get("sayWho")
    default = yaml.safe_load((MANIFESTS / "charts/synapse/values.yaml").read_text())["routing"]["sayWho"]
    shipped = {**SOME_TYPES, "routing": {"sayWho": default}}
    with running_tier(haproxy_root, tmp_path_factory.mktemp("silent"), shipped) as silent:
        answer = silent.ask("GET", "/_matrix/client/v3/sync?since=s1")
    assert answer.worker == "synapse-synchrotron-0"
    assert "synchrotron" not in str(answer.headers)


def test_a_browser_is_told_that_it_may_ask(tier: Tier) -> None:
    answer = tier.ask("OPTIONS", "/_matrix/client/v3/sync")
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "Authorization" in answer.headers["access-control-allow-headers"]


def test_too_big_an_upload_ends_before_it_reaches_synapse(tier: Tier) -> None:
    answer = tier.ask("POST", "/_matrix/media/v3/upload", {"Content-Length": str((50 << 20) + 1)})
    assert (answer.status, answer.body["errcode"]) == (413, "M_TOO_LARGE")


def test_one_token_stays_on_one_process_whichever_replica_it_meets(tier: Tier) -> None:
    for number in range(40):
        token = f"syt_{number}_secret"
        by_query = tier.ask("GET", f"/_matrix/client/v3/sync?since=s1&access_token={token}").worker
        assert {tier.sync(token).worker, tier.sync(token, replica=1).worker, by_query} == {by_query}


def test_tokens_spread_over_all_synchrotrons(tier: Tier) -> None:
    share = Counter(tier.sync(f"mat_{number}").worker for number in range(300))
    assert len(share) == 3
    assert min(share.values()) > 300 * 0.15


@pytest.mark.parametrize("path", ["messages?dir=b", "send/m.room.message/t1", "join"])
def test_one_room_stays_on_one_process_however_it_is_written(tier: Tier, path: str) -> None:
    workers = set()
    for number in range(10):
        plain = f"/_matrix/client/v3/rooms/!{number}:example.site/{path}"
        encoded = plain.replace("!", "%21").replace(":", "%3A")
        worker = tier.ask("POST", plain).worker
        assert tier.ask("POST", encoded, replica=1).worker == worker
        workers.add(worker)
    assert len(workers) == 2


def test_rooms_are_created_by_more_than_one_process(tier: Tier) -> None:
    tokens = [{"Authorization": f"Bearer t{number}"} for number in range(20)]
    assert len({tier.ask("POST", "/_matrix/client/v3/createRoom", token).worker for token in tokens}) == 2


def test_one_federated_question_stays_on_one_process_and_others_go_elsewhere(tier: Tier) -> None:
    paths = [f"/_matrix/federation/v1/event/${number}?x=1" for number in range(20)]
    first = {path: tier.ask("GET", path).worker for path in paths}
    assert first == {path: tier.ask("GET", path, replica=1).worker for path in paths}
    assert len(set(first.values())) == 2


def test_other_requests_take_turns(tier: Tier) -> None:
    assert len({tier.ask("GET", "/_matrix/client/versions").worker for _ in range(4)}) == 2


def test_a_lost_synchrotron_moves_only_its_own_clients_and_gets_them_back(tier: Tier) -> None:
    tokens = [f"tok_{number}" for number in range(120)]
    before = {token: tier.sync(token).worker for token in tokens}
    with tier.without("synapse-synchrotron-1") as (lost,):
        # At once, before any health check: a connection that is refused is tried elsewhere.
        assert {tier.sync(token).status for token in tokens} == {200}
        tier.wait_for({"synchrotron-by-token": 2})
        during = {token: tier.sync(token).worker for token in tokens}
        assert during == {token: tier.sync(token, replica=1).worker for token in tokens}
    moved = {token for token in tokens if before[token] != during[token]}
    assert moved == {token for token in tokens if before[token] == lost.name}
    assert moved
    tier.wait_for({"synchrotron-by-token": 3})
    assert {token: tier.sync(token).worker for token in tokens} == before


def test_a_synchrotron_that_autoscaling_adds_takes_its_share_and_nothing_else_moves(
    haproxy_root: Path, tmp_path: Path
) -> None:
    workers = {"synchrotron": {"replicas": 2, "autoscaling": {"maximum": 4, "cpuPercent": 70}}}
    over = {"workers": {**SOME_TYPES["workers"], **workers}, "database": {"maxConnections": 300}}
    later = ("synapse-synchrotron-2", "synapse-synchrotron-3")
    with running_tier(haproxy_root, tmp_path, over, replicas=2, missing=later) as growing:
        tokens = [f"tok_{number}" for number in range(120)]
        before = {token: growing.sync(token).worker for token in tokens}
        growing.appear(later[0])
        growing.wait_for({"synchrotron-by-token": 3})
        after = {token: growing.sync(token, replica=1).worker for token in tokens}
    assert set(before.values()) == {"synapse-synchrotron-0", "synapse-synchrotron-1"}
    assert {after[token] for token in tokens if after[token] != before[token]} == {later[0]}


@pytest.mark.parametrize(
    ("part", "method", "path", "worker"),
    [
        ("client-reader", "GET", "/_matrix/client/versions", "main"),
        ("event-creator", "PUT", "/_matrix/client/v3/rooms/!r:x/send/m.room.message/t", "main"),
        ("user-dir", "POST", "/_matrix/client/v3/user_directory/search", "main"),
        ("initial-synchrotron", "GET", "/_matrix/client/v3/sync", "synchrotron"),
        ("synchrotron", "GET", "/_matrix/client/v3/sync", "main"),
        ("sliding-sync", "POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", "synchrotron"),
        ("push-rules", "GET", "/_matrix/client/v3/pushrules/", "main"),
        ("device-lists", "GET", "/_matrix/client/v3/devices", "main"),
        ("account-data", "GET", "/_matrix/client/v3/user/@u:x/account_data/m.direct", "main"),
        ("presence", "GET", "/_matrix/client/v3/presence/@u:x/status", "main"),
        ("push-rules", "PUT", "/_matrix/client/v3/pushrules/global/override/x", None),
        ("device-lists", "POST", "/_matrix/client/v3/keys/upload", None),
        ("account-data", "PUT", "/_matrix/client/v3/user/@u:x/account_data/m.direct", None),
        ("presence", "PUT", "/_matrix/client/v3/presence/@u:x/status", None),
        ("typing", "PUT", "/_matrix/client/v3/rooms/!r:x/typing/@u:x", None),
        ("to-device", "PUT", "/_matrix/client/v3/sendToDevice/m.x/t", None),
        ("receipts", "POST", "/_matrix/client/v3/rooms/!r:x/receipt/m.read/$e", None),
        ("media-repository", "GET", "/_matrix/client/v1/media/download/x/y", None),
        ("sso-login", "GET", "/_matrix/client/v3/login/sso/redirect", None),
    ],
)
def test_while_a_type_is_down_main_does_what_it_can_and_the_rest_is_to_come_again(
    tier: Tier, part: str, method: str, path: str, worker: str | None
) -> None:
    whole = {
        name: sum(f"synapse-{kind}-" == re.sub(r"\d+$", "", one) for one in tier.processes)
        for name, kind in _backends(tier)
        if part in kind
    }
    with tier.without(part):
        tier.wait_for(dict.fromkeys(whole, 0))
        answer = tier.ask(method, path)
    if worker is None:
        assert (answer.status, answer.body["errcode"]) == (429, "M_LIMIT_EXCEEDED")
        assert answer.body["retry_after_ms"] > 0
        assert answer.headers["access-control-allow-origin"] == "*"
    else:
        assert (answer.status, re.sub(r"-\d+$", "", answer.worker)) == (200, f"synapse-{worker}")
    tier.wait_for(whole)


def _backends(tier: Tier) -> list[tuple[str, str]]:
    """Each backend and its type."""
    return [(name, re.sub(r"-by-\w+$", "", name)) for name in tier._up(tier.addresses[0])]


def test_first_syncs_are_bounded_and_do_not_take_room_from_the_others(haproxy_root: Path, tmp_path: Path) -> None:
    over = {
        "workers": {**SOME_TYPES["workers"], "initial-synchrotron": {"replicas": 1}},
        "database": {"maxConnections": 300},
        "routing": {"queueSeconds": 1, "maxConnections": 500},
    }
    with running_tier(haproxy_root, tmp_path, over) as crowded:

        def first_sync(number: int) -> int:
            return crowded.ask("GET", f"/_matrix/client/v3/sync?hold=3&n={number}").status

        with concurrent.futures.ThreadPoolExecutor(80) as clients:
            asked = [clients.submit(first_sync, number) for number in range(80)]
            time.sleep(0.5)
            others = [crowded.sync(f"t{number}") for number in range(20)]
            told = Counter(one.result() for one in asked)
    # Fifty are in the process; the others wait a second, and are told to come again.
    assert told == {200: 50, 429: 30}
    assert crowded.processes["synapse-initial-synchrotron-0"].most_at_once == 50
    assert {answer.worker for answer in others} == {"synapse-synchrotron-0"}


def test_a_replica_is_ready_without_synapse(haproxy_root: Path, tmp_path: Path) -> None:
    with running_tier(haproxy_root, tmp_path, SOME_TYPES) as alone, alone.without("synapse"):
        alone.wait_for({"main": 0})
        connection = http.client.HTTPConnection(alone.addresses[0], 8405, timeout=5)
        connection.request("GET", "/health")
        status = connection.getresponse().status
        connection.close()
        assert (status, alone.ask("GET", "/_matrix/client/versions").status) == (200, 429)

"""The run of proof steps: what a failing step does to the others, and that what was made is always ended."""

from __future__ import annotations

import json

import pytest
from mxinstall.proof import STEPS, ProofContext, conversation
from mxinstall.proof.admin import Admin
from mxinstall.proof.matrix import Account
from mxinstall.proof.metrics import counter
from mxinstall.proof.steps import Disproved, ProofReport, ProofStep, Scene, perform, step

from sitebundle.errors import ClusterUnreachable, ProofFailed
from sitebundle.event_order import in_order
from sitebundle.events import Event, Step


class NoProcesses:
    def count(self, worker: str) -> int:
        return 0

    def counter(self, worker: str, name: str, **labels: str) -> float:
        return 0.0


def refuse(method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
    return 403, b'{"errcode": "M_FORBIDDEN", "error": "not you"}'


CONTEXT = ProofContext("http://127.0.0.1:9", "secret", refuse, NoProcesses())


def passes(scene: Scene) -> str:
    return "seen"


def fails(scene: Scene) -> str:
    raise Disproved("saw something else")


def loses_the_cluster(scene: Scene) -> str:
    raise ClusterUnreachable(server="https://a:6443", detail="no route")


def report_of(*steps: ProofStep) -> tuple[ProofReport, list[Event]]:
    events: list[Event] = []
    return perform(CONTEXT, steps, in_order(events.append)), events


def test_a_step_that_needs_a_failed_one_is_not_tried_and_the_end_always_is() -> None:
    ended: list[str] = []

    def end(scene: Scene) -> str:
        ended.append(scene.name)
        return "gone"

    report, events = report_of(
        ProofStep("end", "End", end, ("bad",), "end"),
        ProofStep("bad", "Bad", fails),
        ProofStep("after", "After", passes, ("bad",)),
        ProofStep("apart", "Apart", passes),
    )
    verdicts = {result.id: (result.verdict, result.detail) for result in report.results}
    assert verdicts == {
        "bad": ("fail", "saw something else"),
        "after": ("not-checked", "needs bad"),
        "apart": ("ok", "seen"),
        "end": ("ok", "gone"),
    }
    assert len(ended) == 1
    assert [event.id for event in events if isinstance(event, Step)] == ["bad", "after", "apart", "end"]
    assert report.failed == ("bad", "after")
    with pytest.raises(ProofFailed, match="2 proof steps failed: bad, after"):
        report.require()


def test_an_api_server_that_goes_away_fails_the_step_with_the_errors_own_id() -> None:
    report, _ = report_of(ProofStep("cluster", "Cluster", loses_the_cluster))
    assert report.results[0].detail.startswith("cluster-unreachable: ")


def test_the_report_says_for_each_step_whether_it_is_ok() -> None:
    report, _ = report_of(ProofStep("one", "One", passes), ProofStep("two", "Two", fails))
    rows = json.loads(json.dumps(report.as_json()))
    assert [(row["id"], row["ok"], row["detail"]) for row in rows] == [
        ("one", True, "seen"),
        ("two", False, "saw something else"),
    ]


def test_the_real_steps_fail_where_no_system_answers_and_leave_nothing_to_clean() -> None:
    one = STEPS["client-api"]
    quick = ProofStep(one.id, one.title, lambda scene: str(scene.server.call("GET", "/x", patience_seconds=0.1)))
    report, _ = report_of(quick, STEPS["register"], STEPS["login"], STEPS["clean-up"])
    assert report.failed == ("client-api", "register", "login")
    assert report.results[-1].detail == "0 rooms purged, 0 users deactivated"


def test_a_sync_that_no_synchrotron_counted_is_not_proved() -> None:
    scene = Scene(CONTEXT, None, None)  # type: ignore[arg-type]
    scene.devices["bob"] = None  # type: ignore[assignment]
    with pytest.raises(Disproved, match="no synchrotron runs"):
        conversation.sync_by_synchrotron(scene)


def test_every_declared_step_needs_only_steps_declared_before_it() -> None:
    seen: set[str] = set()
    for one in STEPS.values():
        assert set(one.needs) <= seen
        seen.add(one.id)
    assert {"synchrotron-lost", "primary-lost"} == {one.id for one in STEPS.values() if one.kind == "fault"}
    assert [one.id for one in STEPS.values() if one.kind == "end"] == ["clean-up"]


def test_a_step_cannot_take_the_id_of_another_or_need_an_unknown_one() -> None:
    with pytest.raises(ValueError, match="login"):
        step("login", "Again")(passes)
    with pytest.raises(ValueError, match="nowhere"):
        step("new-step", "New", needs=("nowhere",))(passes)
    assert "new-step" not in STEPS


def test_registration_signs_nonce_name_password_and_role_as_synapse_expects() -> None:
    asked: list[tuple[str, str, dict[str, object]]] = []

    def inside(method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        asked.append((method, path, json.loads(body) if body else {}))
        return 200, b'{"nonce": "thisisanonce", "user_id": "@pepper_roni:test"}'

    account = Admin(inside, "shared_secret").register("pepper_roni", "pizza", admin=True)
    # printf 'thisisanonce\\0pepper_roni\\0pizza\\0admin' | openssl sha1 -hmac shared_secret
    assert asked[1][2]["mac"] == "48715842ad67d5dc9a9ee938a3bda4fcfae8d7c7"
    assert asked[1][2]["nonce"] == "thisisanonce"
    assert account == Account("@pepper_roni:test", "pizza")


EXPOSITION = """# HELP synapse_http_server_requests_received_total
# TYPE synapse_http_server_requests_received_total counter
synapse_http_server_requests_received_total{method="GET",servlet="SyncRestServlet"} 41.0
synapse_http_server_requests_received_total{method="GET",servlet="SyncRestServlet2"} 5.0
synapse_http_server_requests_received_total{method="PUT",servlet="Say \\"{hi}\\" Servlet"} 2 1700000000
synapse_http_server_requests_received_total_created{servlet="SyncRestServlet"} 1.7e9
process_open_fds 12
"""


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("synapse_http_server_requests_received_total", {"servlet": "SyncRestServlet"}, 41.0),
        ("synapse_http_server_requests_received_total", {}, 48.0),
        ("synapse_http_server_requests_received_total", {"method": "GET", "servlet": "SyncRestServlet2"}, 5.0),
        ("synapse_http_server_requests_received_total", {"servlet": "Other"}, 0.0),
        ("process_open_fds", {}, 12.0),
        ("process_open", {}, 0.0),
    ],
)
def test_a_counter_is_the_sum_of_the_samples_that_carry_the_labels(
    name: str, labels: dict[str, str], value: float
) -> None:
    assert counter(EXPOSITION, name, **labels) == value

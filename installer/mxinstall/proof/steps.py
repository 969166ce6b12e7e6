"""The registry of proof steps, what they share, and the run that asks each. The steps: conversation, media, faults.

A step is one function: it returns what it saw in a few words, or raises Disproved.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from mxinstall.proof.admin import Admin, Inside
from mxinstall.proof.matrix import Account, Homeserver, MatrixError, Session
from sitebundle.errors import MxError, ProofFailed
from sitebundle.events import Sink, Step, stage

Verdict = Literal["ok", "fail", "not-checked"]


class Disproved(Exception):
    """A step saw something else than it should; the text says what."""


class Processes(Protocol):
    """The Synapse processes by type of worker (`main`, `synchrotron`, `event-persister` …)."""

    def count(self, worker: str) -> int:
        """How many run and are ready."""

    def counter(self, worker: str, name: str, **labels: str) -> float:
        """The sum of one of their own counters over all that run. Raises Disproved when one does not tell."""


class Wrecker(Protocol):
    """What breaks things on purpose, and sees them mend."""

    def kill_worker(self, worker: str) -> str:
        """Delete one pod of this type of worker; its name."""

    def kill_database_primary(self) -> str:
        """Delete the pod that holds the PostgreSQL primary; its name."""

    def until_whole(self, timeout_seconds: float) -> tuple[float, str]:
        """Wait until what was just killed is back; seconds it took and what is there now. Raises Disproved."""


@dataclass(frozen=True)
class ProofContext:
    """How the installed system is reached: as its users do, and from inside where only an operator may go.

    `base_url` is the address that users have, `address` (`host:port`) where it is connected to, `ca` (PEM) whose
    certificates are believed.
    """

    base_url: str
    registration_secret: str
    inside: Inside
    processes: Processes
    wrecker: Wrecker | None = None
    ca: str | None = None
    address: str | None = None


@dataclass
class Scene:
    """What the steps of one run share. Everything in it is made by the run and ended by its clean-up."""

    context: ProofContext
    server: Homeserver
    admin: Admin
    name: str = field(default_factory=lambda: f"mxproof-{secrets.token_hex(4)}")
    accounts: dict[str, Account] = field(default_factory=dict)
    devices: dict[str, Session] = field(default_factory=dict)
    rooms: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def room(self) -> str:
        """The room that the two users talk in."""
        return self.rooms[0]


def scene_of(context: ProofContext) -> Scene:
    """A scene with nobody in it yet."""
    server = Homeserver(context.base_url, context.ca, context.address)
    return Scene(context, server, Admin(context.inside, context.registration_secret))


@dataclass(frozen=True)
class ProofStep:
    """One declared step. kind: `proof` changes nothing that lasts; `fault` breaks something; `end` always runs."""

    id: str
    title: str
    act: Callable[[Scene], str]
    needs: tuple[str, ...] = ()
    kind: Literal["proof", "fault", "end"] = "proof"


@dataclass(frozen=True)
class ProofResult:
    """What came of one step."""

    id: str
    title: str
    verdict: Verdict
    detail: str
    seconds: float


@dataclass(frozen=True)
class ProofReport:
    """All results, in the order in which the steps ran."""

    results: tuple[ProofResult, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """The ids of the steps that did not pass, those that could not be tried among them."""
        return tuple(result.id for result in self.results if result.verdict != "ok")

    def as_json(self) -> list[dict[str, Any]]:
        """`proof[]` of a run report: id, ok, detail and more."""
        return [{**asdict(result), "ok": result.verdict == "ok"} for result in self.results]

    def require(self) -> None:
        """Raises ProofFailed unless every step passed."""
        if self.failed:
            raise ProofFailed(count=len(self.failed), steps=", ".join(self.failed))


_ORDER = ("proof", "fault", "end")

STEPS: dict[str, ProofStep] = {}
"""Every step by its id, in the order of declaration, which is the order of the run."""

Act = Callable[[Scene], str]


def step(
    identity: str, title: str, *, needs: tuple[str, ...] = (), kind: Literal["proof", "fault", "end"] = "proof"
) -> Callable[[Act], Act]:
    """Declare a function as the proof step `identity`. Raises ValueError when the id is taken or a need unknown."""

    def declare(act: Act) -> Act:
        unknown = [need for need in needs if need not in STEPS]
        if identity in STEPS or unknown:
            raise ValueError(f"proof step {identity}: taken, or needs what is not declared before it: {unknown}")
        STEPS[identity] = ProofStep(identity, title, act, needs, kind)
        return act

    return declare


def perform(context: ProofContext, steps: Iterable[ProofStep], sink: Sink) -> ProofReport:
    """Run `steps` in order, faults after all proofs; a step whose need did not pass is not tried.

    Steps of kind `end` come last and always are.
    """
    scene = scene_of(context)
    results: dict[str, ProofResult] = {}
    with stage(sink, "proof", "Prove that the system does its work") as tally:
        for one in sorted(steps, key=lambda each: _ORDER.index(each.kind)):
            result = results[one.id] = _try(one, scene, results)
            sink(Step("proof", one.id, result.verdict, result.detail, result.seconds))
        passed = sum(result.verdict == "ok" for result in results.values())
        tally.detail = f"{passed} of {len(results)} steps passed"
    return ProofReport(tuple(results.values()))


def _try(one: ProofStep, scene: Scene, results: dict[str, ProofResult]) -> ProofResult:
    unmet = [need for need in one.needs if need not in results or results[need].verdict != "ok"]
    if unmet and one.kind != "end":
        return ProofResult(one.id, one.title, "not-checked", f"needs {', '.join(unmet)}", 0.0)
    started = time.monotonic()
    verdict: Verdict = "ok"
    try:
        detail = one.act(scene)
    except (Disproved, MatrixError) as seen:
        verdict, detail = "fail", str(seen)
    except MxError as error:
        verdict, detail = "fail", f"{error.id}: {error.message}"
    return ProofResult(one.id, one.title, verdict, detail, time.monotonic() - started)

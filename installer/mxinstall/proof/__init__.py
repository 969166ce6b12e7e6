"""Proof: the installed system does its work for real clients, and goes on doing it when parts of it die.

Public: `run`, `ProofContext`, `ProofReport`, `context_of`, `STEPS`. Not here: deploying, the audit of images.
"""

from __future__ import annotations

from mxinstall.proof import conversation, faults, media
from mxinstall.proof.reach import context_of
from mxinstall.proof.steps import STEPS, ProofContext, ProofReport, ProofResult, ProofStep, perform
from sitebundle.events import Sink, silent

__all__ = ["STEPS", "ProofContext", "ProofReport", "ProofResult", "ProofStep", "context_of", "run"]

DECLARED_IN = (conversation, media, faults)


def run(context: ProofContext, sink: Sink = silent, *, faults: bool = False) -> ProofReport:
    """Ask every step, with `faults` also those that delete pods. It cleans up after itself, whatever happens.

    Never raises for a step that fails: read the report, or call its `require()`.
    """
    return perform(context, [one for one in STEPS.values() if faults or one.kind != "fault"], sink)

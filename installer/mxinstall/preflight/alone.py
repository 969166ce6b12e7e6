"""Preflight as a stage of its own: open, judge, look; with `active`, push the probe image first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mxinstall.opening import open_site
from mxinstall.preflight.context import context_for
from mxinstall.preflight.model import CHECKS, Check, PreflightReport
from mxinstall.preflight.run import run
from mxinstall.seed import push_probe
from sitebundle.errors import CheckUnknown
from sitebundle.events import Sink


@dataclass(frozen=True)
class Question:
    """What the operator wants to know. `skip`: id -> reason."""

    bundle: Path
    site_file: Path | None
    allowed_signers: Path | None
    kubeconfig: Path | None
    active: bool
    only: tuple[str, ...]
    skip: dict[str, str]


def preflight_alone(question: Question, sink: Sink) -> PreflightReport:
    """The report, whatever is in it. An active run looks first, and pushes only when nothing failed."""
    with open_site(question.bundle, question.site_file, question.allowed_signers, question.kubeconfig, sink) as opening:
        context = context_for(opening, opening.operator)
        passive = run(context, False, sink, skip=question.skip, only=question.only)
        if not question.active or passive.of("fail"):
            return passive
        push_probe(opening.reader, opening.carried.stack, opening.site, sink)
        return run(context, True, sink, skip=question.skip, only=question.only)


def describe(name: str | None) -> list[Check]:
    """One check, or all of them. Raises CheckUnknown."""
    if name is None:
        return list(CHECKS.values())
    if name not in CHECKS:
        raise CheckUnknown(check=name)
    return [CHECKS[name]]

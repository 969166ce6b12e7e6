"""The answers of site.yaml: whether they fit each other, and the bundle."""

from __future__ import annotations

from mxinstall.preflight.context import Context
from mxinstall.preflight.model import Verdict, check
from mxinstall.site.agreement import Disagreement, disagreements

_TOLD_ELSEWHERE = ("ports.disjoint", "ports.node-ports", "storage.known")
"""Rules whose subject has a check of its own, which also looks at the cluster."""


@check(
    id="site.values",
    title="The values of site.yaml fit each other, and the bundle",
    protects="Two answers that contradict each other come to light one after the other, halfway through the install.",
)
def values(context: Context) -> Verdict:
    """Every rule of `mxinstall.site.agreement` that needs no look at the cluster."""
    met = [
        found for found in disagreements(context.site, context.bundle_values) if found.rule.id not in _TOLD_ELSEWHERE
    ]
    grave = [found for found in met if found.rule.severity == "fail"]
    expected = "no two values that contradict each other"
    if not met:
        return Verdict("pass", "they fit", expected)
    told = grave or met
    return Verdict(
        "fail" if grave else "warn",
        "; ".join(map(_seen, told)),
        expected,
        f"In site.yaml: {'; '.join(f'{found.field}: {found.met.todo}' for found in told)}.",
    )


def _seen(found: Disagreement) -> str:
    return f"{found.field}: {found.met.seen} ({found.rule.id})"

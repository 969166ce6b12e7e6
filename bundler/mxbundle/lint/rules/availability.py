"""Disruption budgets: one for each workload with several pods, that lets a drain through and never all of them go."""

from __future__ import annotations

from collections.abc import Iterator

from mxbundle.lint.model import Hit, hit, rule
from mxbundle.lint.subject import Item, Subject
from mxbundle.lint.workloads import Workload, at, matches, share


@rule(
    id="availability.budget",
    title="Every workload with several pods has exactly one disruption budget",
    protects="Without one a drain may take all pods at once; with two over one pod the API server evicts it never.",
    todo="One PodDisruptionBudget per workload, maxUnavailable: 1, with the workload's own selector.",
)
def budget(subject: Subject) -> Iterator[Hit]:
    """Deployments, StatefulSets and operands; an operator's own budgets count unless they are turned off."""
    for load in subject.workloads:
        if not load.lasting:
            continue
        over = [item.name for item in _budgets(subject) if load in _covered(subject, item)]
        own = load.operand is not None and load.operand.budgets is not None
        if own and load.operand is not None and at(load.item.entry, str(load.operand.budgets)) is False:
            yield hit(load.item.entry, str(load.operand.budgets), "the operator's own budgets are turned off")
        elif own and over:
            yield hit(load.item.entry, "spec", f"{', '.join(over)}, beside the operator's own")
        elif not own and load.most > 1 and len(over) != 1:
            yield hit(load.item.entry, "spec.replicas", f"{load.most} pods; budgets: {', '.join(over) or 'none'}")


@rule(
    id="availability.budget-lets-drain",
    title="Every disruption budget lets a node be drained",
    protects="A budget that allows nothing stops every drain and with it every upgrade of the cluster.",
    todo="maxUnavailable: 1; for a single pod too.",
)
def budget_lets_drain(subject: Subject) -> Iterator[Hit]:
    """Counted with the least number of pods that an autoscaler leaves."""
    for item in _budgets(subject):
        total = sum(load.replicas for load in _covered(subject, item))
        if total and (allowed := _allowed(item, total)) < 1:
            yield hit(item.entry, _field(item), f"{_value(item)} of {total} pods: {allowed} may go")


@rule(
    id="availability.budget-keeps-some",
    title="No disruption budget lets all pods of a workload go",
    protects="Two drains at once would take both event persisters, and nobody could write.",
    todo="maxUnavailable: 1.",
)
def budget_keeps_some(subject: Subject) -> Iterator[Hit]:
    """For workloads that have more than one pod."""
    for item in _budgets(subject):
        loads = _covered(subject, item)
        total = sum(load.replicas for load in loads)
        for load in loads:
            if load.replicas > 1 and _allowed(item, total) >= load.replicas:
                seen = f"{_value(item)}: all {load.replicas} pods of {load.name} may go"
                yield hit(item.entry, _field(item), seen)


@rule(
    id="availability.budget-one-type",
    title="Every disruption budget covers the pods of one workload",
    protects="A budget over several types counts them together: half of all may be every pod of the one that matters.",
    todo="One budget per type, with that type's labels.",
)
def budget_one_type(subject: Subject) -> Iterator[Hit]:
    """Counted by workloads, whatever they are."""
    for item in _budgets(subject):
        names = [load.name for load in _covered(subject, item)]
        if len(names) > 1:
            yield hit(item.entry, "spec.selector", f"covers {', '.join(names)}")


def _budgets(subject: Subject) -> Iterator[Item]:
    yield from subject.of_kind("PodDisruptionBudget", group="policy")


def _covered(subject: Subject, item: Item) -> list[Workload]:
    selector = at(item.entry, "spec.selector")
    return [
        load
        for load in subject.workloads
        if load.lasting and load.namespace == item.namespace and matches(selector, load.labels)
    ]


def _field(item: Item) -> str:
    return "spec.minAvailable" if at(item.entry, "spec.minAvailable") is not None else "spec.maxUnavailable"


def _value(item: Item) -> str:
    return f"{_field(item).removeprefix('spec.')} {at(item.entry, _field(item))}"


def _allowed(item: Item, total: int) -> int:
    """How many of `total` healthy pods may go at once; the disruption controller rounds both percentages up."""
    least = at(item.entry, "spec.minAvailable")
    if least is not None:
        return total - share(least, total, up=True)
    most = at(item.entry, "spec.maxUnavailable")
    return total - share("100%" if most is None else 0, total, up=True) if most is None else share(most, total, up=True)

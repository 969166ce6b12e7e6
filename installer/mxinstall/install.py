"""Everything, in order: verify, preflight, plan, ask, seed, deploy, audit, proof. Each stage can be run again.

Not here: how a stage does its work; what the person is asked with (the command gives `confirm`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mxinstall.cluster import Cluster
from mxinstall.deploy import certificates
from mxinstall.deploy.admissions import read_cluster_record, write_cluster_record
from mxinstall.deploy.audit import AuditReport, audit, locked_digests
from mxinstall.deploy.crds import apply_crds
from mxinstall.deploy.fencing import Hold, hold
from mxinstall.deploy.inventory import read_inventory
from mxinstall.deploy.journal import Account, Journal, read_account
from mxinstall.deploy.ready import Expected, wait_ready
from mxinstall.deploy.releases import Deployment, deploy_levels, ensure_namespaces, remove_release
from mxinstall.deploy.secrets import ensure_secrets, spread
from mxinstall.helm_release import HelmReleases
from mxinstall.opening import Opening, open_site
from mxinstall.outlook import Outlook, foretell
from mxinstall.outlook.durations import keep_rates
from mxinstall.plan import Plan, copies, make_plan, with_bytes_to_move
from mxinstall.run_report import RunReport
from mxinstall.tools import carried_tool
from sitebundle.events import Note, Sink, Step, stage

if TYPE_CHECKING:
    from mxinstall.proof import ProofReport

SETTLE_SECONDS = 90.0
"""How long after a change a pod of before may still be there when the audit looks."""

_REMOVE_SECONDS = 300


@dataclass(frozen=True)
class Request:
    """What the operator asked for. `confirm` is shown what would be done and says whether to go on.

    skip: preflight checks that are left out, with the operator's reasons; the journal keeps them.
    """

    bundle: Path
    confirm: Callable[[Outlook], bool]
    site_file: Path | None = None
    allowed_signers: Path | None = None
    kubeconfig: Path | None = None
    take_over: bool = False
    prove: bool = True
    skip: Mapping[str, str] = field(default_factory=dict)


def install(request: Request, sink: Sink, report: RunReport) -> None:
    """Bring the site to the bundle's generation; `report` is filled on the way, also when this raises."""
    told = report.listening(sink)
    try:
        _install(request, told, report)
    except BaseException as fault:
        report.failed(fault)
        raise


def look_ahead(
    bundle: Path, site_file: Path | None, allowed_signers: Path | None, kubeconfig: Path | None, sink: Sink
) -> tuple[Plan, Outlook]:
    """The plan and what it would do, alone. Changes nothing at the site."""
    with open_site(bundle, site_file, allowed_signers, kubeconfig, sink) as opening:
        helm = carried_tool(opening.reader, "helm", opening.state / "bin")
        plan = _plan(opening, opening.operator, helm, sink, RunReport(str(bundle)))
        return plan, _foretell(opening, opening.operator, plan)


def _install(request: Request, sink: Sink, report: RunReport) -> None:
    with open_site(request.bundle, request.site_file, request.allowed_signers, request.kubeconfig, sink) as opening:
        _note_facts(opening, request, report)
        helm = carried_tool(opening.reader, "helm", opening.state / "bin")
        _preflight(opening, opening.operator, request, sink, active=False)
        if _is_there_already(opening, helm, sink, report):
            report.outcome = "nothing-to-do"
            return
        with hold(opening.operator, opening.work, sink, take_over=request.take_over) as held:
            report.facts["epoch"] = held.epoch
            if not _continues(opening, held.cluster):
                _push_probe(opening, sink)
                _preflight(opening, held.cluster, request, sink, active=True)
            plan = _plan(opening, held.cluster, helm, sink, report)
            outlook = _foretell(opening, held.cluster, plan)
            report.facts["outlook"] = outlook.as_json()
            if not request.confirm(outlook):
                report.outcome = "declined"
                return
            journal = _begin(opening, held, request)
            with journal.step("seed"):
                _seed(opening, sink)
            keep_rates(opening.state, report.stages)
            changed = _deploy(opening, held, journal, plan, helm, sink)
            with journal.step("audit"):
                _audit(opening, held.cluster, sink, report, settle=changed)
            if request.prove:
                with journal.step("proof"):
                    _prove(opening, held.cluster, sink, report)
            journal.commit()
            report.outcome = "installed"


def _note_facts(opening: Opening, request: Request, report: RunReport) -> None:
    manifest, admission = opening.reader.manifest, opening.admission
    report.facts |= {
        "generation": manifest.generation,
        "manifest": str(admission.entry.digest),
        "site": opening.site.name,
        "site_file": str(opening.site_file),
        "skipped_checks": dict(request.skip),
    }


def _preflight(opening: Opening, cluster: Cluster, request: Request, sink: Sink, *, active: bool) -> None:
    from mxinstall.preflight import context_for, run

    run(context_for(opening, cluster), active, sink, skip=request.skip).require()


def _push_probe(opening: Opening, sink: Sink) -> None:
    from mxinstall.seed import push_probe

    push_probe(opening.reader, opening.carried.stack, opening.site, sink)


def _is_there_already(opening: Opening, helm: Path, sink: Sink, report: RunReport) -> bool:
    """Whether this very generation runs and answers, so that nothing at all is to be done. Changes nothing.

    The registry is asked too: it is started if it stopped, and filled again if it lost something.
    """
    account = read_account(opening.operator, opening.reader.manifest.generation)
    if account is None or account.state != "committed" or account.manifest_digest != opening.admission.entry.digest:
        return False
    plan = _plan(opening, opening.operator, helm, sink, report)
    if not plan.nothing_to_do:
        return False
    _seed(opening, sink)
    rendered = {planned.name: planned.objects for planned in plan.releases}
    with stage(sink, "ready", "See that every release is ready"):
        for planned in plan.releases:
            wait_ready(opening.operator, Expected(planned.release, planned.objects, rendered), sink, fresh=False)
            sink(Step("ready", planned.name, "unchanged"))
    _audit(opening, opening.operator, sink, report, settle=False)
    sink(Note("info", f"generation {plan.generation} runs already: there is nothing to do"))
    return True


def _continues(opening: Opening, cluster: Cluster) -> bool:
    """Whether an earlier run of this generation was past the active preflight: its probes need no second look."""
    account = read_account(cluster, opening.reader.manifest.generation)
    return account is not None and account.manifest_digest == opening.admission.entry.digest


def _plan(opening: Opening, cluster: Cluster, helm: Path, sink: Sink, report: RunReport) -> Plan:
    with stage(sink, "plan", "Compare what there is with what there should be") as tally:
        plan = make_plan(cluster, opening.carried, opening.site, helm, read_inventory(cluster))
        plan = with_bytes_to_move(plan, opening.reader.manifest, opening.site)
        for planned in plan.releases:
            detail = ", ".join(planned.drift) or planned.change
            sink(Step("plan", planned.name, "unchanged" if planned.change == "unchanged" else "ok", detail))
        tally.detail = "nothing to do" if plan.nothing_to_do else f"{plan.bytes_to_move} bytes to move"
    report.facts["plan"] = plan.as_json()
    return plan


def _foretell(opening: Opening, cluster: Cluster, plan: Plan) -> Outlook:
    return foretell(cluster, plan, opening.reader.manifest, opening.site, read_inventory(cluster), opening.state)


def _begin(opening: Opening, held: Hold, request: Request) -> Journal:
    """The admission first: from the first change on, an older generation is refused, whatever happens after."""
    from mxinstall.trust import record_admission

    manifest, admission = opening.reader.manifest, opening.admission
    opening.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    record = record_admission(opening.state, admission.entry, read_cluster_record(held.cluster))
    write_cluster_record(held.cluster, record, opening.store.read_text())
    account = Account(
        generation=manifest.generation,
        manifest_digest=str(admission.entry.digest),
        bundle=manifest.name,
        profile=opening.site.spec.profile,
        namespaces=[namespace.name for namespace in opening.carried.stack.namespaces],
        images={name: list(digests) for name, digests in locked_digests(manifest).items()},
        site=opening.site.as_mapping(),
        stack=opening.carried.stack.model_dump(mode="json", by_alias=True),
        skipped_checks=dict(request.skip),
    )
    return Journal.open(held.cluster, account, held.epoch)


def _seed(opening: Opening, sink: Sink) -> None:
    from mxinstall.seed import seed_site

    seed_site(opening.reader, opening.site, sink)


def _deploy(opening: Opening, held: Hold, journal: Journal, plan: Plan, helm: Path, sink: Sink) -> bool:
    """Returns whether anything was changed."""
    cluster, stack = held.cluster, opening.carried.stack
    wanted = stack.secrets_at(opening.site.spec_mapping())
    releases = HelmReleases(helm, held.kubeconfig, opening.work)
    inventory = read_inventory(cluster)
    with stage(sink, "deploy", "Put the releases on the cluster, level by level") as tally:
        with journal.step("namespaces"):
            ensure_namespaces(cluster, stack.namespaces)
        with journal.step("secrets"):
            made = ensure_secrets(cluster, wanted, opening.site.name)
            for copy in copies(stack, opening.site):
                spread(cluster, copy)
        with journal.step("certificates"):
            renewed = certificates.renew(cluster, certificates.due(cluster, wanted))
        with journal.step("crds"):
            apply_crds(cluster, [crd for crd in opening.carried.crds if crd["metadata"]["name"] in plan.crds])
        deployment = Deployment(cluster, releases, journal, plan.generation, inventory, sink)
        changed = deploy_levels(deployment, plan.levels)
        behind = certificates.behind(cluster, wanted)
        if behind:
            with journal.step("certificates/restart"):
                certificates.restart(cluster, behind, sink, "deploy", releases.stop)
        for name in plan.removed:
            with journal.step(f"remove/{name}"):
                remove_release(cluster, releases, inventory[name], _REMOVE_SECONDS)
            sink(Step("deploy", name, "ok", "removed"))
        tally.detail = f"{len(changed)} releases changed, {len(made)} secrets made, {len(renewed)} renewed"
    return bool(changed or behind or plan.removed)


def _audit(opening: Opening, cluster: Cluster, sink: Sink, report: RunReport, *, settle: bool) -> AuditReport:
    """After a change, pods of before may still be ending: they are given SETTLE_SECONDS."""
    locked = locked_digests(opening.reader.manifest)
    namespaces = [namespace.name for namespace in opening.carried.stack.namespaces]
    deadline = time.monotonic() + (SETTLE_SECONDS if settle else 0.0)
    with stage(sink, "audit", "Compare every container with the lock") as tally:
        found = audit(cluster, namespaces, locked)
        while not found.passed and time.monotonic() < deadline:
            time.sleep(2.0)
            found = audit(cluster, namespaces, locked)
        report.facts["audit"] = found.as_json()
        found.check()
        tally.detail = f"{found.matched} containers run what the lock says"
    return found


def _prove(opening: Opening, cluster: Cluster, sink: Sink, report: RunReport) -> ProofReport:
    from mxinstall.proof import context_of, run

    proof = run(context_of(cluster, opening.site), sink)
    report.facts["proof"] = proof.as_json()
    proof.require()
    return proof

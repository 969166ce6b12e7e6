"""Renews certificates of the system that runs, without a bundle: fenced like an install, written into its journal.

Not here: which Secrets hold what (`deploy.certificates`), the site's CA itself.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mxinstall.cluster import Cluster
from mxinstall.deploy import certificates
from mxinstall.deploy.fencing import hold
from mxinstall.deploy.inventory import read_inventory
from mxinstall.deploy.journal import Account, Journal, read_accounts
from mxinstall.deploy.ready import on_record, wait_ready
from mxinstall.deploy.workdir import work_dir
from mxinstall.expiries import Expiries, every_expiry
from mxinstall.installed import site_of
from sitebundle.errors import CertificateUnknown, NotInstalled
from sitebundle.events import Sink, Step, stage
from sitebundle.stack import SecretPlan, Stack

if TYPE_CHECKING:
    from mxinstall.proof import ProofReport

STAGE = "certificates"


@dataclass(frozen=True)
class Renewal:
    """What was renewed (`namespace/name`) and which workloads were restarted for it."""

    renewed: tuple[str, ...]
    restarted: tuple[str, ...]
    proof: ProofReport | None = None

    def as_json(self) -> dict[str, Any]:
        """The renewal as plain values."""
        proof = {"proof": self.proof.as_json()} if self.proof else {}
        return {"renewed": list(self.renewed), "restarted": list(self.restarted), **proof}


def listed(cluster: Cluster) -> Expiries:
    """Every certificate, CA and key that ends, soonest first. Reads only. Raises NotInstalled."""
    return every_expiry(cluster, _installed(cluster))


def renew_certificates(
    operator: Cluster,
    sink: Sink,
    *,
    chosen: Collection[str] = (),
    everything: bool = False,
    within_days: int = certificates.RENEW_DAYS,
    prove: bool = False,
    take_over: bool = False,
) -> Renewal:
    """Renew `chosen` (names of Secrets), `everything`, or what ends within so many days; then wait until all is ready.

    Whoever does not read a renewed certificate by itself is restarted, wave after wave. Nothing changes when nothing is
    due. Raises NotInstalled, CertificateUnknown, AnotherInstaller, FencedOff, ReleaseNotReady, ProofFailed.
    """
    plans = _plans(_installed(operator))
    known = [plan.name for plan in plans]
    if unknown := sorted(set(chosen) - set(known)):
        raise CertificateUnknown(name=", ".join(unknown), known=", ".join(known))
    forced = known if everything else chosen
    if not certificates.due(operator, plans, forced=forced, within_days=within_days) and not certificates.behind(
        operator, plans
    ):
        return Renewal((), (), _proof(operator, _installed(operator), sink) if prove else None)
    with work_dir() as work, hold(operator, work, sink, take_over=take_over) as held:
        account = _installed(held.cluster)
        journal = Journal.amend(held.cluster, account, held.epoch)
        with stage(sink, STAGE, "Renew certificates, and let every process take them") as tally:
            with journal.step("certificates"):
                entries = certificates.due(held.cluster, plans, forced=forced, within_days=within_days)
                renewed = certificates.renew(held.cluster, entries)
                for entry in entries:
                    sink(Step(STAGE, entry.plan.name, "ok", entry.reason))
            behind = certificates.behind(held.cluster, plans)
            with journal.step("certificates/restart"):
                certificates.restart(held.cluster, behind, sink, STAGE)
            _await_all(held.cluster, account, sink)
            tally.detail = f"{len(renewed)} renewed, {len(behind)} workloads restarted"
        restarted = tuple(f"{entry.live['kind']}/{entry.live['metadata']['name']}" for entry in behind)
        proof = _proof(held.cluster, account, sink) if prove else None
    return Renewal(tuple(renewed), restarted, proof)


def _plans(account: Account) -> list[SecretPlan]:
    spec = account.site.get("spec") or {}
    return [plan for plan in Stack.model_validate(account.stack).secrets_at(spec) if plan.certificate]


def _installed(cluster: Cluster) -> Account:
    accounts = read_accounts(cluster)
    if not accounts:
        raise NotInstalled()
    return accounts[-1]


def _await_all(cluster: Cluster, account: Account, sink: Sink) -> None:
    stack = Stack.model_validate(account.stack)
    for name, record in read_inventory(cluster).items():
        release = next((release for release in stack.releases if release.name == name), None)
        if release is not None:
            wait_ready(cluster, on_record(release, record), sink, fresh=True)


def _proof(cluster: Cluster, account: Account, sink: Sink) -> ProofReport:
    from mxinstall.proof import context_of, run

    proof = run(context_of(cluster, site_of(account)), sink)
    proof.require()
    return proof

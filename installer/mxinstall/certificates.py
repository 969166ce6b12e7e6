"""Renews certificates of the system that runs, without a bundle: fenced like an install, written into its journal.

Not here: which Secrets hold what (`deploy.certificates`), another CA for the site (`authority_change`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mxinstall.cluster import Cluster, Object
from mxinstall.deploy import certificates
from mxinstall.deploy.authorities import Authorities
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
    return every_expiry(cluster, installed_account(cluster))


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
    plans = plans_of(installed_account(operator))
    forced = _forced(plans, chosen, everything)
    if not certificates.due(operator, plans, forced=forced, within_days=within_days) and not certificates.behind(
        operator, plans
    ):
        return Renewal((), (), proof_of(operator, installed_account(operator), sink) if prove else None)
    with amending(operator, sink, take_over=take_over) as run:
        with stage(sink, STAGE, "Renew certificates, and let every process take them") as tally:
            run.take("certificates", forced=forced, within_days=within_days)
            tally.detail = f"{len(run.renewed)} renewed, {len(run.restarted)} workloads restarted"
        return run.renewal(prove)


@dataclass(frozen=True)
class Ahead:
    """One step that is still to come: which Secrets are written, and who is restarted for them."""

    name: str
    says: str
    secrets: tuple[str, ...] = ()
    restarts: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The step as plain values."""
        return {"step": self.name, "says": self.says, "secrets": list(self.secrets), "restarts": list(self.restarts)}

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.says}"]
        lines += [f"  write: {', '.join(self.secrets)}"] if self.secrets else []
        lines += [f"  restart: {', '.join(self.restarts)}"] if self.restarts else []
        return "\n".join(lines)


def certificates_ahead(cluster: Cluster, chosen: Collection[str], everything: bool, within_days: int) -> list[Ahead]:
    """What `renew_certificates` would do; empty: nothing. Reads only. Raises NotInstalled, CertificateUnknown."""
    plans = plans_of(installed_account(cluster))
    entries = certificates.due(cluster, plans, forced=_forced(plans, chosen, everything), within_days=within_days)
    reasons = "; ".join(f"{entry.plan.name}: {entry.reason}" for entry in entries)
    return ahead_of(cluster, entries, plans, "certificates", reasons or "what an earlier run did not finish")


def ahead_of(
    cluster: Cluster, entries: Sequence[certificates.Due], plans: Sequence[SecretPlan], name: str, says: str
) -> list[Ahead]:
    """The one step that writes `entries` and restarts whoever is, or will be, behind; none when that is nothing."""
    behind = certificates.behind(cluster, plans)
    if not entries and not behind:
        return []
    written = [entry.plan for entry in entries]
    restarts = [*certificates.restarted_for(cluster, written), *(entry.live for entry in behind)]
    return [Ahead(name, says, places(written), tuple(dict.fromkeys(named(restarts))))]


@dataclass
class Run:
    """The site, held, with the journal open; what was written and restarted so far."""

    cluster: Cluster
    account: Account
    plans: Sequence[SecretPlan]
    journal: Journal
    sink: Sink
    renewed: list[str] = field(default_factory=list)
    restarted: list[str] = field(default_factory=list)

    def take(
        self,
        name: str,
        *,
        forced: Collection[str] = (),
        within_days: int = certificates.RENEW_DAYS,
        signed_by: Authorities | None = None,
    ) -> None:
        """Write what is due, restart who does not read it by himself, and wait until all is ready."""
        with self.journal.step(name):
            entries = certificates.due(
                self.cluster, self.plans, forced=forced, within_days=within_days, authorities=signed_by
            )
            self.renewed += certificates.renew(self.cluster, entries, signed_by)
            for entry in entries:
                self.sink(Step(STAGE, entry.plan.name, "ok", entry.reason))
        behind = certificates.behind(self.cluster, self.plans)
        with self.journal.step(f"{name}/restart"):
            certificates.restart(self.cluster, behind, self.sink, STAGE)
        self.restarted += named(entry.live for entry in behind)
        _await_all(self.cluster, self.account, self.sink)

    def settle(self, name: str) -> None:
        """Let everybody take what he takes by himself."""
        with self.journal.step(name):
            certificates.await_taken(self.cluster, self.plans, self.sink, STAGE)

    def renewal(self, prove: bool) -> Renewal:
        """What was done, each once, and the proof if it is asked for."""
        proof = proof_of(self.cluster, self.account, self.sink) if prove else None
        return Renewal(tuple(dict.fromkeys(self.renewed)), tuple(dict.fromkeys(self.restarted)), proof)


@contextlib.contextmanager
def amending(operator: Cluster, sink: Sink, *, take_over: bool) -> Iterator[Run]:
    """Hold the site and write on in its journal for the length of the block. Raises AnotherInstaller, FencedOff."""
    with work_dir() as work, hold(operator, work, sink, take_over=take_over) as held:
        account = installed_account(held.cluster)
        journal = Journal.amend(held.cluster, account, held.epoch)
        yield Run(held.cluster, account, plans_of(account), journal, sink)


def _forced(plans: Iterable[SecretPlan], chosen: Collection[str], everything: bool) -> Collection[str]:
    known = [plan.name for plan in plans if plan.certificate]
    if unknown := sorted(set(chosen) - set(known)):
        raise CertificateUnknown(name=", ".join(unknown), known=", ".join(known))
    return known if everything else chosen


def plans_of(account: Account) -> list[SecretPlan]:
    """The Secrets of a site that hold anything of its CA, every name written out."""
    spec = account.site.get("spec") or {}
    return [plan for plan in Stack.model_validate(account.stack).secrets_at(spec) if plan.certificate or plan.ca]


def installed_account(cluster: Cluster) -> Account:
    """The newest generation. Raises NotInstalled."""
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


def proof_of(cluster: Cluster, account: Account, sink: Sink) -> ProofReport:
    """Run the proof. Raises ProofFailed."""
    from mxinstall.proof import context_of, run

    proof = run(context_of(cluster, site_of(account)), sink)
    proof.require()
    return proof


def named(workloads: Iterable[Object]) -> tuple[str, ...]:
    """`Kind/name` of each."""
    return tuple(f"{live['kind']}/{live['metadata']['name']}" for live in workloads)


def places(plans: Iterable[SecretPlan]) -> tuple[str, ...]:
    """`namespace/name` of each Secret."""
    return tuple(f"{ns}/{plan.name}" for plan in plans for ns in plan.namespaces)

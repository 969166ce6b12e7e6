"""Another CA for the site that runs, so that nobody meets a certificate that he does not trust.

First everybody trusts the new one beside the old one, then the new one signs what processes show each other. What
people's devices see moves, and the old CA goes, only when somebody says that the devices have the new one. What is left
to do is found from what the Secrets hold: a run that was killed anywhere is finished by the next.
Not here: where the CAs are kept (`deploy.authorities`), who takes a certificate how (`deploy.certificates`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mxinstall.certificates import (
    STAGE,
    Ahead,
    Renewal,
    ahead_of,
    amending,
    installed_account,
    named,
    places,
    plans_of,
    proof_of,
)
from mxinstall.cluster import Cluster
from mxinstall.deploy import authorities, certificates
from mxinstall.deploy.authorities import Role, for_people, known_authorities
from mxinstall.deploy.authority import expiry, subject, thumbprint
from mxinstall.expiries import SITE_CA
from mxinstall.installed import site_of
from sitebundle.errors import AuthorityNotReplaced, NotInstalled
from sitebundle.events import Sink, stage
from sitebundle.stack import SecretPlan


@dataclass(frozen=True)
class KnownAuthority:
    """A CA of the site, without its key. `role`: signs, coming (trusted, does not sign yet), old (trusted still)."""

    role: Role
    certificate: str

    def as_json(self) -> dict[str, Any]:
        """The CA as plain values."""
        return {
            "role": self.role,
            "subject": subject(self.certificate),
            "sha256": thumbprint(self.certificate),
            "ends": expiry(self.certificate).isoformat(),
            "certificate": self.certificate,
        }

    def __str__(self) -> str:
        told = {"signs": "signs", "coming": "is trusted, does not sign yet", "old": "is trusted until it is forgotten"}
        named = f"{subject(self.certificate)}: {told[self.role]}; ends {expiry(self.certificate):%Y-%m-%d}"
        return f"{named}; SHA-256 {thumbprint(self.certificate)}"


def site_authorities(cluster: Cluster) -> list[KnownAuthority]:
    """The CAs that people's devices need, the newest first. Reads only. Raises NotInstalled."""
    known = known_authorities(cluster)
    if known is None:
        raise NotInstalled()
    return [KnownAuthority(role, pair.certificate) for role, pair in known.roles]


def renewal_ahead(cluster: Cluster) -> list[Ahead]:
    """What `renew_authority` would still do, step by step; empty: the CA was replaced. Reads only."""
    plans, known = plans_of(installed_account(cluster)), known_authorities(cluster)
    if known is None:
        raise NotInstalled()
    moving = [plan for plan in plans if plan.certificate and not for_people(plan)]
    leaves = Ahead(
        "issue",
        "the new CA signs what processes show each other; what people's devices see stays as it is",
        places(moving),
        named(certificates.restarted_for(cluster, moving)),
    )
    if known.old is not None:
        return _left(cluster, plans, "issue")
    wait = Ahead("wait", f"{certificates.TAKEN_SECONDS:.0f} s, until every node has brought its pods the certificates")
    if known.coming is not None:
        return [*_left(cluster, plans, "trust"), wait, leaves]
    trusting = Ahead(
        "trust",
        "everybody trusts the new CA beside the old one",
        places(plans),
        named(certificates.restarted_for(cluster, plans)),
    )
    new = Ahead("new", "a CA is made; its key is kept beside the old one's", (SITE_CA,))
    return [new, trusting, wait, leaves]


def forgetting_ahead(cluster: Cluster) -> list[Ahead]:
    """What `forget_old_authority` would still do; empty: there is no old CA any more. Reads only.

    Raises AuthorityNotReplaced.
    """
    plans, known = plans_of(installed_account(cluster)), known_authorities(cluster)
    if known is None:
        raise NotInstalled()
    if known.coming is not None:
        raise AuthorityNotReplaced(detail="the new one does not sign yet")
    if known.old is None:
        return _left(cluster, plans, "forget")
    return [
        *_left(cluster, plans, "issue"),
        Ahead("people", "the new CA signs what people's devices see", places(filter(for_people, plans))),
        Ahead("wait", f"{certificates.TAKEN_SECONDS:.0f} s, until every node has brought its pods the certificates"),
        Ahead(
            "forget",
            "the old CA's key is destroyed, and nobody trusts it any more",
            (SITE_CA, *places(plans)),
            named(certificates.restarted_for(cluster, plans)),
        ),
    ]


def renew_authority(operator: Cluster, sink: Sink, *, prove: bool = False, take_over: bool = False) -> Renewal:
    """Replace the site's CA, or finish that; the old one stays trusted, and signs what people's devices see.

    Nothing changes when it was replaced and the old one is not forgotten yet. Raises NotInstalled, AnotherInstaller,
    FencedOff, ReleaseNotReady, ProofFailed.
    """
    if not renewal_ahead(operator):
        return Renewal((), (), proof_of(operator, installed_account(operator), sink) if prove else None)
    with amending(operator, sink, take_over=take_over) as run:
        with stage(sink, STAGE, "Replace the site's CA; the old one stays trusted") as tally:
            known = known_authorities(run.cluster)
            if known is not None and known.old is None:
                if known.coming is None:
                    with run.journal.step("ca/new"):
                        authorities.prepare(run.cluster, site_of(run.account).name)
                run.take("ca/trust")
                run.settle("ca/taken")
                with run.journal.step("ca/switch"):
                    authorities.switch(run.cluster)
            run.take("ca/issue")
            tally.detail = f"{len(run.renewed)} renewed, {len(run.restarted)} workloads restarted"
        return run.renewal(prove)


def forget_old_authority(operator: Cluster, sink: Sink, *, prove: bool = False, take_over: bool = False) -> Renewal:
    """Let the new CA sign what people's devices see, and let nobody trust the old one any more; its key is destroyed.

    Nothing changes when there is no old one. Raises AuthorityNotReplaced, and what `renew_authority` does.
    """
    if not forgetting_ahead(operator):
        return Renewal((), (), proof_of(operator, installed_account(operator), sink) if prove else None)
    with amending(operator, sink, take_over=take_over) as run:
        with stage(sink, STAGE, "Forget the site's old CA") as tally:
            known = known_authorities(run.cluster)
            if known is not None and known.old is not None:
                run.take("ca/issue")
                run.take("ca/people", signed_by=known.moved)
                run.settle("ca/taken")
                with run.journal.step("ca/forget"):
                    authorities.forget_old(run.cluster)
            run.take("ca/trust")
            tally.detail = f"{len(run.renewed)} renewed, {len(run.restarted)} workloads restarted"
        return run.renewal(prove)


def _left(cluster: Cluster, plans: Sequence[SecretPlan], name: str) -> list[Ahead]:
    """What is left of a step that an earlier run did not finish."""
    return ahead_of(cluster, certificates.due(cluster, plans), plans, name, "what an earlier run did not finish")

"""One installer at a time: a lease that says who, and an epoch whose token dies with its Secret.

Everything after `hold` acts with that token alone, helm too; the operator's kubeconfig only opens and takes over.
Not here: what is done while the site is held.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mxinstall.cluster import Cluster, Object
from mxinstall.deploy.names import LEASE, NAMESPACE, SERVICE_ACCOUNT, labels
from mxinstall.deploy.workdir import WorkDir
from mxinstall.supervision.processes import boot_id, start_ticks
from sitebundle.errors import AnotherInstaller, ClusterRefused, ClusterUnreachable, FencedOff
from sitebundle.events import Note, Sink

LEASE_SECONDS = 30
RENEW_SECONDS = 8.0
TOKEN_SECONDS = 4 * 3600
TOKEN_CACHE_SECONDS = 12.0
"""The API server believes a token for 10 s after it checked it (its token success cache); and a margin."""

_EPOCH = "mxbundle.io/epoch"
_FENCING = "mxbundle.io/fencing"
"""On the lease while an older token is waited out: whoever finds it there waits again, from the start."""
_LEASE_KIND = ("coordination.k8s.io/v1", "Lease")


@dataclass(frozen=True)
class Holder:
    """An installer's process, told apart from every other one, also across hosts, containers and reboots."""

    host: str
    machine: str
    pid: int
    started: str

    @classmethod
    def here(cls) -> Holder:
        """This process."""
        pid = os.getpid()
        return cls(socket.gethostname(), _machine(), pid, str(start_ticks(pid)))

    def __str__(self) -> str:
        return f"{self.host}/{self.machine}/{self.pid}/{self.started}"

    @classmethod
    def parse(cls, text: str) -> Holder | None:
        """Read a lease's holder; None for one that is not ours."""
        parts = text.split("/")
        if len(parts) != 4 or not parts[2].isdigit():
            return None
        return cls(parts[0], parts[1], int(parts[2]), parts[3])

    def is_dead(self) -> bool:
        """Whether this is provably gone: it ran on this very machine and the process is no more."""
        return self.machine == _machine() and str(start_ticks(self.pid)) != self.started


def _machine() -> str:
    return f"{boot_id()[:13].replace('-', '')}.{Path('/proc/self/ns/pid').stat().st_ino}"


@dataclass
class Hold:
    """The site, held. `cluster` acts with the epoch's token; `kubeconfig` proves the same to helm."""

    cluster: Cluster
    kubeconfig: Path
    epoch: int
    holder: str


@contextlib.contextmanager
def hold(operator: Cluster, work: WorkDir, sink: Sink, *, take_over: bool = False) -> Iterator[Hold]:
    """Hold the site for the length of the block.

    Raises AnotherInstaller when a live one holds it (unless `take_over`). An older epoch that was not closed is
    fenced off before the block begins: its Secret is deleted and the API server's token cache waited out.
    """
    _bootstrap(operator)
    me = str(Holder.here())
    epoch, before = _acquire(operator, me, take_over)
    _fence_older(operator, before, me, sink)
    secret = _open_epoch(operator, epoch, me)
    token, seconds = operator.service_account_token(NAMESPACE, SERVICE_ACCOUNT, secret, TOKEN_SECONDS)
    cluster = operator.acting_with(token)
    kubeconfig = work.private("kubeconfig", cluster.access.kubeconfig(token))

    def renew_token() -> float:
        fresh, lives = cluster.service_account_token(NAMESPACE, SERVICE_ACCOUNT, secret, TOKEN_SECONDS)
        cluster.renew_token(fresh)
        work.private("kubeconfig", cluster.access.kubeconfig(fresh))
        return lives

    keeper = _Keeper(cluster, me, renew_token, seconds)
    keeper.start()
    try:
        yield Hold(cluster, kubeconfig, epoch, me)
    finally:
        keeper.stop()
        _close(cluster, me, epoch)


def current_holder(cluster: Cluster) -> tuple[str, float] | None:
    """Who holds the site and how many seconds ago that was said; None when nobody does. Reads only."""
    lease = _lease(cluster)
    holder = (lease or {}).get("spec", {}).get("holderIdentity")
    return (holder, _age_seconds(lease)) if lease and holder else None


def _bootstrap(operator: Cluster) -> None:
    subject = {"kind": "ServiceAccount", "name": SERVICE_ACCOUNT, "namespace": NAMESPACE}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    for obj in (
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": NAMESPACE,
                "labels": {**labels("system"), "pod-security.kubernetes.io/enforce": "restricted"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": SERVICE_ACCOUNT, "namespace": NAMESPACE, "labels": labels("system")},
            "automountServiceAccountToken": False,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": SERVICE_ACCOUNT, "labels": labels("system")},
            "subjects": [subject],
            "roleRef": role,
        },
    ):
        operator.apply(obj)


def _acquire(operator: Cluster, me: str, take_over: bool) -> tuple[int, str]:
    """Write ourselves into the lease. Returns our epoch and the holder before us ("" for none)."""
    lease = _lease(operator)
    if lease is None:
        fresh = {
            "apiVersion": _LEASE_KIND[0],
            "kind": _LEASE_KIND[1],
            "metadata": {
                "name": LEASE,
                "namespace": NAMESPACE,
                "labels": labels("system"),
                "annotations": {_EPOCH: str(_highest_epoch(operator) + 1)},
            },
            "spec": {"holderIdentity": me, "leaseDurationSeconds": LEASE_SECONDS, "leaseTransitions": 0, **_times()},
        }
        return _written(operator, operator.create, fresh), ""
    spec, annotations = lease["spec"], lease["metadata"].setdefault("annotations", {})
    before = spec.get("holderIdentity") or ""
    known = Holder.parse(before)
    if before and not take_over and (known is None or not known.is_dead()):
        if _age_seconds(lease) < LEASE_SECONDS:
            raise AnotherInstaller(holder=_for_people(before), age_seconds=round(_age_seconds(lease)))
        # The clocks of two hosts may differ: whoever lives renews the lease meanwhile, and our write meets a conflict.
        time.sleep(RENEW_SECONDS * 1.5)
    annotations[_EPOCH] = str(max(int(annotations.get(_EPOCH, 0)), _highest_epoch(operator)) + 1)
    lease["spec"] = {
        "holderIdentity": me,
        "leaseDurationSeconds": LEASE_SECONDS,
        "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1,
        **_times(),
    }
    return _written(operator, operator.replace, lease), before


def _written(operator: Cluster, write: Callable[[Object], Object], lease: Object) -> int:
    try:
        return int(write(lease)["metadata"]["annotations"][_EPOCH])
    except ClusterRefused as refusal:
        if refusal.status != 409:
            raise
        if lease["spec"] == (_lease(operator) or {}).get("spec"):
            # The answer to our first try was lost on the way, and the second one met what the first had written.
            return int(lease["metadata"]["annotations"][_EPOCH])
        holder, age = current_holder(operator) or ("somebody", 0.0)
        raise AnotherInstaller(holder=_for_people(holder), age_seconds=round(age)) from refusal


def _fence_older(operator: Cluster, before: str, me: str, sink: Sink) -> None:
    """Take every older epoch's token away. No waiting where each of their holders is provably dead.

    The wait is written on the lease first: whoever ends us in the middle of it must not take the token for forgotten.
    """
    older = operator.list("v1", "Secret", NAMESPACE, labels="mxbundle.io/part=epoch")
    holders = [_holder_of(secret) for secret in older]
    interrupted = _FENCING in _annotations(_lease(operator))
    alive = [text for text in holders if (known := Holder.parse(text)) is None or not known.is_dead()]
    if not alive and not interrupted:
        for secret in older:
            operator.delete("v1", "Secret", secret["metadata"]["name"], NAMESPACE)
        for known in filter(None, map(Holder.parse, holders)):
            # Its helm died with it (tether): nobody is left who could use what the API server still remembers.
            text = f"an installer on this host ended without a word (process {known.pid}); going on from there"
            sink(Note("info", text))
        return
    operator.patch(*_LEASE_KIND, LEASE, {"metadata": {"annotations": {_FENCING: me}}}, NAMESPACE)
    for secret in older:
        operator.delete("v1", "Secret", secret["metadata"]["name"], NAMESPACE)
    whom = _for_people((alive or [before])[0]) or "an unknown installer"
    wait = f"waiting {TOKEN_CACHE_SECONDS:.0f} s until the API server has forgotten its token"
    sink(Note("warning", f"fencing off {whom}: {wait}"))
    time.sleep(TOKEN_CACHE_SECONDS)
    place = f"/metadata/annotations/{_FENCING.replace('/', '~1')}"
    done: list[Object] = [{"op": "test", "path": place, "value": me}, {"op": "remove", "path": place}]
    with contextlib.suppress(ClusterRefused):  # Somebody took over from us meanwhile and waits: the mark is theirs.
        operator.patch(*_LEASE_KIND, LEASE, done, NAMESPACE, type="json")


def _holder_of(epoch: Object) -> str:
    return base64.b64decode((epoch.get("data") or {}).get("holder", "")).decode(errors="replace")


def _lease(cluster: Cluster) -> Object | None:
    return cluster.get(*_LEASE_KIND, LEASE, NAMESPACE)


def _annotations(obj: Object | None) -> Object:
    return ((obj or {}).get("metadata") or {}).get("annotations") or {}


def _open_epoch(operator: Cluster, epoch: int, me: str) -> Object:
    secret = operator.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": f"epoch-{epoch}", "namespace": NAMESPACE, "labels": labels("epoch")},
            "type": "mxbundle.io/epoch",
            "stringData": {"holder": me},
        }
    )
    # Whoever took over between our lease and this Secret did not see it: look again. Whoever does so later, will.
    holder, age = current_holder(operator) or ("somebody", 0.0)
    if holder != me:
        operator.delete("v1", "Secret", f"epoch-{epoch}", NAMESPACE)
        raise AnotherInstaller(holder=_for_people(holder), age_seconds=round(age))
    return secret


def _close(cluster: Cluster, me: str, epoch: int) -> None:
    """Give the site back. Whoever was fenced off, or cannot reach the server, has nothing to give back."""
    with contextlib.suppress(FencedOff, ClusterUnreachable, ClusterRefused):
        lease = _lease(cluster)
        if lease is not None and lease["spec"].get("holderIdentity") == me:
            lease["spec"]["holderIdentity"] = ""
            cluster.replace(lease)
        cluster.delete("v1", "Secret", f"epoch-{epoch}", NAMESPACE)


class _Keeper(threading.Thread):
    """Renews the lease, and the token before half of its life is over. Ends by itself when we were fenced off."""

    def __init__(self, cluster: Cluster, me: str, renew_token: Callable[[], float], seconds: float) -> None:
        super().__init__(name="lease", daemon=True)
        self._cluster, self._me, self._renew_token = cluster, me, renew_token
        self._renew_at = time.monotonic() + seconds / 2
        self._ended = threading.Event()

    def run(self) -> None:
        """Until stopped or fenced off; what fails in passing is tried again at the next beat."""
        while not self._ended.wait(RENEW_SECONDS):
            try:
                lease = _lease(self._cluster)
                if lease is None or lease["spec"].get("holderIdentity") != self._me:
                    return
                lease["spec"]["renewTime"] = _times()["renewTime"]
                self._cluster.replace(lease)
                if time.monotonic() > self._renew_at:
                    self._renew_at = time.monotonic() + self._renew_token() / 2
            except FencedOff:
                return
            except (ClusterUnreachable, ClusterRefused):
                continue

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._ended.set()
        self.join()


def _highest_epoch(operator: Cluster) -> int:
    numbers = [
        secret["metadata"]["name"].removeprefix("epoch-")
        for secret in operator.list("v1", "Secret", NAMESPACE, labels="mxbundle.io/part=epoch")
    ]
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def _times() -> dict[str, str]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {"renewTime": now, "acquireTime": now}


def _age_seconds(lease: Object) -> float:
    text = lease["spec"].get("renewTime")
    if not text:
        return float(LEASE_SECONDS)
    said = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return max(0.0, (datetime.now(UTC) - said).total_seconds())


def _for_people(holder: str) -> str:
    known = Holder.parse(holder)
    return holder if known is None else f"process {known.pid} on {known.host}"

"""Backups: whether this site has a place for them, and what opens it."""

from __future__ import annotations

from mxinstall.deploy.names import NAMESPACE as SYSTEM
from mxinstall.preflight.context import Context
from mxinstall.preflight.model import Verdict, check


@check(
    id="backups.target",
    title="The site has a place for backups, outside the cluster",
    protects="Without one, what was written is gone with the disks that it is on.",
    severity="warn",
    applies=lambda context: context.uses("backups.s3"),
)
def target(context: Context) -> Verdict:
    """That site.yaml names a store; whether it answers shows the first backup."""
    store = context.site.spec.backups.s3
    if store is None:
        return Verdict(
            "warn",
            "site.yaml names no spec.backups.s3: nothing is backed up",
            "an S3 store outside the cluster",
            "Name a store in site.yaml: spec.backups.s3 (endpoint, bucket, secret); see docs/guide/restore.md.",
        )
    return Verdict("pass", f"bucket {store.bucket} at {store.endpoint}")


@check(
    id="backups.secret",
    title="The keys of the store for backups are where the install takes them from",
    protects="PostgreSQL keeps every piece of its log that it cannot send, until its disk is full.",
    needs=("get secrets in mx-system",),
    applies=lambda context: context.site.spec.backups.s3 is not None,
)
def secret(context: Context) -> Verdict:
    """Its presence and keys; not whether the store takes them."""
    store = context.site.spec.backups.s3
    assert store is not None
    wanted = ["accessKeyId", "secretAccessKey", *(["ca.crt"] if store.ca_in_secret else [])]
    found = context.cluster.get("v1", "Secret", store.secret, SYSTEM)
    lacking = [key for key in wanted if key not in ((found or {}).get("data") or {})]
    seen = "missing" if found is None else f"no key {', '.join(lacking)}" if lacking else "complete"
    given = (f"--from-file={key}=FILE" if key == "ca.crt" else f"--from-literal={key}=…" for key in wanted)
    return Verdict.judge(
        not lacking,
        seen=f"Secret {SYSTEM}/{store.secret}: {seen}",
        expected=f"Secret {SYSTEM}/{store.secret} with {', '.join(wanted)}",
        todo=f"kubectl create namespace {SYSTEM}; kubectl -n {SYSTEM} create secret generic {store.secret} "
        + " ".join(given),
    )

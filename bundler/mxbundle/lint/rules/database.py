"""PostgreSQL as Synapse needs it: connections, collation, durability, delays, backups."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from mxbundle.lint.model import Hit, hit, rule
from mxbundle.lint.subject import Item, Subject
from mxbundle.lint.synapse import Process
from mxbundle.lint.workloads import at

GROUP = "postgresql.cnpg.io"
RESERVE = 10
"""Connections that are not Synapse's: 3 for superusers, the operator's exporter and probes, a backup, a person."""
_DEFAULTS = {"default_pool_size": 20, "max_client_conn": 100, "reserve_pool_size": 0}
"""PgBouncer's own, where a Pooler says nothing."""
LONGEST_DELAY_SECONDS = 3600


@rule(
    id="database.connections",
    title="All processes together cannot use up the connections of the database",
    protects="The process that finds no connection waits or fails; in session mode a pooler multiplexes nothing.",
    todo="Raise max_connections (and pool sizes), or lower cp_max or the numbers of processes.",
)
def connections(subject: Subject) -> Iterator[Hit]:
    """Σ cp_max × most an autoscaler's maximum counted, against Cluster and Poolers."""
    demands: dict[tuple[str, str], int] = {}
    for process in subject.synapse:
        host = str(at(process.config, "database.args.host") or "")
        name, _, rest = host.partition(".")
        place = (rest.partition(".")[0] or process.workload.namespace, name)
        demands[place] = demands.get(place, 0) + process.workload.most * _most_connections(process)
    wanted: dict[tuple[str, str], int] = {}
    for (namespace, host), demand in demands.items():
        pooler = subject.find("Pooler", namespace, host)
        if pooler is not None:
            yield from _pool(pooler, demand)
            cluster = (namespace, str(at(pooler.entry, "spec.cluster.name")))
            wanted[cluster] = wanted.get(cluster, 0) + _pooled(pooler)
        else:
            cluster = (namespace, re.sub(r"-rw$", "", host))
            wanted[cluster] = wanted.get(cluster, 0) + demand
    for (namespace, name), demand in wanted.items():
        cluster_item = subject.find("Cluster", namespace, name)
        if cluster_item is None:
            continue
        allowed = int(at(cluster_item.entry, "spec.postgresql.parameters.max_connections") or 100)
        if demand > allowed - RESERVE:
            seen = (
                f"{demand} connections may be opened, {allowed} are allowed and {RESERVE} of these are not for clients"
            )
            yield hit(cluster_item.entry, "spec.postgresql.parameters.max_connections", seen)


@rule(
    id="database.session-mode",
    title="Poolers before Synapse pool sessions",
    protects="Synapse sets isolation and more per connection: in another mode transactions of strangers get it.",
    todo="poolMode: session. Startup options (`options` in database.args) do not pass PgBouncer either.",
)
def session_mode(subject: Subject) -> Iterator[Hit]:
    """Also that no `options` are given where a Pooler would drop them without a word."""
    poolers = set()
    for item in subject.of_kind("Pooler", group=GROUP):
        poolers.add((item.namespace, item.name))
        if (mode := at(item.entry, "spec.pgbouncer.poolMode")) != "session":
            yield hit(item.entry, "spec.pgbouncer.poolMode", str(mode or "nothing, which is session only by default"))
    for process in subject.synapse:
        name, _, rest = str(at(process.config, "database.args.host") or "").partition(".")
        if at(process.config, "database.args.options") and (rest.partition(".")[0], name) in poolers:
            yield hit(process.workload.item.entry, process.workload.path, "database.args.options, through a Pooler")


@rule(
    id="database.collation",
    title="The database is made with UTF8, C and C, and for Synapse",
    protects="Synapse refuses to start on any other encoding or collation, and it cannot be changed afterwards.",
    todo="bootstrap.initdb: encoding UTF8, localeCollate C, localeCType C, database and owner; no locale, no ICU.",
)
def collation(subject: Subject) -> Iterator[Hit]:
    """Clusters that are made by initdb; one that is recovered has what it had."""
    for item in subject.of_kind("Cluster", group=GROUP):
        bootstrap = at(item.entry, "spec.bootstrap") or {}
        if set(bootstrap) & {"recovery", "pg_basebackup"}:
            continue
        initdb = bootstrap.get("initdb") or {}
        for key, value in (("encoding", "UTF8"), ("localeCollate", "C"), ("localeCType", "C")):
            if initdb.get(key) != value:
                yield hit(item.entry, f"spec.bootstrap.initdb.{key}", f"{initdb.get(key)} instead of {value}")
        for key in ("locale", "localeProvider", "icuLocale", "icuRules"):
            if key in initdb:
                yield hit(item.entry, f"spec.bootstrap.initdb.{key}", f"{initdb[key]}")
        for key in ("database", "owner"):
            if not initdb.get(key):
                yield hit(item.entry, f"spec.bootstrap.initdb.{key}", "not given: it would be called app")


@rule(
    id="database.durability",
    title="A commit is on two instances, and only one that has it is promoted",
    protects="Without a quorum at failover the standby that confirmed a commit may be the one that is lost.",
    todo="Three instances; synchronous: method any, number 1, dataDurability stated, failoverQuorum true.",
)
def durability(subject: Subject) -> Iterator[Hit]:
    """The synchronous settings of each Cluster with standbys."""
    for item in subject.of_kind("Cluster", group=GROUP):
        instances = int(at(item.entry, "spec.instances") or 1)
        given = at(item.entry, "spec.postgresql.synchronous") or {}
        path = "spec.postgresql.synchronous"
        if instances < 3:
            yield hit(item.entry, "spec.instances", f"{instances}: a quorum of three can lose one")
        if int(given.get("number") or 0) < 1:
            yield hit(item.entry, f"{path}.number", f"{given.get('number') or 'nothing'}: no standby has to confirm")
        if given.get("failoverQuorum") is not True:
            yield hit(item.entry, f"{path}.failoverQuorum", str(given.get("failoverQuorum")))
        if not given.get("dataDurability"):
            yield hit(item.entry, f"{path}.dataDurability", "not stated")


@rule(
    id="database.delays",
    title="Delays of the database are seconds",
    protects="The operator's delays are in seconds: 40000000 is 463 days, in which nothing is promoted.",
    todo=f"A number of seconds up to {LONGEST_DELAY_SECONDS}.",
)
def delays(subject: Subject) -> Iterator[Hit]:
    """Every field of a Cluster that is a delay."""
    for item in subject.of_kind("Cluster", group=GROUP):
        for key in ("switchoverDelay", "failoverDelay", "stopDelay", "startDelay", "smartShutdownTimeout"):
            value = at(item.entry, f"spec.{key}")
            if isinstance(value, int) and value > LONGEST_DELAY_SECONDS:
                yield hit(item.entry, f"spec.{key}", f"{value} seconds")
        if at(item.entry, "spec.switchoverDelay") is None:
            yield hit(item.entry, "spec.switchoverDelay", "not given: an hour by default")


@rule(
    id="database.backup-schedule",
    title="Every ScheduledBackup has a schedule of six fields and a plugin to do it",
    protects="The first field is seconds: five fields are refused, or mean another time.",
    todo='Like "0 0 2 * * *" for two in the morning; method: plugin with pluginConfiguration.name.',
)
def backup_schedule(subject: Subject) -> Iterator[Hit]:
    """Six fields in their ranges, or a descriptor such as @daily."""
    for item in subject.of_kind("ScheduledBackup", group=GROUP):
        schedule = str(at(item.entry, "spec.schedule") or "")
        if (wrong := wrong_schedule(schedule)) is not None:
            yield hit(item.entry, "spec.schedule", f"{schedule!r}: {wrong}")
        if at(item.entry, "spec.method") == "plugin":
            if not at(item.entry, "spec.pluginConfiguration.name"):
                yield hit(item.entry, "spec.pluginConfiguration.name", "not given")
        elif at(item.entry, "spec.method") != "volumeSnapshot":
            yield hit(item.entry, "spec.method", f"{at(item.entry, 'spec.method') or 'the default'}: the in-tree way")
        cluster = str(at(item.entry, "spec.cluster.name"))
        if subject.stack is not None and subject.find("Cluster", item.namespace, cluster) is None:
            yield hit(item.entry, "spec.cluster.name", f"there is no Cluster {cluster} in its namespace")


@rule(
    id="database.backup-plugin",
    title="No Cluster backs up by the operator's own object store code",
    protects="The in-tree barmanObjectStore is deprecated and will be removed: backups would end with an upgrade.",
    todo="Use plugin-barman-cloud: an ObjectStore and spec.plugins.",
)
def backup_plugin(subject: Subject) -> Iterator[Hit]:
    """The Cluster itself and the clusters that it would be recovered from."""
    for item in subject.of_kind("Cluster", group=GROUP):
        if at(item.entry, "spec.backup.barmanObjectStore") is not None:
            yield hit(item.entry, "spec.backup.barmanObjectStore", "given")
        for index, source in enumerate(at(item.entry, "spec.externalClusters") or ()):
            if isinstance(source, dict) and source.get("barmanObjectStore") is not None:
                yield hit(item.entry, f"spec.externalClusters[{index}].barmanObjectStore", "given")


def _most_connections(process: Process) -> int:
    return int(at(process.config, "database.args.cp_max") or 5)


def _parameter(pooler: Item, name: str) -> int:
    return int((at(pooler.entry, "spec.pgbouncer.parameters") or {}).get(name) or _DEFAULTS[name])


def _pooled(pooler: Item) -> int:
    """Connections to the server that a Pooler may hold."""
    each = _parameter(pooler, "default_pool_size") + _parameter(pooler, "reserve_pool_size")
    return int(at(pooler.entry, "spec.instances") or 1) * each


def _pool(pooler: Item, demand: int) -> Iterator[Hit]:
    """In session mode a client holds a server connection: what is left of the pods must take all clients."""
    left = max(1, int(at(pooler.entry, "spec.instances") or 1) - 1)
    least = math.ceil(demand / left)
    for name in ("default_pool_size", "max_client_conn"):
        given = _parameter(pooler, name)
        if given < least:
            seen = f"{given}; {demand} connections on the {left} that are left when one is lost are {least} each"
            yield hit(pooler.entry, f"spec.pgbouncer.parameters.{name}", seen)


_FIELDS = (("second", 0, 59), ("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_NAMES = {
    "month": ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    "weekday": ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}


def wrong_schedule(schedule: str) -> str | None:
    """What is wrong with a schedule of robfig/cron with seconds, as the operator reads it; None when nothing is."""
    if re.fullmatch(r"@(yearly|annually|monthly|weekly|daily|midnight|hourly|every \S+)", schedule):
        return None
    fields = schedule.split()
    if len(fields) != 6:
        return f"{len(fields)} fields instead of six (the first is seconds)"
    for field, (name, low, high) in zip(fields, _FIELDS, strict=True):
        for part in field.split(","):
            span, _, step = part.partition("/")
            bounds = [] if span in ("*", "?") else span.split("-")
            numbers: list[Any] = [_number(bound, name) for bound in bounds] + ([_number(step, "")] if step else [])
            if None in numbers or any(not low <= n <= high for n in numbers[: len(bounds)]) or len(bounds) > 2:
                return f"{field} is no {name}"
    return None


def _number(text: str, field: str) -> int | None:
    if text.lower() in _NAMES.get(field, ()):
        return _NAMES[field].index(text.lower()) + (field == "month")
    return int(text) if text.isdigit() else None

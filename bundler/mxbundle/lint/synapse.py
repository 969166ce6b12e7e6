"""Synapse as it is rendered: its processes, and the configuration that each of them would read.

A process is a pod whose command starts a `synapse.app`, or that leaves the start to the entry point of an image of
Synapse; its configuration is every YAML file that its containers' commands and variables name, or that the entry point
reads unasked, found through their mounts. Nothing depends on how a chart calls its ConfigMaps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from mxbundle.lint.subject import Item, Subject
from mxbundle.lint.workloads import Workload, at
from sitebundle.podspecs import Object, containers
from sitebundle.rendering import merged

MAIN = "master"
"""What main is called in stream_writers and the *_instances; in instance_map it is `main`."""
STREAMS = (
    "events",
    "typing",
    "to_device",
    "account_data",
    "receipts",
    "presence",
    "push_rules",
    "device_lists",
    "thread_subscriptions",
    "quarantined_media_changes",
)
"""Every stream that has writers of its own: synapse/config/workers.py of 1.162, class WriterLocations."""
SINGLE_STREAMS = ("typing", "to_device", "account_data", "presence", "push_rules")
"""Those which exactly one process may write: the same file's checks."""
_APP = re.compile(r"synapse\.app\.[a-z_]+")
_IMAGE = re.compile(r"(?:^|/)(?:matrix-)?synapse(?=[:@]|$)")
_OWN_PATH = ("SYNAPSE_CONFIG_DIR", "SYNAPSE_CONFIG_PATH", "/data")
"""What the image's start.py reads unasked: homeserver.yaml in the folder that the first names, or else in the last."""
_YAML_PATH = re.compile(r"(/[\w./-]+\.ya?ml)\b")


@dataclass(frozen=True)
class ConfigFile:
    """One YAML file of a process: the object that holds it, the path inside that object, what it says."""

    item: Item
    path: str
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Process:
    """One type of process: its workload, and its files in the order in which they win.

    missing: files that it names below the mount of a ConfigMap that does not have them.
    """

    workload: Workload
    files: tuple[ConfigFile, ...]
    missing: tuple[str, ...] = ()

    @property
    def main(self) -> bool:
        """Whether it is the main process."""
        return "worker_app" not in self.config

    @property
    def config(self) -> dict[str, Any]:
        """All files merged, later ones win."""
        whole: dict[str, Any] = {}
        for file in self.files:
            whole = merged(whole, file.content)
        return whole

    @property
    def listeners(self) -> list[Mapping[str, Any]]:
        """Its listeners, whatever key they stand under."""
        found = self.config.get("listeners" if self.main else "worker_listeners") or []
        return [entry for entry in found if isinstance(entry, Mapping)]

    def ports(self, resource: str) -> set[int]:
        """The ports at which it serves a resource: `replication`, `media`, `client`, …"""
        return {
            int(listener["port"])
            for listener in self.listeners
            for part in listener.get("resources") or ()
            if resource in (part.get("names") or ()) and "port" in listener
        }

    def serves(self, resource: str) -> bool:
        """Whether any listener serves a resource."""
        return bool(self.ports(resource))

    def pods(self) -> tuple[str, ...]:
        """The instance names that its pods have: `master` for main, else the pods' names."""
        return (MAIN,) if self.main else self.workload.pod_names()


def processes(subject: Subject) -> list[Process]:
    """Every Synapse process that the subject deploys, in its order."""
    return [
        _process(subject, workload)
        for workload in subject.workloads
        if workload.pod is not None and workload.lasting and _starts_synapse(workload.pod)
    ]


def shared(found: Iterable[Process]) -> dict[tuple[str, str, str], ConfigFile]:
    """The files that say whose homeserver it is, each once: what all processes of one Synapse share."""
    return {
        (file.item.namespace, file.item.name, file.path): file
        for process in found
        for file in process.files
        if "server_name" in file.content
    }


def writers(config: Mapping[str, Any], stream: str) -> list[str]:
    """Who writes a stream: main when nothing is said. A single name may stand without a list."""
    given = (config.get("stream_writers") or {}).get(stream, [MAIN])
    return [given] if isinstance(given, str) else [str(name) for name in given or ()]


def _starts_synapse(pod: Object) -> bool:
    return any(
        _by_entry_point(container)
        or any(_APP.search(str(word)) for word in (*(container.get("command") or ()), *(container.get("args") or ())))
        for container, place in containers(pod)
        if place.startswith("containers")
    )


def _by_entry_point(container: Object) -> bool:
    """Whether a container is an image of Synapse that is started as it starts by itself: `run`, or nothing said."""
    return (
        not container.get("command")
        and [str(word) for word in container.get("args") or ()] in ([], ["run"])
        and bool(_IMAGE.search(str(container.get("image"))))
    )


def _own_path(container: Object) -> list[str]:
    """The configuration that the entry point reads where no variable names the file."""
    given = {str(one.get("name")): one.get("value") for one in container.get("env") or ()}
    folder, path, default = _OWN_PATH
    if not _by_entry_point(container) or path in given:
        return []
    return [f"{given.get(folder) or default}/homeserver.yaml"]


def _process(subject: Subject, workload: Workload) -> Process:
    """The process with every YAML file that it names, the shared one first."""
    found: dict[str, ConfigFile] = {}
    missing: list[str] = []
    for container, _ in containers(workload.pod or {}):
        words = [*(container.get("command") or ()), *(container.get("args") or ())]
        words += [variable.get("value") for variable in container.get("env") or ()]
        words += _own_path(container)
        for path in dict.fromkeys(path for word in words for path in _YAML_PATH.findall(str(word))):
            places = list(_places(workload, container, path))
            held = next((file for place in places if (file := _file(subject, workload, *place))), None)
            if held is not None:
                found.setdefault(path, held)
            elif places:
                missing.append(path)
    files = sorted(found.values(), key=lambda file: "server_name" not in file.content)
    return Process(workload, tuple(files), tuple(dict.fromkeys(missing)))


def _places(workload: Workload, container: Object, path: str) -> Iterator[tuple[str, str]]:
    """(ConfigMap, key) that a path of a container shows, by its mounts."""
    for mount in container.get("volumeMounts") or ():
        place = PurePosixPath(str(mount.get("mountPath")))
        if PurePosixPath(path).is_relative_to(place):
            inside = str(PurePosixPath(path).relative_to(place))
            inside = str(mount.get("subPath") or "") if inside == "." else inside
            for volume in (workload.pod or {}).get("volumes") or ():
                if volume.get("name") == mount.get("name"):
                    yield from _keys(volume, inside)


def _file(subject: Subject, workload: Workload, source: str, key: str) -> ConfigFile | None:
    item = subject.find("ConfigMap", workload.namespace, source)
    text = (at(item.entry, "data") or {}).get(key) if item is not None else None
    return _parsed(item, key, text) if item is not None and isinstance(text, str) else None


def _keys(volume: Object, inside: str) -> Iterator[tuple[str, str]]:
    """(ConfigMap, key) that a volume shows at a path; projected sources and `items` counted in."""
    sources = [volume, *((volume.get("projected") or {}).get("sources") or ())]
    for source in sources:
        given = source.get("configMap")
        if isinstance(given, Mapping):
            renamed = {str(item["path"]): str(item["key"]) for item in given.get("items") or ()}
            yield str(given.get("name")), renamed.get(inside, inside)


def _parsed(item: Item, key: str, text: str) -> ConfigFile | None:
    try:
        content = yaml.load(text, yaml.CSafeLoader)
    except yaml.YAMLError:
        return None
    return ConfigFile(item, f'data["{key}"]', content) if isinstance(content, dict) else None

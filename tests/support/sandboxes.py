"""Pods of rendered charts without a cluster: each in its image's root, in a network namespace with a cable to a switch.

A small kubelet: it mounts what the pod names, runs the container's command as the pod's user, and runs probes and hooks
when it is asked to. There are no Services and no DNS: a Service of one pod is that pod's address, in /etc/hosts.
Needs root. Nothing of it outlives the process that made it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darksite.images.isolation import PATH, enter, isolated, kernel_mounts, words

SUBNET = "10.77.0"
HOLDS_SECONDS = 3600
"""No test runs longer; a holder ends by itself then."""


@dataclass
class Sandbox:
    """One pod: its namespaces live as long as the sandbox, its container can be killed and started again."""

    name: str
    address: str
    root: Path
    pod: Mapping[str, Any]
    folder: Path
    sources: Mapping[str, Mapping[str, str]]
    holder: subprocess.Popen[bytes]
    switch: int
    cable: str
    running: subprocess.Popen[str] | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.log = self.folder / "log"

    @property
    def container(self) -> Mapping[str, Any]:
        (container,) = self.pod["containers"]
        return container  # type: ignore[no-any-return]

    def start(self) -> None:
        """Starts the container. Volumes that live as long as the pod keep what is in them."""
        assert self.running is None
        with self.log.open("a") as log:
            self.running = subprocess.Popen(
                self._command(self.container["command"]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def kill(self) -> None:
        """Ends the container at once, as a crash does."""
        if self.running is not None:
            self.running.kill()
            self.running.wait(timeout=20)
            self.running = None

    def renew(self) -> None:
        """Kills the container and empties the pod's volumes: what a deleted pod comes back with."""
        self.kill()
        shutil.rmtree(self.folder / "volumes", ignore_errors=True)

    def move(self, *, elsewhere: bool) -> None:
        """Plugs the pod's cable into the other switch, or back: pods hear those on their own switch only."""
        _in_network(self.switch, "ip", "link", "set", self.cable, "master", "elsewhere" if elsewhere else "lan")

    def execute(self, *command: str, timeout_seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs `command` as in the running container; its exit code is the caller's to judge."""
        return subprocess.run(
            self._command(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )

    def background(self, *command: str) -> subprocess.Popen[str]:
        """`command` as in the running container, for the caller to read and to end."""
        return subprocess.Popen(
            self._command(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ready(self) -> bool:
        """What the readiness probe of kind `exec` says now."""
        return self.execute(*self.container["readinessProbe"]["exec"]["command"]).returncode == 0

    def _command(self, command: Sequence[str]) -> list[str]:
        security = self.pod["securityContext"]
        user = (security["runAsUser"], security["runAsGroup"])
        steps = [words("mount", "--bind", self.root, self.root), words("mount", "-o", "remount,bind,ro", self.root)]
        steps += kernel_mounts(self.root)
        for mount in self.container["volumeMounts"]:
            source = self._volume(mount["name"], security.get("fsGroup", user[1]), user[0])
            steps.append(words("mount", "--bind", source, f"{self.root}{mount['mountPath']}"))
        # Below a shell that stays root: a process that changes its user outlives the one that started it.
        steps += [enter(self.root, command, {"PATH": PATH}, user).removeprefix("exec "), "exit $?"]
        return ["nsenter", f"--target={self.holder.pid}", "--net", "--uts", "--", *isolated(steps)]

    def _volume(self, name: str, group: int, user: int) -> Path:
        place = self.folder / "volumes" / name
        if place.exists():
            return place
        (volume,) = (entry for entry in self.pod["volumes"] if entry["name"] == name)
        place.mkdir(parents=True)
        place.chmod(0o2775)
        os.chown(place, user if "emptyDir" in volume else 0, group)
        source = volume.get("configMap", {}).get("name") or volume.get("secret", {}).get("secretName")
        wanted = [item["key"] for item in volume.get("secret", {}).get("items", [])]
        for key, text in self.sources.get(source, {}).items():
            if not wanted or key in wanted:
                (place / key).write_text(text)
                (place / key).chmod(0o440)
                os.chown(place / key, 0, group)
        return place


@dataclass
class Rack:
    """Two switches without a connection, and the pods: all are on the first one until they are moved."""

    folder: Path
    switch: subprocess.Popen[bytes]
    pods: dict[str, Sandbox] = field(default_factory=dict)
    holders: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add(self, name: str, root: Path, pod: Mapping[str, Any], sources: Mapping[str, Mapping[str, str]]) -> Sandbox:
        """A pod that is not started yet. `sources`: ConfigMaps and Secrets by name, key → text."""
        number = len(self.pods) + 10
        holder = _holder("--net", "--uts")
        self.holders.append(holder)
        cable, address = f"p{number}", f"{SUBNET}.{number}"
        link = ["ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid)]
        _in_network(self.switch.pid, *link)
        _in_network(self.switch.pid, "ip", "link", "set", cable, "master", "lan", "up")
        for command in (["lo", "up"], ["eth0", "up"]):
            _in_network(holder.pid, "ip", "link", "set", *command)
        _in_network(holder.pid, "ip", "addr", "add", f"{address}/24", "dev", "eth0")
        subprocess.run(["nsenter", f"--target={holder.pid}", "--uts", "hostname", name], check=True)
        sandbox = Sandbox(name, address, root, pod, self.folder / name, sources, holder, self.switch.pid, cable)
        for mount in sandbox.container["volumeMounts"]:
            # As runc does: what is mounted has a place to be mounted on.
            (root / mount["mountPath"].lstrip("/")).mkdir(parents=True, exist_ok=True)
        self.pods[name] = sandbox
        return sandbox

    def publish(self, root: Path, namespace: str) -> None:
        """Writes the Services of the pods into the hosts file of `root`: their names with the namespace.

        A bare name leads nowhere: in a real pod it is the pod's own address, which is not the Service's.
        """
        entries = [f"{pod.address} {pod.name}.{namespace}\n127.0.0.9 {pod.name}\n" for pod in self.pods.values()]
        (root / "etc/hosts").write_text("127.0.0.1 localhost\n" + "".join(entries))
        (root / "etc/nsswitch.conf").write_text("hosts: files\n")


@contextlib.contextmanager
def rack(folder: Path) -> Iterator[Rack]:
    """A switch without pods. At the end every container, namespace and cable is gone."""
    switch = _holder("--net")
    built = Rack(folder, switch)
    try:
        _in_network(switch.pid, "ip", "link", "set", "lo", "up")
        for name in ("lan", "elsewhere"):
            _in_network(switch.pid, "ip", "link", "add", name, "type", "bridge")
            _in_network(switch.pid, "ip", "link", "set", name, "up")
        yield built
    finally:
        for pod in built.pods.values():
            pod.kill()
        for holder in (*built.holders, switch):
            holder.kill()
            holder.wait()


def _holder(*namespaces: str) -> subprocess.Popen[bytes]:
    """A process that keeps namespaces. It has them when this returns."""
    command = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", *namespaces, "--", "/bin/sh", "-c"]
    holder = subprocess.Popen(
        [*command, f"echo; exec sleep {HOLDS_SECONDS}"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    with holder.stdout as said:
        said.readline()
    return holder


def _in_network(pid: int, *command: str) -> None:
    subprocess.run(["nsenter", f"--target={pid}", "--net", "--", *command], check=True, stdin=subprocess.DEVNULL)

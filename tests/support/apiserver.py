"""A real etcd and kube-apiserver on loopback, without nodes: objects, tokens and SSA are as they are.

Controllers run only where a test names them; what a kubelet would say of pods is claimed by `claimed_pods`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trustme
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from darksite import binaries

START_SECONDS = 60.0


@dataclass
class ApiServer:
    """Both programs, and the operator's kubeconfig. `stop` and `start` take one away for a while."""

    folder: Path
    kubeconfig: Path
    commands: dict[str, list[str]]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """Begin `etcd` or `kube-apiserver`, on the data of before."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(self.commands[name], stdout=log, stderr=log, process_group=0)

    def stop(self, name: str) -> None:
        """End it at once."""
        process = self.running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def ready(self) -> None:
        """Wait until it answers."""
        _await(self.kubeconfig, list(self.running.values()))


@contextlib.contextmanager
def api_server(folder: Path) -> Iterator[Path]:
    """Run both for the length of the block; yields an operator's kubeconfig."""
    with breakable_api_server(folder) as server:
        yield server.kubeconfig


@contextlib.contextmanager
def breakable_api_server(folder: Path, controllers: Sequence[str] = ()) -> Iterator[ApiServer]:
    """Run both for the length of the block, and these `controllers`; yields what can stop and start them."""
    kubernetes = binaries.ensure("kubernetes")
    port, client_port, peer_port = _free_ports(3)
    etcd = f"http://127.0.0.1:{client_port}"
    peers = f"http://127.0.0.1:{peer_port}"
    server = ApiServer(
        folder,
        _identities(folder, port),
        {
            "etcd": [
                str(binaries.ensure("etcd")),
                f"--data-dir={folder / 'etcd'}",
                f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}",
                f"--listen-peer-urls={peers}",
                f"--initial-advertise-peer-urls={peers}",
                f"--initial-cluster=default={peers}",
                "--unsafe-no-fsync",
                "--log-level=error",
            ],
            "kube-apiserver": [
                str(kubernetes / "kube-apiserver"),
                f"--etcd-servers={etcd}",
                f"--secure-port={port}",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                f"--client-ca-file={folder / 'ca.pem'}",
                f"--tls-cert-file={folder / 'server.pem'}",
                f"--tls-private-key-file={folder / 'server.key'}",
                f"--service-account-key-file={folder / 'accounts.key'}",
                f"--service-account-signing-key-file={folder / 'accounts.key'}",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--authorization-mode=RBAC",
                "--service-cluster-ip-range=10.99.0.0/16",
                "--endpoint-reconciler-type=none",
                # Nobody makes default accounts or finishes namespaces here.
                "--disable-admission-plugins=ServiceAccount",
            ],
        },
    )
    try:
        for name in server.commands:
            server.start(name)
        server.ready()
        if controllers:
            server.commands["kube-controller-manager"] = _controllers(folder, server.kubeconfig, controllers)
            server.start("kube-controller-manager")
        yield server
    finally:
        for name in reversed(list(server.running)):
            server.stop(name)


def _controllers(folder: Path, kubeconfig: Path, controllers: Sequence[str]) -> list[str]:
    return [
        str(binaries.ensure("kubernetes") / "kube-controller-manager"),
        f"--kubeconfig={kubeconfig}",
        f"--controllers={','.join(controllers)}",
        f"--service-account-private-key-file={folder / 'accounts.key'}",
        "--use-service-account-credentials=false",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={_free_ports(1)[0]}",
        "--node-monitor-period=1s",
        "--node-monitor-grace-period=10s",
        "--node-eviction-rate=10",
        "--secondary-node-eviction-rate=10",
    ]


def _await(kubeconfig: Path, running: list[subprocess.Popen[bytes]]) -> None:
    from mxinstall.cluster import Cluster

    from sitebundle.errors import MxError

    deadline = time.monotonic() + START_SECONDS
    while True:
        assert all(process.poll() is None for process in running), f"see the logs in {kubeconfig.parent}"
        try:
            cluster = Cluster.connect(kubeconfig)
            if cluster.request("GET", "/readyz")[0] == 200 and cluster.get("v1", "Namespace", "default"):
                return
        except MxError:
            pass
        assert time.monotonic() < deadline, f"no API server after {START_SECONDS} s: see {kubeconfig.parent}"
        time.sleep(0.3)


def _identities(folder: Path, port: int) -> Path:
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1", common_name="kube-apiserver")
    operator = authority.issue_cert("operator@site", common_name="operator", organization_name="system:masters")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    server.private_key_pem.write_to_path(folder / "server.key")
    server.cert_chain_pems[0].write_to_path(folder / "server.pem")
    operator.private_key_pem.write_to_path(folder / "operator.key")
    operator.cert_chain_pems[0].write_to_path(folder / "operator.pem")
    accounts = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    (folder / "accounts.key").write_bytes(accounts)
    kubeconfig = folder / "operator.kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {
                        "name": "site",
                        "cluster": {"server": f"https://127.0.0.1:{port}", "certificate-authority": "ca.pem"},
                    }
                ],
                "users": [
                    {
                        "name": "operator",
                        "user": {"client-certificate": "operator.pem", "client-key": "operator.key"},
                    }
                ],
                "contexts": [{"name": "site", "context": {"cluster": "site", "user": "operator"}}],
                "current-context": "site",
            }
        )
    )
    return kubeconfig


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()

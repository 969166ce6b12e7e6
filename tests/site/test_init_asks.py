"""`mxinstall init` at a real terminal and against a real API server: what it sees, asks and writes."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from apiserver import api_server
from bundles import write_bundle
from mxinstall.cluster import Cluster
from mxinstall.site import read_site

from sitebundle.archive.signing import sign_bundle
from sitebundle.signature import fingerprint, generate_key

MANIFESTS = Path(__file__).parents[2] / "manifests"
PROGRAM = str(Path(sys.executable).with_name("mxinstall"))
SECONDS = 60.0


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An API server with two nodes, two StorageClasses of which none is the default, and the usual DNS."""
    with api_server(tmp_path_factory.mktemp("apiserver")) as place:
        cluster = Cluster.connect(place)
        for number in (1, 2):
            name = f"n{number}"
            cluster.apply(
                {
                    "apiVersion": "v1",
                    "kind": "Node",
                    "metadata": {"name": name},
                    "spec": {"podCIDR": f"10.42.{number}.0/24", "podCIDRs": [f"10.42.{number}.0/24"]},
                }
            )
            address = {"type": "InternalIP", "address": f"127.0.0.{number}"}
            ready = {"type": "Ready", "status": "True", "reason": "x", "message": "x", "lastHeartbeatTime": None}
            cluster.patch(
                "v1",
                "Node",
                name,
                {"status": {"addresses": [address], "conditions": [ready]}},
                subresource="status",
                type="strategic",
            )
            # The server taints a new node until it is ready; who takes the taint away is not running here.
            cluster.patch("v1", "Node", name, {"spec": {"taints": None}})
        for name in ("bulk", "fast"):
            storage = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}}
            cluster.apply({**storage, "provisioner": f"{name}.example"})
        cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "kube-dns", "namespace": "kube-system"},
                "spec": {"selector": {"k8s-app": "coredns"}, "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]},
            }
        )
        yield place


@dataclass
class Host:
    """An operator's host with a signed bundle of the shipped stack, without its charts."""

    folder: Path
    kubeconfig: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "MXINSTALL_STATE": str(self.folder / "state"),
            "MXINSTALL_ALLOWED_SIGNERS": str(self.folder / "allowed_signers"),
            "KUBECONFIG": str(self.kubeconfig),
            "TERM": "dumb",
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROGRAM, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )

    def init(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("init", "--bundle", "site.tar.zst", *arguments)

    def at_terminal(self, replies: Sequence[tuple[str, str]], *arguments: str) -> tuple[int, str]:
        """Exit code and all that was shown. A reply is typed once its words were seen; `^C` is the signal."""
        master, slave = pty.openpty()
        command = [PROGRAM, "init", "--bundle", "site.tar.zst", *arguments]
        running = subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdin=slave, stdout=slave, stderr=slave, process_group=0
        )
        os.close(slave)
        shown, seen_up_to, waiting, leaving_at = "", 0, list(replies), float("inf")
        until = time.monotonic() + SECONDS
        try:
            while time.monotonic() < until:
                if waiting and waiting[0][0] in shown[seen_up_to:] and shown.endswith("> "):
                    seen_up_to = len(shown)
                    reply = waiting.pop(0)[1]
                    if reply == "^C":
                        leaving_at = time.monotonic() + 1
                    else:
                        os.write(master, f"{reply}\n".encode())
                if time.monotonic() > leaving_at and running.poll() is None:
                    # As a person does, who presses it again: one that comes in the moment between the prompt and the
                    # reading of the terminal is noticed with the next key.
                    running.send_signal(signal.SIGINT)
                    leaving_at += 8
                if select.select([master], [], [], 0.1)[0]:
                    try:
                        shown += os.read(master, 65536).decode().replace("\r\n", "\n")
                    except OSError:
                        break
                elif running.poll() is not None:
                    break
            assert not waiting, f"never asked: {waiting[0][0]!r} in {shown}"
            return running.wait(timeout=10), shown
        finally:
            running.kill()
            running.wait()
            os.close(master)

    @property
    def files(self) -> list[str]:
        kept = {"builder", "builder.pub", "site.tar.zst", "allowed_signers", "state"}
        return sorted(path.name for path in self.folder.iterdir() if path.name not in kept)


@pytest.fixture
def host(tmp_path: Path, kubeconfig: Path) -> Host:
    generate_key(tmp_path / "builder", "builder")
    names = [*MANIFESTS.glob("values/*.yaml"), *MANIFESTS.glob("profiles/*.yaml"), *MANIFESTS.glob("operands/*.yaml")]
    extra = {f"stack/{path.relative_to(MANIFESTS)}": path.read_bytes() for path in [MANIFESTS / "stack.yaml", *names]}
    made = Host(tmp_path, kubeconfig)
    sign_bundle(write_bundle(tmp_path / "site.tar.zst", extra=extra), tmp_path / "builder")
    public = tmp_path / "builder.pub"
    assert made.run("trust", "add", "--fingerprint", fingerprint(public.read_text()), str(public)).returncode == 0
    return made


def test_a_person_is_asked_what_the_cluster_cannot_tell(host: Host) -> None:
    code, shown = host.at_terminal(
        [
            ("What is this site called?", "North"),
            ("wanted: lower-case letters", "north-1"),
            ("Which domain do its users have", "?"),
            ("The right side of every user's name", "first.example"),
            ("Under which domain", "<"),
            ("Which domain do its users have", "north.example"),
            ("Under which domain", ""),
            ("How much of everything?", ""),
            ("volumes of PostgreSQL", "3"),
            ("one of bulk, fast", "2"),
            ("volumes of everything else", "bulk"),
            ("To which address do the public names resolve?", ""),
            ("Where do the nodes get images from?", ""),
            ("Which S3 store", "https://backup.example.net"),
            ("Which bucket there?", "north"),
            ("accessKeyId", ""),
            ("Write site.yaml?", ""),
        ]
    )
    assert code == 0, shown
    site = read_site(host.folder / "site.yaml")
    assert site.name == "north-1"
    assert site.spec.server_name == "north.example"
    assert site.spec.hosts.matrix == "matrix.north.example"
    assert (site.spec.storage.database, site.spec.storage.default) == ("fast", "bulk")
    assert site.spec.edge.address == "127.0.0.1"
    assert site.spec.network.dns.labels == {"k8s-app": "coredns"}
    assert site.spec.backups.s3 is not None
    assert site.spec.backups.s3.secret == "backup-s3"
    assert "1) bulk: bulk.example" in shown
    assert "made for 3 nodes, 2 are ready: too few" in shown
    assert host.files == ["site.schema.json", "site.yaml"]
    assert host.run("site", "check", "--bundle", "site.tar.zst").returncode == 0


@pytest.mark.parametrize("leave", ["^C", "\x04"])
def test_who_leaves_in_between_finds_no_file(host: Host, leave: str) -> None:
    code, shown = host.at_terminal([("What is this site called?", ""), ("Which domain", leave)])
    assert code == 130, shown
    assert "Traceback" not in shown
    assert host.files == []


def test_a_script_is_told_all_that_is_missing_and_then_writes(host: Host) -> None:
    done = host.init()
    assert done.returncode == 50, done.stderr
    assert done.stderr.count("is not answered") == 2
    assert "--set spec.storage.database=… (one of bulk, fast)" in done.stderr
    assert host.files == []
    settings = ["--set", "spec.storage.database=fast", "--set", "spec.storage.default=bulk"]
    done = host.init("--json", *settings)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {"field": "spec.storage.database", "value": "fast", "why": "given by --set"} in told["choices"]
    assert read_site(host.folder / "site.yaml").spec.storage.default == "bulk"
    again = host.init("--yes", *settings)
    assert (again.returncode, "never rewritten" in again.stderr) == (50, True)


def test_a_range_of_the_clusters_services_is_no_address_of_the_site(host: Host) -> None:
    ranges = Cluster.connect(host.kubeconfig).list("networking.k8s.io/v1", "ServiceCIDR")
    inside = ranges[0]["spec"]["cidrs"][0].rpartition(".")[0] + ".77"
    storage = ["--set", "spec.storage.database=fast", "--set", "spec.storage.default=bulk"]
    done = host.init(*storage, "--set", f"spec.edge.address={inside}")
    assert done.returncode == 50
    assert "the range of the cluster's Services" in done.stderr
    assert host.files == []


def test_what_the_identity_may_not_see_is_said(host: Host) -> None:
    """Only what no site can be written without may be read: nodes, StorageClasses, EndpointSlices."""
    cluster = Cluster.connect(host.kubeconfig)
    rules = [
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]},
        {"apiGroups": ["storage.k8s.io"], "resources": ["storageclasses"], "verbs": ["list"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list"]},
    ]
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "looker"}}
    account = {"kind": "ServiceAccount", "name": "looker", "namespace": "default"}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "looker"}
    cluster.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "looker", "namespace": "default"}}
    )
    cluster.apply({**role, "kind": "ClusterRole", "rules": rules})
    cluster.apply({**role, "kind": "ClusterRoleBinding", "roleRef": reference, "subjects": [account]})
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "looker", "namespace": "default"}}
    token, _ = cluster.service_account_token("default", "looker", cluster.apply(secret), 600)
    config = yaml.safe_load(host.kubeconfig.read_text())
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
    # Beside the other one, whose paths it has.
    host.kubeconfig = host.kubeconfig.with_name("looker.kubeconfig")
    host.kubeconfig.touch(mode=0o600)
    host.kubeconfig.write_text(yaml.safe_dump(config))
    done = host.init("--set", "spec.storage.database=fast", "--set", "spec.storage.default=bulk")
    assert done.returncode == 0, done.stderr
    for kind in ("Service", "DaemonSet", "ServiceCIDR"):
        assert f"could not be looked at: {kind} (403)" in done.stdout
    assert "# Could not be looked at: DaemonSet (403)." in (host.folder / "site.yaml").read_text()

"""What the installer does with bad input, as its user meets it: one error, its exit code, nothing changed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from bundles import write_bundle

from sitebundle.archive.signing import sign_bundle
from sitebundle.signature import fingerprint, generate_key

OPERANDS = Path(__file__).parents[2] / "manifests" / "operands"
PROGRAM = Path(sys.executable).with_name("mxinstall")
SITE = {
    "apiVersion": "mxbundle.io/v1alpha1",
    "kind": "Site",
    "metadata": {"name": "north-1"},
    "spec": {
        "profile": "demo",
        "serverName": "north-1.site",
        "hosts": {"matrix": "matrix.north-1.site"},
        "registry": {"push": "127.0.0.1:5999", "pull": "127.0.0.1:5999"},
        "storage": {"default": "standard", "database": "standard", "objects": "standard"},
        "edge": {"address": "127.0.0.1"},
    },
}


@dataclass
class Host:
    """An operator's host with a signed bundle, a kubeconfig, and an API server's port that notes who comes."""

    folder: Path
    bundle: Path
    listener: socket.socket

    @property
    def store(self) -> Path:
        return self.folder / "allowed_signers"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "MXINSTALL_STATE": str(self.state),
            "MXINSTALL_ALLOWED_SIGNERS": str(self.store),
            "KUBECONFIG": str(self.folder / "kubeconfig"),
        }
        return subprocess.run(
            [PROGRAM, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False, timeout=120
        )

    def install(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return self.run("--bundle", self.bundle, "--yes", *arguments)

    def trust(self) -> None:
        public = self.folder / "builder.pub"
        done = self.run("trust", "add", "--fingerprint", fingerprint(public.read_text()), public)
        assert done.returncode == 0, done.stderr

    def was_asked(self) -> bool:
        """Whether anybody connected to the API server's port."""
        self.listener.setblocking(False)
        try:
            self.listener.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    generate_key(tmp_path / "builder", "builder")
    # A bundle that is refused or ends at the API server is never asked for its stack.
    stack = {
        "apiVersion": "mxbundle.io/v1alpha1",
        "kind": "Stack",
        "name": "matrix",
        "kubernetes": ">=1.33",
        "profiles": ["demo"],
        "images": {},
        "namespaces": [],
        "releases": [],
    }
    extra = {"stack/stack.yaml": yaml.safe_dump(stack).encode()}
    extra |= {f"stack/operands/{path.name}": path.read_bytes() for path in OPERANDS.glob("*.yaml")}
    bundle = write_bundle(tmp_path / "site.tar.zst", extra=extra, generation=3)
    sign_bundle(bundle, tmp_path / "builder")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        kubeconfig = {
            "clusters": [{"name": "site", "cluster": {"server": address}}],
            "users": [{"name": "operator", "user": {"token": "none"}}],
            "contexts": [{"name": "site", "context": {"cluster": "site", "user": "operator"}}],
            "current-context": "site",
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        (tmp_path / "site.yaml").write_text(yaml.safe_dump(SITE))
        yield Host(tmp_path, bundle, listener)


def refused(host: Host, done: subprocess.CompletedProcess[str], error: str, code: int) -> None:
    """One error with its id and exit code, no traceback, no connection, no state."""
    assert done.returncode == code, done.stderr
    assert done.stderr.count("error[") == 1
    assert f"error[{error}]" in done.stderr
    assert "Traceback" not in done.stderr
    assert not host.was_asked()
    assert not list(host.state.rglob("*")) if host.state.exists() else True


def test_a_fresh_host_is_told_the_one_command_to_run(host: Host) -> None:
    done = host.install()
    refused(host, done, "trust-none", 20)
    (hint,) = [line for line in done.stderr.splitlines() if "hint:" in line]
    public = host.folder / "builder.pub"
    command = hint.partition("then run: mxinstall ")[2]
    command = command.replace("SHA256:…", fingerprint(public.read_text())).replace("BUILDER.pub", str(public))
    assert host.run(*command.split()).returncode == 0
    assert host.run("verify", "--bundle", host.bundle).returncode == 0


def test_a_bundle_of_a_stranger_is_refused(host: Host) -> None:
    generate_key(host.folder / "other", "other")
    public = host.folder / "other.pub"
    host.run("trust", "add", "--fingerprint", fingerprint(public.read_text()), public)
    done = host.install()
    refused(host, done, "trust-unknown-key", 22)
    assert fingerprint((host.folder / "builder.pub").read_text()) in done.stderr


def test_an_unsigned_bundle_is_refused(host: Host) -> None:
    host.trust()
    unsigned = write_bundle(host.folder / "unsigned.tar.zst")
    refused(host, host.run("--bundle", unsigned), "trust-unsigned", 21)


def test_a_key_whose_time_is_over_is_refused(host: Host) -> None:
    host.trust()
    host.store.write_text(host.store.read_text().replace("namespaces=", 'valid-before="20200101Z",namespaces='))
    refused(host, host.install(), "trust-key-expired", 24)


def test_a_key_for_other_things_is_refused(host: Host) -> None:
    host.trust()
    host.store.write_text(host.store.read_text().replace("manifest@mxbundle.io", "other@mxbundle.io"))
    refused(host, host.install(), "trust-unknown-key", 22)


def test_an_older_generation_is_refused_before_any_connection(host: Host) -> None:
    host.trust()
    record = {"admitted": [{"generation": 4, "digest": "sha256:" + "a" * 64, "at": 1.0, "signer": "SHA256:x"}]}
    (host.state / "north-1").mkdir(parents=True)
    (host.state / "north-1" / "admitted.json").write_text(json.dumps(record))
    done = host.install("--site", host.folder / "site.yaml")
    assert done.returncode == 25, done.stderr
    assert "generation 3" in done.stderr
    assert "generation 4" in done.stderr
    assert not host.was_asked()


@pytest.mark.parametrize("arguments", [("--live",), ()], ids=["live", "install"])
def test_a_broken_site_file_is_told_with_line_and_field(host: Host, arguments: tuple[str, ...]) -> None:
    host.trust()
    path = host.folder / "site.yaml"
    path.write_text(path.read_text().replace("database:", "databse:"))
    done = host.run("verify", *arguments, "--site", path) if arguments else host.install("--site", path)
    refused(host, done, "site-invalid", 50)
    assert "did you mean database?" in done.stderr


def test_a_truncated_bundle_is_refused(host: Host) -> None:
    host.trust()
    whole = host.bundle.read_bytes()
    host.bundle.write_bytes(whole[: len(whole) // 2])
    refused(host, host.install(), "bundle-truncated", 11)


def test_a_flipped_bit_is_found_by_a_deep_look_alone(host: Host) -> None:
    host.trust()
    content = bytearray(host.bundle.read_bytes())
    content[len(content) // 2] ^= 1
    host.bundle.write_bytes(content)
    assert host.run("verify", "--bundle", host.bundle).returncode == 0
    refused(host, host.run("verify", "--bundle", host.bundle, "--deep"), "bundle-damaged", 12)


def test_an_api_server_that_nobody_runs_is_one_error(host: Host) -> None:
    host.trust()
    host.listener.close()
    done = host.install("--site", host.folder / "site.yaml")
    assert done.returncode == 51, done.stderr
    assert "error[cluster-unreachable]" in done.stderr
    assert not (host.state / "north-1" / "admitted.json").exists()


def test_json_errors_are_one_line(host: Host) -> None:
    done = host.run("--json", "verify", "--bundle", host.bundle)
    error = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, error["error"], error["exit_code"]) == (20, "trust-none", 20)
    assert error["hint"]


def test_trust_is_added_listed_and_removed(host: Host) -> None:
    host.trust()
    wanted = fingerprint((host.folder / "builder.pub").read_text())
    assert wanted in host.run("trust", "list").stdout
    assert host.run("verify", "--bundle", host.bundle).returncode == 0
    assert host.run("trust", "remove", wanted).returncode == 0
    assert wanted not in host.run("trust", "list").stdout
    assert host.run("verify", "--bundle", host.bundle).returncode == 20


def test_a_fingerprint_that_differs_trusts_nothing(host: Host) -> None:
    done = host.run("trust", "add", "--fingerprint", "SHA256:" + "A" * 43, host.folder / "builder.pub")
    refused(host, done, "trust-fingerprint-differs", 27)
    assert not host.store.exists()


@pytest.mark.parametrize("given", ["clock.host", "clock.host=", "clock.host= "])
@pytest.mark.parametrize("command", ["install", "preflight"])
def test_a_check_is_not_left_out_without_a_reason(host: Host, command: str, given: str) -> None:
    host.trust()
    done = host.run(command, "--bundle", host.bundle, "--skip", given)
    refused(host, done, "usage", 2)
    assert "the reason is kept" in done.stderr

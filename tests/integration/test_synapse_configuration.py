"""The rendered configuration read by the real Synapse, for each process that the chart starts.

Synapse is the stand-in of its image contract, run as the contract's user with a read-only root. Needs root.
"""

import json
import secrets
import subprocess
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from shipped_stack import named, rendered, unpack_image

from darksite.images import isolation

SYNAPSE = (991, 991)
PROCESSES = ["main", "synchrotron", "client-reader", "media-repository", "event-persister"]
EXPLAIN = """
import json, sys
from synapse.config.homeserver import HomeServerConfig
files = [argument for argument in sys.argv if argument.startswith("--config-path=")]
config = HomeServerConfig.load_config("check", files)
workers, database = config.worker, config.database.get_single_database().config["args"]
print(json.dumps({
    "name": workers.instance_name,
    "events": workers.writers.events,
    "quarantined": workers.writers.quarantined_media_changes,
    "media": config.media.can_load_media_repo,
    "media_jobs": getattr(config.media, "media_instance_running_background_jobs", None),
    "listeners": {listener.port: sorted(name for resource in listener.http_options.resources for name in resource.names)
        if listener.http_options else [] for listener in (config.server.listeners or workers.worker_listeners)},
    "database": database,
    "secrets": [config.key.macaroon_secret_key.decode(), config.key.form_secret,
        config.registration.registration_shared_secret, workers.worker_replication_secret, config.redis.redis_password],
    "signing_key": config.key.signing_key[0].version,
    "upload": getattr(config.media, "max_upload_size", None),
    "message_limit": config.ratelimiting.rc_message.per_second,
}))
"""


@dataclass(frozen=True)
class Pod:
    """What the kubelet lays out for one pod of the Synapse chart, in the unpacked image."""

    root: Path
    folders: dict[str, Path]
    objects: list[dict[str, Any]]

    def run(self, process: str, container: str) -> "subprocess.CompletedProcess[str]":
        """Runs a container of that process's pod as rendered; for `synapse` its configuration is explained instead."""
        template = named(self.objects, "StatefulSet", f"synapse-{process}")["spec"]["template"]["spec"]
        (entry,) = (c for c in template["initContainers"] + template["containers"] if c["name"] == container)
        environment = {item["name"]: item.get("value", f"synapse-{process}-0") for item in entry.get("env", [])}
        environment |= {"WAIT_SECONDS": "1"} if container == "configure" else {}
        command = list(entry["command"])
        if container == "synapse":
            assert command[:2] == ["python3", "-m"]
            command = ["python3", "-c", EXPLAIN, *command[3:]]
        # By `env`, inside: what is preloaded is the image's, and must not be looked for on this machine.
        return isolation.inside(
            self.root,
            ["env", *(f"{key}={value}" for key, value in environment.items()), *command],
            user=SYNAPSE,
            writable={m["mountPath"]: self.folders[m["mountPath"]] for m in entry["volumeMounts"]},
            timeout_seconds=120,
        )


@pytest.fixture(scope="module")
def synapse_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_image("synapse", tmp_path_factory.mktemp("images") / "synapse")


@pytest.fixture
def pod(synapse_root: Path, tmp_path: Path) -> Pod:
    return laid_out(synapse_root, tmp_path, rendered("synapse", "demo"))


def laid_out(root: Path, scratch: Path, objects: list[dict[str, Any]]) -> Pod:
    key = b64encode(secrets.token_bytes(32)).decode().rstrip("=")
    files = {
        "/etc/synapse": named(objects, "ConfigMap", "synapse-config")["data"],
        "/secrets/synapse": {
            "signing.key": f"ed25519 a_site {key}\n",
            **{name: f"the {name}" for name in ("macaroon", "form", "registration", "replication")},
        },
        "/secrets/database": {"password": "the database's"},
        "/secrets/redis": {"password": "the redis's"},
        "/secrets/ca": {"ca.crt": "none is asked yet"},
        "/run/synapse": {},
        "/tmp": {},
        "/media": {},
    }
    folders = {}
    for place, content in files.items():
        folder = scratch / place.strip("/").replace("/", "-")
        folder.mkdir()
        folder.chmod(0o777 if not content else 0o755)
        for name, text in content.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o644)
        folders[place] = folder
        (root / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
    scratch.chmod(0o755)
    return Pod(root, folders, objects)


@pytest.mark.parametrize("process", PROCESSES)
def test_synapse_takes_the_configuration_of_each_process_as_it_is_meant(pod: Pod, process: str) -> None:
    configured = pod.run(process, "configure")
    # No database here: it waits, says for what, and gives up when its time is over.
    assert configured.returncode == 1
    assert configured.stdout.count("waiting: ") == 1

    explained = pod.run(process, "synapse")
    assert explained.returncode == 0, explained.stdout
    seen = json.loads(explained.stdout.splitlines()[-1])
    assert explained.stdout.splitlines()[:-1] == []  # no word of the loader about a missing allocator
    assert seen["name"] == ("master" if process == "main" else f"synapse-{process}-0")
    assert seen["events"] == ["synapse-event-persister-0", "synapse-event-persister-1"]
    assert seen["quarantined"] == ["master", "synapse-media-repository-0"]
    assert seen["media"] is (process == "media-repository")
    assert seen["secrets"] == [
        "the macaroon",
        "the form",
        "the registration",
        "the replication",
        "the redis's",
    ]
    assert seen["signing_key"] == "a_site"
    assert seen["database"]["password"] == "the database's"
    assert seen["database"]["sslmode"] == "verify-full"
    assert seen["database"]["application_name"] == f"synapse-{process}-0"
    listeners = {
        "main": {"8008": ["client", "openid"], "8080": ["health"], "9093": ["replication"], "9001": []},
        "synchrotron": {"8008": ["client"], "8080": ["health"], "9001": []},
        "client-reader": {"8008": ["client"], "8080": ["health"], "9001": []},
        "media-repository": {"8008": ["client", "media"], "8080": ["health"], "9093": ["replication"], "9001": []},
        "event-persister": {"8080": ["health"], "9093": ["replication"], "9001": []},
    }
    assert seen["listeners"] == listeners[process]
    if process == "media-repository":
        assert seen["upload"] == 50 << 20
        assert seen["media_jobs"] == "synapse-media-repository-0"


def test_the_file_with_the_password_is_for_synapse_alone(pod: Pod) -> None:
    pod.run("main", "configure")
    written = pod.folders["/run/synapse"] / "process.yaml"
    assert (written.stat().st_mode & 0o777, written.stat().st_uid) == (0o600, SYNAPSE[0])
    assert "worker_name" not in yaml.safe_load(written.read_text())


def test_main_alone_serves_media_when_no_worker_does(synapse_root: Path, tmp_path: Path) -> None:
    objects = rendered("synapse", "demo", {"workers": {"media-repository": {"replicas": 0}}})
    pod = laid_out(synapse_root, tmp_path, objects)
    pod.run("main", "configure")
    explained = pod.run("main", "synapse")
    assert explained.returncode == 0, explained.stdout
    seen = json.loads(explained.stdout.splitlines()[-1])
    assert seen["media"] is True
    assert seen["listeners"]["8008"] == ["client", "media", "openid"]

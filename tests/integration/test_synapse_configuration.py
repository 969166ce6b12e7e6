"""The rendered configuration read by the real Synapse, for each process that the chart starts.

Synapse is the stand-in of its image contract, run as the contract's user with a read-only root. Needs root.
"""

import json
import secrets
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from shipped_stack import configuration_files, named, rendered, unpack_image

from darksite.images import isolation

SYNAPSE = (991, 991)
FEDERATED = {
    "federation": {"enabled": True, "allow": ["other.example"]},
    "workers": {
        "federation-inbound": {"replicas": 1},
        "federation-reader": {"replicas": 1},
        "federation-sender": {"replicas": 2},
        "sso-login": {"replicas": 1},
    },
}
CLIENTS = ["client"]
RESOURCES = {
    "main": ["client", "openid"],
    "media-repository": ["client", "media"],
    **dict.fromkeys(("event-persister", "background", "pusher")),
}
"""Resources of the client port where they are not those of most types."""
REPLICATING = {
    *("main", "media-repository", "event-persister", "typing", "to-device", "account-data", "receipts", "presence"),
    *("push-rules", "device-lists"),
}
PROCESSES = [
    *("main", "synchrotron", "initial-synchrotron", "sliding-sync", "client-reader", "event-creator", "user-dir"),
    *("media-repository", "event-persister", "typing", "to-device", "account-data", "receipts", "presence"),
    *("push-rules", "device-lists", "background", "pusher"),
]
EXPLAIN = """
import json, sys
from synapse.config.homeserver import HomeServerConfig
for files in json.loads(sys.argv[1]):
  config = HomeServerConfig.load_config("check", files)
  workers, database = config.worker, config.database.get_single_database().config["args"]
  print(json.dumps({
    "name": workers.instance_name,
    "writers": {stream: names for stream, names in vars(workers.writers).items()},
    "duties": [duty for duty, mine in {"background": workers.run_background_tasks,
        "appservices": workers.should_notify_appservices, "user-dir": workers.should_update_user_directory,
        "pusher": workers.start_pushers, "sender": workers.send_federation}.items() if mine],
    "talks_to": [name for name in ("other.example", "unknown.example")
        if config.federation.is_domain_allowed_according_to_federation_whitelist(name)],
    "presence": config.server.presence_enabled,
    "stores": [(store[0].__name__, store[1]) for store in getattr(config.media, "media_storage_providers", [])],
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

    def run(
        self, process: str, container: str, instead: Sequence[str] = (), **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Runs a container of that process's pod as rendered, or `instead` in its place; `environment` comes on top."""
        entry = self._container(process, container)
        variables = {item["name"]: item.get("value", f"synapse-{process}-0") for item in entry.get("env", [])}
        command = [*instead] or entry["command"]
        # By `env`, inside: what is preloaded is the image's, and must not be looked for on this machine.
        return isolation.inside(
            self.root,
            ["env", *(f"{key}={value}" for key, value in (variables | environment).items()), *command],
            user=SYNAPSE,
            writable={m["mountPath"]: self.folders[m["mountPath"]] for m in entry["volumeMounts"]},
            timeout_seconds=120,
        )

    def explained(self, *processes: str, **environment: str) -> dict[str, Any]:
        """What Synapse reads for each process, from the files that its containers are given. No database is asked."""
        read = []
        for process in processes:
            assert self.run(process, "configure", DATABASE_WAIT_SECONDS="0").returncode == 1
            command = self._container(process, "synapse")["command"]
            app = "synapse.app.homeserver" if process == "main" else "synapse.app.generic_worker"
            assert command[:3] == ["python3", "-m", app]
            # One run reads them all: each goes by a name of its own meanwhile.
            own = self.folders["/run/synapse"] / "process.yaml"
            own.rename(own.with_name(f"{process}.yaml"))
            read.append([argument.replace("/process.yaml", f"/{process}.yaml") for argument in command[3:]])
        done = self.run(processes[-1], "synapse", ["python3", "-c", EXPLAIN, json.dumps(read)], **environment)
        assert done.returncode == 0, done.stdout
        # No other word: the loader would tell of an allocator that is missing.
        return dict(zip(processes, map(json.loads, done.stdout.splitlines()), strict=True))

    def _container(self, process: str, container: str) -> dict[str, Any]:
        kind = "Job" if process == "check-config" else "StatefulSet"
        template = named(self.objects, kind, f"synapse-{process}")["spec"]["template"]["spec"]
        offered = [*template.get("initContainers", []), *template["containers"]]
        (entry,) = (offering for offering in offered if offering["name"] == container)
        return dict(entry)


@pytest.fixture(scope="module")
def synapse_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_image("synapse", tmp_path_factory.mktemp("images") / "synapse")


@pytest.fixture(scope="module")
def demo(synapse_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Synapse reads for each process of the demonstration."""
    scratch = tmp_path_factory.mktemp("demo")
    return laid_out(synapse_root, scratch, rendered("synapse", "demo")).explained(*PROCESSES)


@pytest.fixture
def pod(synapse_root: Path, tmp_path: Path) -> Pod:
    return laid_out(synapse_root, tmp_path, rendered("synapse", "demo"))


def laid_out(root: Path, scratch: Path, objects: list[dict[str, Any]], checked: bool = False) -> Pod:
    key = b64encode(secrets.token_bytes(32)).decode().rstrip("=")
    files = {
        "/etc/synapse": (
            named(objects, "ConfigMap", "synapse-check-config")["data"] if checked else configuration_files(objects)
        ),
        "/secrets/synapse": {
            "signing.key": f"ed25519 a_site {key}\n",
            **{name: f"the {name}" for name in ("macaroon", "form", "registration", "replication")},
        },
        "/secrets/database": {"password": "the database's"},
        "/secrets/redis": {"password": "the redis's"},
        "/secrets/ca": {"ca.crt": certificate()},
        "/secrets/s3": {"access_key_id": "the store's name", "secret_access_key": "the store's key\n"},
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
def test_synapse_takes_the_configuration_of_each_process_as_it_is_meant(demo: dict[str, Any], process: str) -> None:
    seen = demo[process]
    assert seen["name"] == ("master" if process == "main" else f"synapse-{process}-0")
    assert seen["writers"] == {
        "events": ["synapse-event-persister-0", "synapse-event-persister-1"],
        "typing": ["synapse-typing-0"],
        "to_device": ["synapse-to-device-0"],
        "account_data": ["synapse-account-data-0"],
        "receipts": ["synapse-receipts-0"],
        "presence": ["synapse-presence-0"],
        "push_rules": ["synapse-push-rules-0"],
        "device_lists": ["synapse-device-lists-0"],
        "thread_subscriptions": ["synapse-account-data-0"],
        "quarantined_media_changes": ["master", "synapse-media-repository-0"],
    }
    duties = {
        # Without federation there is nothing to send, and without senders main says so.
        "main": ["sender"],
        "background": ["background", "appservices"],
        "user-dir": ["user-dir"],
        "pusher": ["pusher"],
    }
    assert seen["duties"] == duties.get(process, [])
    assert seen["talks_to"] == []
    assert seen["presence"] is True
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
    listeners = {"8008": RESOURCES.get(process, CLIENTS), "8080": ["health"], "9001": []}
    listeners["9093"] = ["replication"] if process in REPLICATING else None
    assert seen["listeners"] == {port: names for port, names in listeners.items() if names is not None}
    if process == "media-repository":
        assert seen["upload"] == 50 << 20
        assert seen["media_jobs"] == "synapse-media-repository-0"


def test_a_process_without_a_database_waits_says_for_what_and_gives_up(pod: Pod) -> None:
    configured = pod.run("main", "configure", DATABASE_WAIT_SECONDS="3")
    assert configured.returncode == 1
    assert configured.stdout.count("waiting: ") == 1


def test_the_file_with_the_password_is_for_synapse_alone(pod: Pod) -> None:
    pod.run("main", "configure", DATABASE_WAIT_SECONDS="0")
    written = pod.folders["/run/synapse"] / "process.yaml"
    assert (written.stat().st_mode & 0o777, written.stat().st_uid) == (0o600, SYNAPSE[0])
    assert "worker_name" not in yaml.safe_load(written.read_text())


def test_main_alone_serves_media_when_no_worker_does(synapse_root: Path, tmp_path: Path) -> None:
    objects = rendered("synapse", "demo", {"workers": {"media-repository": {"replicas": 0}}})
    seen = laid_out(synapse_root, tmp_path, objects).explained("main")["main"]
    assert seen["media"] is True
    assert seen["listeners"]["8008"] == ["client", "media", "openid"]


# --- federation, object store -------------------------------------------------------------------------------------


def test_with_federation_synapse_talks_to_the_named_servers_only(synapse_root: Path, tmp_path: Path) -> None:
    resources = {
        "main": ["client", "federation"],
        "federation-inbound": ["federation"],
        "federation-reader": ["federation"],
        "federation-sender": None,
        "media-repository": ["client", "federation", "media"],
        "sso-login": ["client"],
    }
    pod = laid_out(synapse_root, tmp_path, rendered("synapse", "demo", FEDERATED))
    for process, seen in pod.explained(*resources).items():
        assert seen["talks_to"] == ["other.example"]
        assert seen["listeners"].get("8008") == resources[process]
        assert seen["duties"] == (["sender"] if process == "federation-sender" else [])


PROVIDER = """
class S3StorageProviderBackend:
    def __init__(self, hs, config): ...
    @staticmethod
    def parse_config(config): return config
"""


def test_the_keys_of_the_object_store_are_in_no_file_but_that_of_media(synapse_root: Path, tmp_path: Path) -> None:
    over = {"media": {"s3": {"endpoint": "https://s3.example.site", "bucket": "media", "secret": "media-s3"}}}
    objects = rendered("synapse", "demo", over)
    pod = laid_out(synapse_root, tmp_path, objects)
    for process in ("media-repository", "client-reader"):
        pod.run(process, "configure", DATABASE_WAIT_SECONDS="0")
        written = (pod.folders["/run/synapse"] / "process.yaml").read_text()
        assert ("the store's key" in written) is (process == "media-repository")
    # The stock image has no provider: the check says so before any process is stopped.
    checked = laid_out(synapse_root, fresh(tmp_path), objects, checked=True).run("check-config", "check")
    assert checked.returncode == 3, checked.stdout
    assert checked.stdout.startswith("media-repository: ")
    assert "s3_storage_provider" in checked.stdout
    # With something in its place (the image with the real one is another one) Synapse takes what was written.
    (pod.folders["/etc/synapse"] / "s3_storage_provider.py").write_text(PROVIDER)
    seen = pod.explained("media-repository", PYTHONPATH="/etc/synapse")["media-repository"]
    ((name, store),) = seen["stores"]
    assert name == "S3StorageProviderBackend"
    assert (store["access_key_id"], store["secret_access_key"]) == ("the store's name", "the store's key")
    template = named(objects, "StatefulSet", "synapse-media-repository")["spec"]["template"]["spec"]
    assert {"name": "AWS_CA_BUNDLE", "value": "/secrets/ca/ca.crt"} in template["containers"][0]["env"]


# --- the check before an upgrade ----------------------------------------------------------------------------------


@pytest.mark.parametrize("over", [{}, FEDERATED], ids=["demo", "federated"])
def test_the_check_takes_what_synapse_takes(synapse_root: Path, tmp_path: Path, over: dict[str, Any]) -> None:
    objects = rendered("synapse", "demo", over)
    done = laid_out(synapse_root, tmp_path, objects, checked=True).run("check-config", "check")
    kinds = len([entry for entry in objects if entry["kind"] == "StatefulSet"])
    assert (done.returncode, done.stdout.strip()) == (
        0,
        f"Synapse takes the configuration of {kinds} kinds of processes",
    )


@pytest.mark.parametrize(
    ("over", "told"),
    [
        (
            {"config": {"retention": {"allowed_lifetime_min": "2d", "allowed_lifetime_max": "1d"}}},
            "Invalid retention policy limits",
        ),
        ({"allowedAddresses": ["10.0.0.0/99"]}, "Error in configuration at 'ip_range_whitelist"),
        ({"config": {"media_retention": {"local_media_lifetime": "a while"}}}, "media-repository: "),
    ],
    ids=["a contradiction", "no network", "of one process only"],
)
def test_the_check_refuses_before_any_process_is_touched(
    synapse_root: Path, tmp_path: Path, over: dict[str, Any], told: str
) -> None:
    objects = rendered("synapse", "demo", over)
    done = laid_out(synapse_root, tmp_path, objects, checked=True).run("check-config", "check")
    assert done.returncode == 3, done.stdout
    assert told in done.stdout
    assert "the database's" not in done.stdout


# --- the order of a start -----------------------------------------------------------------------------------------

WAIT = """
import json, os, socket, sys, threading, time
sys.path.insert(0, "/etc/synapse")
import configure
late = float(os.environ["LATE"])
def listen():
    time.sleep(late)
    server = socket.create_server(("127.0.0.1", 9093))
    while True: server.accept()[0].close()
if late >= 0: threading.Thread(target=listen, daemon=True).start()
began = time.monotonic()
places = {"main": ("127.0.0.1", 9093), **({"gone": ("127.0.0.1", 9)} if os.environ["GONE"] else {})}
configure.await_processes(places, began + float(os.environ["SECONDS"]))
print(round(time.monotonic() - began, 1))
"""


@pytest.mark.parametrize(
    ("late", "gone", "seconds", "least", "most", "told"),
    [
        ("0", "", "60", 0, 6, ""),
        ("3", "", "60", 3, 12, "waiting for main"),
        ("0", "yes", "5", 5, 12, "going on without gone"),
        ("-1", "", "4", 4, 12, "going on without main"),
    ],
    ids=["there", "comes", "one of two lost", "nobody"],
)
def test_a_process_waits_for_the_earlier_ones_but_not_for_ever(
    pod: Pod, late: str, gone: str, seconds: str, least: float, most: float, told: str
) -> None:
    done = isolation.inside(
        pod.root,
        ["env", f"LATE={late}", f"GONE={gone}", f"SECONDS={seconds}", "python3", "-c", WAIT],
        user=SYNAPSE,
        writable={"/etc/synapse": pod.folders["/etc/synapse"]},
        timeout_seconds=120,
    )
    assert done.returncode == 0, done.stdout
    assert told in done.stdout
    assert least <= float(done.stdout.splitlines()[-1]) <= most


EARLIER = """
import json, sys, yaml
sys.path.insert(0, "/etc/synapse")
import configure
shared = yaml.safe_load(open("/etc/synapse/homeserver.yaml"))
own = {kind: {**yaml.safe_load(open(f"/etc/synapse/{kind}.yaml")), "worker_name": f"synapse-{kind}-0"}
    for kind in sys.argv[1:]}
print(json.dumps({kind: configure.earlier_processes(shared, content) for kind, content in own.items()}))
print(configure.needed_schema())
"""


def test_main_waits_for_nobody_a_writer_for_main_and_a_reader_for_all_writers(pod: Pod) -> None:
    done = isolation.inside(
        pod.root,
        ["python3", "-c", EARLIER, *PROCESSES],
        user=SYNAPSE,
        writable={"/etc/synapse": pod.folders["/etc/synapse"]},
    )
    assert done.returncode == 0, done.stdout
    told, schema = done.stdout.splitlines()
    earlier = json.loads(told)
    main = ["synapse-main-0.synapse-main.matrix.svc.cluster.local", 9093]
    assert earlier["main"] == {}
    writers = {f"synapse-{kind}-0" for kind in REPLICATING - {"main"}} | {"synapse-event-persister-1"}
    for kind in set(PROCESSES) - {"main"}:
        assert earlier[kind]["main"] == main
        assert set(earlier[kind]) - {"main"} == (set() if kind in REPLICATING else writers), kind
    source = (pod.root / "usr/local/lib/python3.13/site-packages/synapse/storage/schema/__init__.py").read_text()
    assert f"\nSCHEMA_VERSION = {schema} " in source


def fresh(folder: Path) -> Path:
    place = folder / "again"
    place.mkdir()
    return place


def certificate() -> str:
    """Some certificate, for whoever only reads it."""
    openssl = shutil.which("openssl")
    assert openssl is not None
    done = subprocess.run(
        [*(openssl, "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=a site", "-keyout", "/dev/null")],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout

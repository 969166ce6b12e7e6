"""Each stand-in is unpacked and run against its contract: read-only root, the contract's user, a network of its own.

Needs root; images come from the cache and are built when it lacks them.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from shipped_stack import named, rendered

from darksite.images import Contract, all_contracts, build
from darksite.images.isolation import inside

CONTRACTS = {contract.name: contract for contract in all_contracts()}
ANY_UID = (10042, 10042)

by_name = pytest.mark.parametrize("name", CONTRACTS)


@dataclass(frozen=True)
class Unpacked:
    """An image as a container runtime would lay it out."""

    contract: Contract
    root: Path
    config: dict[str, object]
    index: dict[str, object]

    @property
    def user(self) -> tuple[int, int]:
        return self.contract.process.uid, self.contract.process.gid

    def run(
        self,
        *command: str,
        user: tuple[int, int] | None = None,
        mounts: dict[str, Path] | None = None,
        tmpfs: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        working_dir: str = "/",
        entrypoint: bool = False,
    ) -> "subprocess.CompletedProcess[str]":
        for path in (*(mounts or {}), *tmpfs):
            # As runc does: what is mounted has a place to be mounted on.
            (self.root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
        return inside(
            self.root,
            [*(self.contract.config.entrypoint if entrypoint else ()), *command],
            user=self.user if user is None else user,
            environment={**self.contract.config.environment, **(environment or {})},
            writable=mounts,
            tmpfs=tmpfs,
            working_dir=working_dir,
            timeout_seconds=120,
        )


def apply(layer: Path, root: Path) -> None:
    """Lays a layer over `root`, whiteouts as the image specification has them."""
    with tarfile.open(layer) as tar:
        for member in tar:
            folder, _, leaf = member.name.rpartition("/")
            if leaf == ".wh..wh..opq":
                for child in (root / folder).iterdir():
                    remove(child)
            elif leaf.startswith(".wh."):
                remove(root / folder / leaf.removeprefix(".wh."))
            else:
                place = root / member.name
                if not (member.isdir() and place.is_dir() and not place.is_symlink()):
                    remove(place)
                tar.extract(member, root, numeric_owner=True, filter="fully_trusted")


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def exists(root: Path, path: str) -> bool:
    """Whether `path` exists when `root` is the root, links resolved in it."""
    here, parts, hops = root, list(Path(path).parts[1:]), 0
    while parts:
        part = parts.pop(0)
        here = here.parent if part == ".." and here != root else here / part
        if here.is_symlink():
            hops += 1
            assert hops < 40, f"{path} is a loop of links"
            target = here.readlink()
            parts = [*(target.parts[1:] if target.is_absolute() else target.parts), *parts]
            here = root if target.is_absolute() else here.parent
        elif not here.exists():
            return False
    return True


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Unpacked]:
    if os.geteuid() != 0:
        pytest.fail("image contracts are tested in namespaces: run as root")
    known: dict[str, Unpacked] = {}

    def unpack(name: str) -> Unpacked:
        if name not in known:
            contract = CONTRACTS[name]
            built = build(contract)

            def blob(digest: str) -> Path:
                return built.layout / "blobs" / "sha256" / digest.removeprefix("sha256:")

            index = json.loads(blob(built.digests()[contract.reference]).read_bytes())
            (here,) = (m for m in index["manifests"] if m["platform"] == {"architecture": "amd64", "os": "linux"})
            manifest = json.loads(blob(here["digest"]).read_bytes())
            root = tmp_path_factory.mktemp(name)
            root.chmod(0o755)
            for layer in manifest["layers"]:
                apply(blob(layer["digest"]), root)
            known[name] = Unpacked(
                contract, root, json.loads(blob(manifest["config"]["digest"]).read_bytes())["config"], index
            )
        return known[name]

    return unpack


@by_name
def test_every_blob_is_what_its_name_says_and_every_tag_has_its_own_digest(name: str) -> None:
    built = build(CONTRACTS[name])
    for blob in (built.layout / "blobs" / "sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    digests = built.digests()
    assert set(digests) == set(CONTRACTS[name].references)
    assert len(set(digests.values())) == len(digests)


@by_name
def test_the_configuration_blob_is_the_contract(name: str, unpacked: Callable[[str], Unpacked]) -> None:
    assert unpacked(name).config == CONTRACTS[name].config.document()


@by_name
def test_a_tag_means_an_index_of_two_platforms(name: str, unpacked: Callable[[str], Unpacked]) -> None:
    manifests = unpacked(name).index["manifests"]
    assert isinstance(manifests, list)
    architectures = [manifest["platform"]["architecture"] for manifest in manifests]
    assert architectures == ["amd64", "arm64", *(["unknown"] if CONTRACTS[name].stand_in.attested else [])]


@by_name
def test_files_are_there_and_what_is_absent_upstream_is_absent(name: str, unpacked: Callable[[str], Unpacked]) -> None:
    image = unpacked(name)
    process = image.contract.process
    assert [path for path in process.files if not exists(image.root, path)] == []
    assert [path for path in process.absent if exists(image.root, path)] == []


@by_name
def test_nothing_of_the_build_is_left(name: str, unpacked: Callable[[str], Unpacked]) -> None:
    root = unpacked(name).root
    for folder in ("var/lib/apt/lists", "var/cache", "var/log", "run", "dev", "root"):
        assert list((root / folder).iterdir() if (root / folder).is_dir() else []) == [], folder
    for path in ("etc/pip.conf", "etc/apt/apt.conf", "etc/resolv.conf"):
        assert not (root / path).is_file() or (root / path).read_text() == "", path


@by_name
def test_the_root_is_read_only_and_the_binaries_run_as_the_user_of_the_contract(
    name: str, unpacked: Callable[[str], Unpacked]
) -> None:
    image = unpacked(name)
    users = [image.user, *([ANY_UID] if image.contract.process.any_uid else [])]
    for binary in image.contract.binaries:
        for user in users:
            done = image.run(binary.path, *binary.arguments, user=user)
            assert done.returncode == 0, done.stdout
            assert binary.prints in done.stdout


@by_name
def test_there_is_a_shell_or_none(name: str, unpacked: Callable[[str], Unpacked]) -> None:
    image = unpacked(name)
    shell = image.contract.process.shell
    done = image.run(shell or "/bin/sh", "-c", "touch /written 2>/dev/null || echo read-only, uid $(id -u)")
    if shell:
        assert done.stdout == f"read-only, uid {image.contract.process.uid}\n"
    else:
        assert done.returncode == 127, done.stdout


def test_synapse_makes_a_configuration_and_answers_with_any_uid_on_a_read_only_root(
    tmp_path: Path, unpacked: Callable[[str], Unpacked]
) -> None:
    image = unpacked("synapse")
    os.chown(tmp_path, *ANY_UID)
    environment = {"SYNAPSE_SERVER_NAME": "example.site", "SYNAPSE_REPORT_STATS": "no"}
    made = image.run(
        "generate", entrypoint=True, user=ANY_UID, mounts={"/data": tmp_path}, tmpfs=["/tmp"], environment=environment
    )
    assert made.returncode == 0, made.stdout
    assert (tmp_path / "homeserver.yaml").stat().st_uid == ANY_UID[0]
    asked = image.run(
        "/bin/sh",
        "-c",
        "/start.py & curl -sS --retry 60 --retry-delay 1 --retry-connrefused"
        " http://localhost:8008/_matrix/client/versions && echo && tr '\\0' '\\n' < /proc/$!/maps | grep -c jemalloc",
        user=ANY_UID,
        mounts={"/data": tmp_path},
        tmpfs=["/tmp"],
    )
    assert asked.returncode == 0, asked.stdout
    assert '"versions":[' in asked.stdout
    assert int(asked.stdout.splitlines()[-1]) > 0


def test_synapse_drops_to_its_own_user_when_it_is_started_as_root(
    tmp_path: Path, unpacked: Callable[[str], Unpacked]
) -> None:
    image = unpacked("synapse")
    environment = {"SYNAPSE_SERVER_NAME": "example.site", "SYNAPSE_REPORT_STATS": "no"}
    done = image.run(
        "generate", entrypoint=True, user=(0, 0), mounts={"/data": tmp_path}, tmpfs=["/tmp"], environment=environment
    )
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "homeserver.yaml").stat().st_uid == image.contract.process.uid


def test_synapse_does_not_write_bytecode_for_what_it_imports(unpacked: Callable[[str], Unpacked]) -> None:
    image = unpacked("synapse")
    done = image.run(
        "/usr/local/bin/python",
        "-v",
        "-c",
        "import synapse.app.homeserver, synapse.app.generic_worker",
        environment={"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stdout[-2000:]
    # -v names the source of a module that had to be compiled, and the bytecode of one that had not.
    origins = [line for line in done.stdout.splitlines() if line.startswith("# code object from '/usr")]
    assert len(origins) > 1000
    compiled = [line for line in origins if not line.endswith(".pyc'")]
    assert compiled == []


def test_synapse_can_make_connections_to_valkey_with_the_client_that_it_brings(
    unpacked: Callable[[str], Unpacked],
) -> None:
    # txredisapi 1.6 lost a method of its factory that Synapse calls: every process died at its first connection.
    question = (
        "from synapse.replication.tcp.redis import SynapseRedisFactory;"
        " from txredisapi import RedisFactory; print(hasattr(RedisFactory, 'startedConnecting'))"
    )
    done = unpacked("synapse").run("/usr/local/bin/python", "-c", question)
    assert done.stdout == "True\n"


def test_postgresql_starts_and_plans_without_its_jit(tmp_path: Path, unpacked: Callable[[str], Unpacked]) -> None:
    image = unpacked("postgresql")
    os.chown(tmp_path, *image.user)
    steps = (
        "set -e; initdb -D $PGDATA -E UTF8 --locale=C --auth=trust > /dev/null;"
        " pg_ctl -D $PGDATA -w -o '-k /tmp -c listen_addresses=' -l /tmp/log start > /dev/null;"
        " psql -h /tmp -d postgres -qAt -c 'SET jit_above_cost = 0' -c 'SELECT sum(n) FROM generate_series(1, 1000) n'"
        " -c \"SELECT datcollate FROM pg_database WHERE datname = 'postgres'\""
        " -c 'CREATE EXTENSION pg_stat_statements';"
        " pg_ctl -D $PGDATA -w -m fast stop > /dev/null"
    )
    done = image.run(
        "/bin/sh",
        "-c",
        steps,
        mounts={"/var/lib/postgresql/data": tmp_path},
        tmpfs=["/tmp"],
        environment={"PGDATA": "/var/lib/postgresql/data/pgdata"},
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines() == ["500500", "C"]


@pytest.mark.parametrize("user", [(999, 1000), ANY_UID, (0, 0)], ids=["its-own", "any", "root"])
def test_valkey_answers_through_its_entry_point(
    user: tuple[int, int], tmp_path: Path, unpacked: Callable[[str], Unpacked]
) -> None:
    image = unpacked("valkey")
    os.chown(tmp_path, *user)
    steps = (
        "docker-entrypoint.sh --save '' --protected-mode no & for n in 1 2 3 4 5 6 7 8 9; do"
        " sleep 0.2; valkey-cli ping 2>/dev/null && break; done;"
        " valkey-cli info server | grep -c tcp_port:6379; grep ^Uid: /proc/$!/status"
    )
    done = image.run("/bin/sh", "-c", steps, user=user, mounts={"/data": tmp_path}, working_dir="/data")
    lines = done.stdout.splitlines()
    assert "PONG" in lines, done.stdout
    assert lines[-1].split()[1] == str(user[0] or image.contract.process.uid)


def test_haproxy_serves_what_its_configuration_says(tmp_path: Path, unpacked: Callable[[str], Unpacked]) -> None:
    image = unpacked("haproxy")
    tmp_path.chmod(0o755)
    (tmp_path / "haproxy.cfg").write_text(
        "defaults\n  mode http\n  timeout client 5s\n  timeout server 5s\n  timeout connect 5s\n"
        "frontend probe\n  bind 127.0.0.1:8080\n  http-request return status 200 content-type text/plain string ready\n"
        "frontend metrics\n  bind 127.0.0.1:8405\n  http-request use-service prometheus-exporter\n"
    )
    ask = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | socat - TCP:127.0.0.1:"
    steps = (
        "haproxy -c -f /usr/local/etc/haproxy/haproxy.cfg;"
        " docker-entrypoint.sh haproxy -f /usr/local/etc/haproxy/haproxy.cfg & sleep 1;"
        f" {ask}8080; echo; {ask}8405 | grep -c haproxy_process_"
    )
    done = image.run(
        "/bin/sh",
        "-c",
        steps,
        mounts={"/usr/local/etc/haproxy": tmp_path},
        working_dir=image.contract.config.working_dir,
    )
    assert "\nready" in done.stdout.replace("\r", ""), done.stdout
    assert int(done.stdout.splitlines()[-1]) > 10


def test_pgbouncer_takes_every_parameter_that_the_chart_sets(
    tmp_path: Path, unpacked: Callable[[str], Unpacked]
) -> None:
    image = unpacked("pgbouncer")
    wanted = named(rendered("postgres", "demo"), "Pooler", "postgres-pooler")["spec"]["pgbouncer"]["parameters"]
    # Certificates are the operator's business; without any there is nothing to require.
    wanted |= {"client_tls_sslmode": "disable", "server_tls_sslmode": "disable"}
    ours = {
        "auth_type": "any",
        "admin_users": "pgbouncer",
        "listen_addr": "127.0.0.1",
        "unix_socket_dir": "/controller",
    }
    lines = [f"{name} = {value}" for name, value in {**wanted, **ours}.items()]
    os.chown(tmp_path, *image.user)
    (tmp_path / "ini").write_text("\n".join(["[databases]", "* = host=127.0.0.1", "[pgbouncer]", *lines, ""]))
    steps = (
        "cd /controller; pgbouncer ini 2> log & sleep 1;"
        " psql -h /controller -p 6432 -U pgbouncer pgbouncer -qAt -c 'SHOW CONFIG' || cat /controller/log"
    )
    done = image.run("/bin/sh", "-c", steps, mounts={"/controller": tmp_path})
    shown = dict(line.split("|")[:2] for line in done.stdout.splitlines() if line.count("|") >= 2)
    assert {name: shown.get(name) for name in wanted} == wanted, done.stdout
    assert shown["pool_mode"] == "session"


def test_the_operator_copies_itself_into_a_pod_as_the_first_container_of_every_database_pod(
    tmp_path: Path, unpacked: Callable[[str], Unpacked]
) -> None:
    image = unpacked("cloudnative-pg")
    os.chown(tmp_path, 26, 26)
    done = image.run(
        "bootstrap", "/controller/manager", entrypoint=True, user=(26, 26), mounts={"/controller": tmp_path}
    )
    assert done.returncode == 0, done.stdout
    assert os.access(tmp_path / "manager", os.X_OK)
    assert (tmp_path / "manager").stat().st_size == (image.root / "operator/manager_amd64").stat().st_size


def test_images_that_share_a_base_share_its_layer() -> None:
    """Blobs that several repositories hold are what cross-repository mounts are for."""
    layers = [
        {blob.name for blob in (build(CONTRACTS[name]).layout / "blobs" / "sha256").iterdir()}
        for name in ("synapse", "postgresql", "valkey", "haproxy")
    ]
    assert set.intersection(*layers) != set()

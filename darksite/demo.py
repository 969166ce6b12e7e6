"""The demo: lock and build on the connected side, carry, install in the dark site, prove. Real commands all the way.

It runs `mxbundle` and `mxinstall` as a person would, as programs, and imports nothing of them.
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from darksite import backup_host, binaries, prerequisites, upstream
from darksite.demo_report import Report, Stage
from darksite.site import Site

ROOT = Path(__file__).parents[1]
PROGRAMS = Path(sys.executable).parent
PROFILE = "demo"
PLATFORM = "linux/amd64"
SITE_NAME = "site-1"


class StageFailed(Exception):
    """A command of the demo did not end well; the text names it."""


@dataclass(frozen=True)
class Places:
    """Where the demo keeps what, all of it below `build/`: one folder per side of the gap, and what crosses it."""

    build: Path

    @property
    def connected(self) -> Path:
        """The builder's workplace."""
        return self.build / "demo"

    @property
    def stick(self) -> Path:
        """The medium: nothing else crosses the gap, the letter aside."""
        return self.build / "stick"

    @property
    def letter(self) -> Path:
        """What the builder gives to the operator on a separate way: the public key and its fingerprint."""
        return self.build / "letter"

    @property
    def dark(self) -> Path:
        """The operator's folder."""
        return self.build / "site"

    @property
    def report(self) -> Path:
        """The demo's result."""
        return self.build / "demo-report.json"

    @property
    def all(self) -> tuple[Path, ...]:
        """Every folder that the demo makes."""
        return (self.connected, self.stick, self.letter, self.dark)


def run(site: Site, places: Places, *, faults: bool = True) -> Report:
    """The whole way. Safe to repeat: what is there already is used. Writes and prints its report in any case.

    Without `faults` nothing is broken at the end: the system is only installed and proved by the installer.
    """
    report = Report()
    places.report.unlink(missing_ok=True)
    for folder in places.all:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        _prepare(site, report)
        bundle = _build(site, places, report)
        _carry(bundle, places, report)
        _install(site, places, report)
        if faults:
            _prove_with_faults(site, places, report)
    except StageFailed as fault:
        report.failure = str(fault)
    except KeyboardInterrupt:
        report.failure = "interrupted"
    report.write(places.report)
    print(report.page(_next_steps(places, report)), flush=True)
    return report


def remove(site: Site, places: Places) -> None:
    """Take down the site and everything that the demo made. The build cache outside the tree stays."""
    _command([sys.executable, "-m", "darksite", "down"])
    for folder in places.all:
        shutil.rmtree(folder, ignore_errors=True)
    places.report.unlink(missing_ok=True)


def _prepare(site: Site, report: Report) -> None:
    with _stage(report, "prerequisites", "Debian packages"):
        prerequisites.install()
    with _stage(report, "dark-site", "A dark site: three nodes, a control plane, an operator, no route out"):
        _command([sys.executable, "-m", "darksite", "up"])
    with _stage(report, "upstream", "The outside world: a registry and a file host that answer for the real ones"):
        upstream.start(site)


def _build(site: Site, places: Places, report: Report) -> Path:
    home = places.connected
    key, lock, tools, bundle = (home / name for name in ("builder", "images.lock", "tools.yaml", "site.tar.zst"))
    manifests, mirrors = ROOT / "manifests", upstream.mirrors_file(site)
    environment = {"MXBUNDLE_HELM": str(binaries.ensure("helm"))}
    with _stage(report, "keygen", "The builder's key; its fingerprint goes to the operator by letter"):
        if not key.exists():
            _mxbundle(["keygen", str(key)], environment)
        shutil.copy2(_public(key), places.letter / "builder.pub")
    with _stage(report, "lock", "Every image, chart, CRD and tool pinned by digest"):
        tools.write_text(json.dumps([_tool("helm", "version"), _tool("registry", "--version")], indent=1))
        places_of_lock = ["--manifests", str(manifests), "--lock", str(lock), "--mirrors", str(mirrors)]
        chosen = ["--platform", PLATFORM, "--profile", PROFILE]
        _mxbundle(["lock", *places_of_lock, "--tools", str(tools), *chosen], environment)
    with _stage(report, "build", "One signed file, straight from the network") as stage:
        generation, created = _generation(home / "generation.json", lock, manifests, _installed_generation(site))
        inputs = ["--manifests", str(manifests), "--lock", str(lock), "--mirrors", str(mirrors)]
        options = ["--generation", str(generation), "--profile", PROFILE, "--platform", PLATFORM, "--key", str(key)]
        dated = {**environment, "SOURCE_DATE_EPOCH": str(created)}
        _mxbundle(["build", *inputs, *options, "--output", str(bundle)], dated)
        stage.bytes = bundle.stat().st_size
    return bundle


def _carry(bundle: Path, places: Places, report: Report) -> None:
    with _stage(report, "carry", "The file goes on the stick, the stick goes across") as stage:
        target = places.stick / bundle.name
        shutil.copyfile(bundle, target.with_suffix(".copying"))
        target.with_suffix(".copying").replace(target)
        stage.bytes = target.stat().st_size


def _install(site: Site, places: Places, report: Report) -> None:
    signers, carried = places.dark / "allowed_signers", places.stick / "site.tar.zst"
    installed = places.dark / "install-report.json"
    installed.unlink(missing_ok=True)
    trusting = ["--allowed-signers", str(signers)]
    with _stage(report, "trust", "The operator compares the fingerprint and trusts the key"):
        letter = places.letter / "builder.pub"
        _mxinstall(site, ["trust", "add", "--fingerprint", _fingerprint(letter), *trusting, str(letter)])
    with _stage(
        report, "site.yaml", "The operator says where backups go: a machine of the site's LAN, outside the cluster"
    ):
        _name_the_backup_host(site, places, carried, trusting)
    try:
        with _stage(report, "install", "One command: verify, preflight, plan, seed, deploy, audit, proof"):
            _mxinstall(site, ["--bundle", str(carried), "--yes", "--report", str(installed), *trusting])
    finally:
        report.take_install(installed)


def _prove_with_faults(site: Site, places: Places, report: Report) -> None:
    proved = places.dark / "proof.json"
    proved.unlink(missing_ok=True)
    try:
        with _stage(report, "verify-live", "Real users again, while a synchrotron and the database primary die"):
            _mxinstall(site, ["verify", "--live", "--faults", "--report", str(proved)])
    finally:
        report.take_proof(proved, "verify --live --faults")


def _name_the_backup_host(site: Site, places: Places, carried: Path, trusting: Sequence[str]) -> None:
    """Put the store's keys into the cluster and its address into site.yaml, unless it is there already."""
    target, manifest = backup_host.target(site), places.dark / "backup-s3.json"
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mx-system"}}
    manifest.touch(mode=0o600)
    manifest.write_text(
        json.dumps({"apiVersion": "v1", "kind": "List", "items": [namespace, target.secret("backup-s3", "mx-system")]})
    )
    _operator(site, ["kubectl", "apply", "--server-side", "-f", str(manifest)])
    manifest.unlink()
    site_file = site.installer_state / SITE_NAME / "site.yaml"
    if not site_file.exists():
        site_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        chosen = ["--yes", "--name", SITE_NAME, "--site", str(site_file)]
        _mxinstall(site, ["init", "--bundle", str(carried), *chosen, *trusting])
    text = site_file.read_text()
    notes = [line for line in text.splitlines() if line.startswith("#")]
    answers = yaml.safe_load(text)
    store = {"endpoint": target.endpoint, "bucket": target.bucket, "secret": "backup-s3", "caInSecret": True}
    if answers["spec"].get("backups") != {"s3": store}:
        answers["spec"]["backups"] = {"s3": store}
        site_file.write_text("\n".join([*notes, yaml.safe_dump(answers, sort_keys=False)]))


def _mxbundle(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    _command([str(PROGRAMS / "mxbundle"), *arguments], environment)


def _mxinstall(site: Site, arguments: Sequence[str]) -> None:
    """In the operator's namespace, from where nothing but the site can be reached."""
    _operator(site, [str(PROGRAMS / "mxinstall"), *arguments])


def _operator(site: Site, command: Sequence[str]) -> None:
    _command([sys.executable, "-m", "darksite", "shell", "--", *command], operator_environment(site))


def operator_environment(site: Site) -> dict[str, str]:
    """What the operator's shell adds: the installer's state goes away with the site."""
    return {"MXINSTALL_STATE": str(site.installer_state)}


def _command(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    print(f"$ {' '.join(_short(word) for word in command)}", flush=True)
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **(environment or {})}, check=False)
    if done.returncode != 0:
        raise StageFailed(f"`{' '.join(_short(word) for word in command)}` ended with {done.returncode}")


def _short(word: str) -> str:
    """A word of a command as one would type it in the project's folder."""
    if word == sys.executable:
        return "python"
    return word.removeprefix(f"{PROGRAMS}/").removeprefix(f"{ROOT}/")


@contextmanager
def _stage(report: Report, name: str, title: str) -> Iterator[Stage]:
    print(f"\n== {title}", flush=True)
    stage = Stage(name)
    report.stages.append(stage)
    started = time.monotonic()
    try:
        yield stage
        stage.ok = True
    except (OSError, subprocess.SubprocessError, upstream.UpstreamNotStarted) as fault:
        raise StageFailed(f"{name}: {fault}") from fault
    finally:
        stage.seconds = round(time.monotonic() - started, 1)


def _generation(record: Path, lock: Path, manifests: Path, installed: int) -> tuple[int, int]:
    """The generation that this lock and these manifests are built as, and its date in seconds since the epoch.

    One more than the last, and now, whenever one of them has changed or the site is at a later one already (a test
    upgraded it); else the same again, for the same bytes.
    """
    total = hashlib.sha256(lock.read_bytes())
    for path in sorted(path for path in manifests.rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(manifests)}\0".encode() + path.read_bytes())
    digest = total.hexdigest()
    generation, created, built = json.loads(record.read_text()) if record.exists() else (0, 0, "")
    if built != digest or generation < installed:
        generation, created = max(generation, installed) + 1, int(time.time())
        record.write_text(json.dumps([generation, created, digest]))
    return int(generation), int(created)


def _installed_generation(site: Site) -> int:
    """What the operator would tell the builder by telephone: the generation at the site, 0 when there is none."""
    command = [sys.executable, "-m", "darksite", "shell", "--", str(PROGRAMS / "mxinstall"), "--json", "status"]
    environment = {**os.environ, **operator_environment(site)}
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False).stdout
    try:
        return int(json.loads(told.splitlines()[-1])["generation"] or 0)
    except (IndexError, KeyError, ValueError):
        return 0


def _tool(name: str, version_argument: str) -> dict[str, str | None]:
    program = binaries.ensure(name)
    said = subprocess.run([program, version_argument], capture_output=True, text=True, check=True)
    version = next((word for word in (said.stdout + said.stderr).replace('"', " ").split() if _is_version(word)), "0")
    digest = hashlib.sha256(program.read_bytes()).hexdigest()
    place = {"url": program.as_uri(), "sha256": digest, "path": None}
    return {"name": name, "version": version.lstrip("v").partition("+")[0], "platform": PLATFORM, **place}


def _is_version(word: str) -> bool:
    return word.lstrip("v")[:1].isdigit() and word.count(".") >= 2


def _public(key: Path) -> Path:
    return key.with_name(key.name + ".pub")


def _fingerprint(public_key: Path) -> str:
    """`SHA256:…` as `ssh-keygen -l` prints it: what the letter says."""
    blob = base64.b64decode(public_key.read_text().split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _next_steps(places: Places, report: Report) -> list[str]:
    if report.failure:
        return [
            "read the error above; each has its page entry in docs/reference/errors.md",
            "make demo          goes on from where it stopped",
            "make demo-down     leaves nothing behind",
        ]
    return [
        ".venv/bin/python -m darksite shell        be the operator: kubectl get pods -A, mxinstall status",
        f".venv/bin/mxbundle inspect {_short(str(places.connected / 'site.tar.zst'))}",
        ".venv/bin/mxbundle why docker.io/library/haproxy --lock build/demo/images.lock",
        "make demo          again: the installer says within seconds that there is nothing to do",
        "make demo-down     leaves nothing behind",
    ]

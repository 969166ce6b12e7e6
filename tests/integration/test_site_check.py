"""`mxinstall site` as its user meets it: a file is checked while it is written, alone or beside a bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from bundles import write_bundle
from jsonschema import Draft7Validator

from sitebundle.archive.signing import sign_bundle
from sitebundle.signature import fingerprint, generate_key

MANIFESTS = Path(__file__).parents[2] / "manifests"
FILES = Path(__file__).parents[1] / "unit" / "site_yaml"
PROGRAM = Path(sys.executable).with_name("mxinstall")


@dataclass
class Host:
    """An operator's host with a site.yaml and a signed bundle of the shipped stack, without its charts."""

    folder: Path

    @property
    def bundle(self) -> Path:
        return self.folder / "site.tar.zst"

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "MXINSTALL_STATE": str(self.folder / "state"),
            "MXINSTALL_ALLOWED_SIGNERS": str(self.folder / "allowed_signers"),
        }
        return subprocess.run(
            [PROGRAM, *map(str, arguments)],
            env=environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def write(self, **changes: Any) -> None:
        content = yaml.safe_load((FILES / "good" / "small.yaml").read_text())
        content["spec"].update(changes)
        (self.folder / "site.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    def trust(self) -> None:
        public = self.folder / "builder.pub"
        assert self.run("trust", "add", "--fingerprint", fingerprint(public.read_text()), public).returncode == 0


@pytest.fixture
def host(tmp_path: Path) -> Host:
    generate_key(tmp_path / "builder", "builder")
    names = [*MANIFESTS.glob("values/*.yaml"), *MANIFESTS.glob("profiles/*.yaml"), *MANIFESTS.glob("operands/*.yaml")]
    extra = {f"stack/{path.relative_to(MANIFESTS)}": path.read_bytes() for path in [MANIFESTS / "stack.yaml", *names]}
    made = Host(tmp_path)
    sign_bundle(write_bundle(made.bundle, extra=extra), tmp_path / "builder")
    made.write()
    return made


def test_a_good_file_is_one_line_and_says_what_was_not_looked_at(host: Host) -> None:
    done = host.run("site", "check")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "site.yaml: no fault"
    assert "--bundle FILE" in done.stdout


def test_everything_that_contradicts_is_told_at_once_by_line(host: Host) -> None:
    (host.folder / "site.yaml").write_text((FILES / "disagreeing" / "site.yaml").read_text())
    done = host.run("site", "check", "--json")
    assert done.returncode == 50
    told = json.loads(done.stdout)
    assert told["error"] == "site-invalid"
    assert [(fault["line"], fault["column"], fault["id"]) for fault in told["fields"]["faults"]] == [
        (9, 14, "hosts.distinct"),
        (10, 20, "registry.listens"),
        (16, 9, "edge.trusted-proxies"),
        (19, 20, "ports.disjoint"),
        (20, 3, "federation.allow"),
        (21, 28, "backups.outside"),
        (23, 29, "workers.replicas"),
    ]
    assert all(fault["todo"] for fault in told["fields"]["faults"])


def test_what_is_odd_is_a_warning_and_no_error(host: Host) -> None:
    host.write(registry={"push": "10.90.0.100:5000", "pull": "10.90.0.101:5000"})
    done = host.run("site", "check")
    assert done.returncode == 0
    assert "warning: line 12, column 11: spec.registry.pull" in done.stdout


def test_beside_a_bundle_its_profiles_and_releases_count(host: Host) -> None:
    host.trust()
    assert host.run("site", "check", "--bundle", host.bundle).returncode == 0
    host.write(profile="smal", values={"synapsee": {}})
    assert host.run("site", "check").returncode == 0
    done = host.run("site", "check", "--bundle", host.bundle)
    assert done.returncode == 50
    assert "did you mean small?" in done.stderr
    assert "did you mean synapse?" in done.stderr


def test_a_bundle_that_nobody_vouches_for_is_not_opened(host: Host) -> None:
    done = host.run("site", "check", "--bundle", host.bundle)
    assert done.returncode == 20
    assert "error[trust-none]" in done.stderr


def test_the_schema_comes_out_as_a_file_that_judges(host: Host) -> None:
    done = host.run("site", "schema")
    judge = Draft7Validator(json.loads(done.stdout))
    content = yaml.safe_load((host.folder / "site.yaml").read_text())
    assert judge.is_valid(content)
    content["spec"]["colour"] = "blue"
    assert [fault.message for fault in judge.iter_errors(content)] != []

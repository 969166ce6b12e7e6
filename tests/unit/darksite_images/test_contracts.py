"""The image contracts under manifests/images say everything that a chart or the lock will ask them."""

import tomllib
from pathlib import Path

import pytest
from imagery import fetched_images

from darksite.images import ContractInvalid, all_contracts
from darksite.images.contract import CONTRACTS, Contract, read

ALL = all_contracts()
by_name = pytest.mark.parametrize("contract", ALL, ids=[contract.name for contract in ALL])


def altered(tmp_path: Path, old: str, new: str) -> Path:
    text = (CONTRACTS / "valkey.toml").read_text()
    assert old in text
    place = tmp_path / "valkey.toml"
    place.write_text(text.replace(old, new))
    return place


def test_every_image_of_the_stack_has_a_contract() -> None:
    assert {contract.reference for contract in ALL} == set(fetched_images().values())


@by_name
def test_a_contract_is_called_as_its_file_is(contract: Contract) -> None:
    assert (CONTRACTS / f"{contract.name}.toml").is_file()


@by_name
def test_entry_point_or_command_user_and_binaries_have_a_source(contract: Contract) -> None:
    started_by = "config.entrypoint" if contract.config.entrypoint else "config.command"
    user = "config.user" if contract.config.user else "process.uid"
    assert {started_by, user} <= contract.sources.keys()
    assert all(source.startswith("https://") for source in contract.sources.values())


@by_name
def test_what_the_stand_in_differs_in_is_said(contract: Contract) -> None:
    assert contract.stand_in.differs


@by_name
def test_no_reference_is_a_moving_tag_or_lacks_its_host(contract: Contract) -> None:
    for reference in contract.references:
        host, tag = reference.split("/")[0], reference.rpartition(":")[2]
        assert "." in host
        assert contract.version in tag or reference != contract.reference
        assert tag != "latest"


def test_the_postgresql_tag_starts_with_the_major_version_that_the_operator_reads_from_it() -> None:
    (postgresql,) = (contract for contract in ALL if contract.name == "postgresql")
    major = postgresql.reference.rpartition(":")[2].split(".")[0]
    assert major == postgresql.stand_in.version
    assert f"/usr/lib/postgresql/{major}/bin" in postgresql.config.environment["PATH"].split(":")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("uid = 999\n", "", "uid"),
        ("[process]\n", "[process]\ncolour = 1\n", "colour"),
        ('"process.uid" =', '"process.colour" =', "process.colour"),
        ('reference = "docker.io/valkey/', 'reference = "valkey/', "host/path:tag"),
        ('absent = ["/bin/bash"', 'absent = ["/bin/sh"', "shell"),
        ('base = "debian"', 'base = "scratch"', "scratch"),
        ("uid = 999", "uid = ", "valkey.toml"),
    ],
)
def test_a_wrong_contract_is_refused_by_the_name_of_its_field(tmp_path: Path, old: str, new: str, named: str) -> None:
    with pytest.raises(ContractInvalid, match=named):
        read(altered(tmp_path, old, new))


@by_name
def test_the_configuration_blob_leaves_out_what_upstream_does_not_set(contract: Contract) -> None:
    document = contract.config.document()
    raw = tomllib.loads((CONTRACTS / f"{contract.name}.toml").read_text())["config"]
    assert ("Entrypoint" in document) == bool(raw["entrypoint"])
    assert ("User" in document) == bool(raw["user"])
    assert document["Env"] == [f"{name}={value}" for name, value in raw["environment"].items()]

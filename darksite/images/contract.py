"""What `manifests/images/*.toml` states about each image, as frozen values.

A contract is upstream's: stand-ins are built from it and held against it. How they are built is not said here.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darksite.errors import DarkSiteError

CONTRACTS = Path(__file__).parents[2] / "manifests" / "images"


class ContractInvalid(DarkSiteError):
    """A contract that lacks a field, has an unknown one or contradicts itself; the message names file and field."""


@dataclass(frozen=True)
class Config:
    """The part of the image's configuration blob that upstream's Dockerfile decides."""

    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    user: str
    working_dir: str
    stop_signal: str
    volumes: tuple[str, ...]
    ports: tuple[str, ...]
    environment: Mapping[str, str]

    def document(self) -> dict[str, Any]:
        """The `config` object of the configuration blob; what is empty is left out, as builders do."""
        given: dict[str, Any] = {
            "Cmd": list(self.command),
            "Entrypoint": list(self.entrypoint),
            "Env": [f"{name}={value}" for name, value in self.environment.items()],
            "ExposedPorts": {port: {} for port in self.ports},
            "StopSignal": self.stop_signal,
            "User": self.user,
            "Volumes": {path: {} for path in self.volumes},
            "WorkingDir": self.working_dir,
        }
        return {key: value for key, value in given.items() if value}


@dataclass(frozen=True)
class Process:
    """What a chart may rely on when it starts the image. `shell` is "" where there is none."""

    uid: int
    gid: int
    any_uid: bool
    read_only_root: bool
    shell: str
    writable: tuple[str, ...]
    config_paths: tuple[str, ...]
    environment: tuple[str, ...]
    files: tuple[str, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True)
class Binary:
    """A program that is used: started with `arguments` it ends with 0 and its output contains `prints`."""

    path: str
    arguments: tuple[str, ...]
    prints: str


@dataclass(frozen=True)
class Later:
    """A later push of the same content: one small layer more, so that its digest differs."""

    reference: str
    marker: str


@dataclass(frozen=True)
class Program:
    """A program of `darksite.binaries` that the image has at `path`, with `links` to it."""

    product: str
    path: str
    links: tuple[str, ...] = ()


@dataclass(frozen=True)
class StandIn:
    """How the image of the dark site is made, and in what it is not upstream's.

    `base` is `debian`, filled by packages and a recipe, or `distroless`, where nothing but `programs` is;
    `attested` adds the attestation manifest that BuildKit pushes.
    """

    base: str
    version: str
    packages: tuple[str, ...]
    differs: tuple[str, ...]
    wheels: tuple[str, ...] = ()
    attested: bool = False
    also: tuple[Later, ...] = ()
    programs: tuple[Program, ...] = ()


@dataclass(frozen=True)
class Contract:
    """One image: what upstream promises under `reference`, with the source of each claim."""

    name: str
    reference: str
    version: str
    config: Config
    process: Process
    binaries: tuple[Binary, ...]
    sources: Mapping[str, str]
    stand_in: StandIn

    @property
    def references(self) -> tuple[str, ...]:
        """Every reference that the stand-in is pushed under."""
        return (self.reference, *(later.reference for later in self.stand_in.also))


def all_contracts(folder: Path = CONTRACTS) -> tuple[Contract, ...]:
    """The contracts in `folder`, by name. Raises `ContractInvalid`."""
    return tuple(read(path) for path in sorted(folder.glob("*.toml")))


def read(path: Path) -> Contract:
    """The contract in file `path`. Raises `ContractInvalid` and OSError."""
    try:
        plain = _frozen(tomllib.loads(path.read_text()))
        stand_in = plain["stand_in"]
        contract = Contract(
            name=plain["name"],
            reference=plain["reference"],
            version=plain["version"],
            config=Config(**plain["config"]),
            process=Process(**plain["process"]),
            binaries=tuple(Binary(**binary) for binary in plain["binaries"]),
            sources=plain["sources"],
            stand_in=StandIn(
                **{
                    **stand_in,
                    "also": tuple(Later(**later) for later in stand_in.get("also", ())),
                    "programs": tuple(Program(**program) for program in stand_in.get("programs", ())),
                }
            ),
        )
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ContractInvalid(f"{path.name}: {error}") from error
    for problem in _contradictions(contract):
        raise ContractInvalid(f"{path.name}: {problem}")
    return contract


def _contradictions(contract: Contract) -> list[str]:
    found = []
    host, _, tag = contract.reference.partition(":")
    if "." not in host.split("/")[0] or not tag or "@" in tag:
        found.append(f"reference {contract.reference!r} is not host/path:tag")
    if contract.process.shell and contract.process.shell in contract.process.absent:
        found.append("the shell is named as absent")
    if contract.stand_in.base not in ("debian", "distroless"):
        found.append(f"no base is called {contract.stand_in.base!r}")
    sections = {"binaries"} | {f"config.{name}" for name in Config.__annotations__}
    sections |= {f"process.{name}" for name in Process.__annotations__}
    found += [f"the source {claim!r} is of no field" for claim in contract.sources if claim not in sections]
    return found


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return value

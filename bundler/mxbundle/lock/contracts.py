"""Image contracts: what charts rely on must be what the config blob says, and charts may rely on nothing else.

The contracts are `manifests/images/*.toml`; stand-ins for tests are built to the same files elsewhere.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sitebundle.errors import ContractBroken, StackInvalid
from sitebundle.reference import Reference
from sitebundle.stack import Stack


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
    binaries: tuple[str, ...]


@dataclass(frozen=True)
class Contract:
    """What a chart may rely on in an image's config, and in its processes."""

    path: Path
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    user: str
    environment: Mapping[str, str]
    process: Process

    def differences(self, document: Mapping[str, Any]) -> list[str]:
        """Where an image's config document is not what the contract says. More variables than it names are fine."""
        config = document.get("config") or {}
        seen: dict[str, Any] = {
            "entrypoint": tuple(config.get("Entrypoint") or ()),
            "command": tuple(config.get("Cmd") or ()),
            "user": str(config.get("User") or ""),
        }
        found = [
            f"{name} is {_text(value)} instead of {_text(getattr(self, name))}"
            for name, value in seen.items()
            if value != getattr(self, name)
        ]
        variables = dict(variable.partition("=")[::2] for variable in config.get("Env") or ())
        for name, value in self.environment.items():
            if variables.get(name) != value:
                found.append(f"{name} is {_text(variables.get(name))} instead of {_text(value)} in its environment")
        return found


@dataclass(frozen=True)
class Contracts:
    """All contracts, by the upstream name of the image without its tag."""

    by_name: Mapping[str, Contract]

    @classmethod
    def read(cls, stack: Stack, folder: Path, bases: Mapping[str, str] | None = None) -> Contracts:
        """Read `folder/KEY.toml` for every image of the stack's table that has one. Raises StackInvalid.

        `bases`: derived image -> its base, which is what the contract is of; the derived one keeps it too.
        """
        found = {}
        for key, reference in stack.images.items():
            path = folder / f"{key}.toml"
            if path.exists():
                contract = _read(path)
                for name in (reference, (bases or {}).get(reference, reference)):
                    found[Reference.parse(name).name] = contract
        return cls(found)

    def check(self, reference: Reference, document: Mapping[str, Any]) -> None:
        """Raise ContractBroken when the image has a contract and does not keep it."""
        contract = self.by_name.get(reference.name)
        if contract is not None and (differences := contract.differences(document)):
            raise ContractBroken(reference=str(reference), contract=contract.path.name, detail="; ".join(differences))


def _read(path: Path) -> Contract:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        config = document["config"]
        return Contract(
            path=path,
            entrypoint=tuple(config["entrypoint"]),
            command=tuple(config["command"]),
            user=str(config["user"]),
            environment=dict(config["environment"]),
            process=_process(document),
        )
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise StackInvalid(path=path, detail=f"not an image contract: {fault}") from fault


def _process(document: Mapping[str, Any]) -> Process:
    process = document["process"]
    lists = ("writable", "config_paths", "environment", "files")
    return Process(
        uid=int(process["uid"]),
        gid=int(process["gid"]),
        any_uid=bool(process["any_uid"]),
        read_only_root=bool(process["read_only_root"]),
        shell=str(process["shell"]),
        binaries=tuple(binary["path"] for binary in document["binaries"]),
        **{name: tuple(process[name]) for name in lists},
    )


def _text(value: Any) -> str:
    return "missing" if value is None else repr(list(value)) if isinstance(value, tuple) else repr(value)

"""Who we are to a registry: the logins that docker, podman or a credential helper keep on this host.

Reads docker's config.json and podman's auth.json; writes nothing. How they are sent is `auth`'s business.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sitebundle.errors import ToolMissing

HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
HELPER_SECONDS = 30


@dataclass(frozen=True)
class Credentials:
    """A name and a password, or an identity token that is traded for access tokens."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of a Basic Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def config_files() -> tuple[Path, ...]:
    """Where logins may be kept, in the order in which they are asked."""
    named = [Path(os.environ["REGISTRY_AUTH_FILE"])] if os.environ.get("REGISTRY_AUTH_FILE") else []
    docker = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    podman = [Path(runtime) / "containers" / "auth.json"] if runtime else []
    return (*named, docker, *podman)


def stored_credentials(host: str, files: tuple[Path, ...] | None = None) -> Credentials | None:
    """The login kept for `host` (`name[:port]`), or None. Raises ToolMissing for a helper that cannot be run."""
    keys = HUB_KEYS if host in HUB_KEYS else (host, f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/")
    for path in config_files() if files is None else files:
        try:
            config = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(config, dict) and (found := _from_config(config, keys)) is not None:
            return found
    return None


def _from_config(config: dict[str, Any], keys: tuple[str, ...]) -> Credentials | None:
    helpers = config.get("credHelpers") or {}
    for key in keys:
        if key in helpers:
            return _from_helper(str(helpers[key]), key)
    for key in keys:
        entry = (config.get("auths") or {}).get(key)
        if isinstance(entry, dict) and (found := _from_entry(entry)) is not None:
            return found
    if config.get("credsStore"):
        for key in keys:
            if (found := _from_helper(str(config["credsStore"]), key)) is not None:
                return found
    return None


def _from_entry(entry: dict[str, Any]) -> Credentials | None:
    if entry.get("identitytoken"):
        return Credentials(identity_token=str(entry["identitytoken"]))
    if entry.get("auth"):
        try:
            name, separator, password = base64.b64decode(entry["auth"]).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError, TypeError):
            return None
        if not separator:
            return None
        return Credentials(username=name, password=password.rstrip("\x00"))
    if entry.get("username"):
        return Credentials(username=str(entry["username"]), password=str(entry.get("password", "")))
    return None


def _from_helper(helper: str, key: str) -> Credentials | None:
    import subprocess

    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"], input=key, capture_output=True, text=True, timeout=HELPER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise ToolMissing(tool=program, detail=f"the docker configuration names it for {key}: {fault}") from fault
    if done.returncode != 0:
        return None  # The protocol has one exit code for "not found" and everything else.
    try:
        answer = json.loads(done.stdout)
        name, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError):
        return None
    return Credentials(identity_token=secret) if name == "<token>" else Credentials(username=name, password=secret)

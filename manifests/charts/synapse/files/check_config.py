"""Reads the configuration of every process as Synapse itself does, before any process is given it.

Says everything that Synapse refuses and exits with 3. Uses files only: no database, no Redis, no other process.
"""

import os
import sys
from pathlib import Path

import yaml
from configure import process_configuration, say, write_private
from synapse.config._base import format_config_error
from synapse.config.homeserver import ConfigError, HomeServerConfig

REFUSED = 3
SHARED = ("homeserver.yaml", "log.yaml")


def refusal(folder: Path, template: Path, release: str) -> str:
    """What Synapse has against the configuration of the first process of that type; empty for nothing."""
    own = Path("/run/synapse") / template.name
    write_private(own, yaml.safe_dump(process_configuration(template, f"{release}-{template.stem}-0")))
    try:
        HomeServerConfig.load_config("check", [f"--config-path={folder / 'homeserver.yaml'}", f"--config-path={own}"])
    except ConfigError as fault:
        return "".join(format_config_error(fault))
    # What is not foreseen by Synapse's reader is a traceback there, and as much a reason not to start.
    except Exception as fault:
        return f"{type(fault).__name__}: {fault}"
    return ""


def main() -> int:
    """0 when Synapse takes all of it."""
    folder, release = Path(os.environ["CONFIGURATION"]), os.environ["RELEASE"]
    templates = sorted(path for path in folder.glob("*.yaml") if path.name not in SHARED)
    refused: dict = {}
    for template in templates:
        said = refusal(folder, template, release)
        if said:
            refused.setdefault(said, []).append(template.stem)
    for said, names in refused.items():
        say(f"{', '.join(names)}: {said}")
    if not refused:
        say(f"Synapse takes the configuration of {len(templates)} kinds of processes")
    return REFUSED if refused else 0


if __name__ == "__main__":
    sys.exit(main())

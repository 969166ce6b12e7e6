#!/usr/local/bin/python
"""Entry point of the Synapse stand-in: the modes `run` (the default) and `generate` of upstream's start script.

It drops to 991:991 when it is root and preloads jemalloc; upstream's configuration templates are not here.
"""

import os
import platform
import sys
from pathlib import Path
from typing import NoReturn

CONFIG_DIR = os.environ.get("SYNAPSE_CONFIG_DIR", "/data")
CONFIG_PATH = os.environ.get("SYNAPSE_CONFIG_PATH", f"{CONFIG_DIR}/homeserver.yaml")

LOG_CONFIG = """\
version: 1
formatters: {plain: {format: "%(asctime)s - %(name)s - %(lineno)d - %(levelname)s - %(request)s - %(message)s"}}
handlers: {console: {class: logging.StreamHandler, formatter: plain}}
root: {level: INFO, handlers: [console]}
disable_existing_loggers: false
"""


def owner() -> str:
    """`uid:gid` to drop to, "" to stay who we are."""
    if "UID" in os.environ:
        return f"{os.environ['UID']}:{os.environ.get('GID', '991')}"
    return "991:991" if os.getuid() == 0 else ""


def become(*arguments: str) -> NoReturn:
    """Replaces this process by Python with `arguments`."""
    dropping = ["/usr/sbin/gosu", owner()] if owner() else []
    command = [*dropping, sys.executable, *arguments]
    sys.stdout.flush()
    os.execv(command[0], command)


def generate() -> NoReturn:
    """Writes a configuration that logs to the console, and a signing key, into the configuration directory."""
    for variable in ("SYNAPSE_SERVER_NAME", "SYNAPSE_REPORT_STATS"):
        if variable not in os.environ:
            sys.exit(f"Environment variable '{variable}' is mandatory in `generate` mode.")
    data = os.environ.get("SYNAPSE_DATA_DIR", "/data")
    log_config = Path(CONFIG_DIR) / f"{os.environ['SYNAPSE_SERVER_NAME']}.log.config"
    if not log_config.exists():
        log_config.write_text(LOG_CONFIG)
    if owner():
        uid, gid = owner().split(":")
        os.chown(data, int(uid), int(gid))
    become(
        *("-m", "synapse.app.homeserver", "--generate-config", "--open-private-ports"),
        *("--server-name", os.environ["SYNAPSE_SERVER_NAME"]),
        *("--report-stats", os.environ["SYNAPSE_REPORT_STATS"]),
        *("--config-path", CONFIG_PATH, "--config-directory", CONFIG_DIR, "--data-directory", data),
    )


def run(arguments: list[str]) -> NoReturn:
    """Starts the homeserver, or the worker that SYNAPSE_WORKER names."""
    if "-m" not in arguments:
        arguments = ["-m", os.environ.get("SYNAPSE_WORKER", "synapse.app.homeserver"), *arguments]
    if not any(argument.startswith(("--config-path", "-c")) for argument in arguments):
        if not Path(CONFIG_PATH).exists():
            sys.exit(f"Config file '{CONFIG_PATH}' does not exist.")
        arguments += ["--config-path", CONFIG_PATH]
    jemalloc = Path(f"/usr/lib/{platform.machine()}-linux-gnu/libjemalloc.so.2")
    if jemalloc.is_file():
        os.environ["LD_PRELOAD"] = str(jemalloc)
    print("Starting synapse with args " + " ".join(arguments))
    become(*arguments)


if __name__ == "__main__":
    mode = sys.argv[1] if len(sys.argv) > 1 else "run"
    if mode == "generate":
        generate()
    if mode != "run":
        sys.exit(f"Unknown execution mode '{mode}'")
    run(sys.argv[2:])

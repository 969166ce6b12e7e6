"""Writes the part of Synapse's configuration that only the pod knows, and waits for what a process needs to start.

Runs to its end before Synapse starts. Synapse takes no path to the password of a database or of an object store, and a
worker that meets an empty or an older schema exits: both are settled here. So is the order in which processes start,
wherever they are started from: main, then the writers, then those who read from them.
"""

import importlib.util
import os
import runpy
import socket
import sys
import time
from pathlib import Path

import psycopg2
import yaml

PAUSE_SECONDS = 2
CALL_SECONDS = 2
"""How long a process may take to accept a connection; a node that is gone says nothing at all."""


def process_configuration(template: Path, name: str) -> dict:
    """The type's configuration with the process's own name and the secrets in it that Synapse takes from no file."""
    configuration = yaml.safe_load(template.read_text())
    if "worker_app" in configuration:
        configuration["worker_name"] = name
    arguments = configuration["database"]["args"]
    arguments["application_name"] = name
    arguments["password"] = Path(os.environ["DATABASE_PASSWORD"]).read_text().strip()
    for store in configuration.get("media_storage_providers", ()):
        keys = Path(os.environ["S3_SECRET"])
        store["config"] |= {key: (keys / key).read_text().strip() for key in ("access_key_id", "secret_access_key")}
    return configuration


def write_private(path: Path, text: str) -> None:
    """`text` as a file that only its owner may read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def needed_schema() -> int:
    """The version that this Synapse needs. Read from its file: the package around it takes seconds to import."""
    found = importlib.util.find_spec("synapse")
    (package,) = found.submodule_search_locations
    return runpy.run_path(f"{package}/storage/schema/__init__.py")["SCHEMA_VERSION"]


def obstacle(arguments: dict, needs_schema: bool) -> str:
    """What keeps Synapse from using the database now; empty when nothing does."""
    own = {key: value for key, value in arguments.items() if not key.startswith("cp_")}
    try:
        connection = psycopg2.connect(**own)
    except psycopg2.OperationalError as fault:
        return str(fault).strip().replace("\n", " ")
    try:
        if not needs_schema:
            return ""
        with connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('schema_version') IS NOT NULL")
            if not cursor.fetchone()[0]:
                return "main has not made the schema yet"
            cursor.execute("SELECT version FROM schema_version")
            row = cursor.fetchone()
        version, needed = row[0] if row else 0, needed_schema()
        return "" if version >= needed else f"schema {version}, this Synapse needs {needed} from main"
    except psycopg2.Error as fault:
        return str(fault).strip().replace("\n", " ")
    finally:
        connection.close()


def earlier_processes(shared: dict, configuration: dict) -> dict:
    """Who starts before this process, and where: main before a worker, all who are called before who is not called."""
    places = {name: (place["host"], place["port"]) for name, place in shared["instance_map"].items()}
    if "worker_app" not in configuration:
        return {}
    return {"main": places["main"]} if configuration["worker_name"] in places else places


def accepts(place: tuple) -> bool:
    """Whether someone listens there."""
    try:
        socket.create_connection(place, timeout=CALL_SECONDS).close()
    except OSError:
        return False
    return True


def say(text: str) -> None:
    """One line of the container's log."""
    print(text, flush=True)  # noqa: T201


def database_ready(configuration: dict, deadline: float) -> bool:
    """Waits until Synapse can use the database; False when the time is over."""
    told = ""
    while time.monotonic() < deadline:
        seen = obstacle(configuration["database"]["args"], needs_schema="worker_app" in configuration)
        if not seen:
            return True
        if seen != told:
            say(f"waiting: {seen}")
            told = seen
        time.sleep(PAUSE_SECONDS)
    return False


def await_processes(places: dict, deadline: float) -> None:
    """Waits until all of `places` accept connections, or the time is over: one may be on a node that is lost."""
    missing = {name: place for name, place in places.items() if not accepts(place)}
    if missing:
        say(f"waiting for {', '.join(missing)}")
    while missing and time.monotonic() < deadline:
        time.sleep(PAUSE_SECONDS)
        missing = {name: place for name, place in missing.items() if not accepts(place)}
    if missing:
        say(f"going on without {', '.join(missing)}")


def main() -> int:
    """0 when Synapse may start, 1 when the database could not be used in time."""
    configuration = process_configuration(Path(os.environ["PROCESS_TEMPLATE"]), os.environ["POD_NAME"])
    write_private(Path(os.environ["PROCESS_CONFIGURATION"]), yaml.safe_dump(configuration))
    if not database_ready(configuration, time.monotonic() + float(os.environ["DATABASE_WAIT_SECONDS"])):
        return 1
    shared = yaml.safe_load(Path(os.environ["SHARED_CONFIGURATION"]).read_text())
    places = earlier_processes(shared, configuration)
    await_processes(places, time.monotonic() + float(os.environ["PEER_WAIT_SECONDS"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

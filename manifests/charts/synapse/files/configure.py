"""Writes the part of Synapse's configuration that only the pod knows, and waits until the database can be used.

Runs to its end before Synapse starts. Synapse takes no path to a database password, and a worker that meets an empty
or an older schema exits: both are settled here.
"""

import os
import sys
import time
from pathlib import Path

import psycopg2
import yaml
from synapse.storage.schema import SCHEMA_VERSION

PAUSE_SECONDS = 2


def process_configuration() -> dict:
    """The type's configuration with the pod's own name and the database password in it."""
    configuration = yaml.safe_load(Path(os.environ["PROCESS_TEMPLATE"]).read_text())
    name = os.environ["POD_NAME"]
    if "worker_app" in configuration:
        configuration["worker_name"] = name
    arguments = configuration["database"]["args"]
    arguments["application_name"] = name
    arguments["password"] = Path(os.environ["DATABASE_PASSWORD"]).read_text().strip()
    return configuration


def write_private(path: Path, text: str) -> None:
    """`text` as a file that only its owner may read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


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
        version = row[0] if row else 0
        return "" if version >= SCHEMA_VERSION else f"schema {version}, this Synapse needs {SCHEMA_VERSION} from main"
    except psycopg2.Error as fault:
        return str(fault).strip().replace("\n", " ")
    finally:
        connection.close()


def main() -> int:
    """0 when Synapse may start, 1 when the time is over."""
    configuration = process_configuration()
    write_private(Path(os.environ["PROCESS_CONFIGURATION"]), yaml.safe_dump(configuration))
    deadline = time.monotonic() + float(os.environ["WAIT_SECONDS"])
    told = ""
    while time.monotonic() < deadline:
        seen = obstacle(configuration["database"]["args"], needs_schema="worker_app" in configuration)
        if not seen:
            return 0
        if seen != told:
            print(f"waiting: {seen}", flush=True)  # noqa: T201
            told = seen
        time.sleep(PAUSE_SECONDS)
    return 1


if __name__ == "__main__":
    sys.exit(main())

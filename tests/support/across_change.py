"""Runs on the operator's host: two users write while a command changes the system; what came of it, as one JSON line.

across_change.py COUNT PER_SECOND PATIENCE_SECONDS COMMAND…
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time

from mxinstall.proof.load import judge, send_load

from darksite.site import Site
from tests.matrix.trial import Trial


def main() -> None:
    """Send, change, read everything again by a fresh login."""
    count, per_second, patience = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    trial = Trial(Site.from_environment())
    told: dict[str, object] = {}

    def change() -> None:
        began = time.monotonic()
        done = subprocess.run(sys.argv[4:], capture_output=True, text=True, check=False, timeout=900)
        told.update(code=done.returncode, seconds=round(time.monotonic() - began, 1))
        told.update(stdout=done.stdout[-60_000:], stderr=done.stderr[-3000:])

    with trial.people() as people:
        load = send_load(
            people.alice,
            people.room,
            f"change-{secrets.token_hex(3)}",
            count=count,
            per_second=per_second,
            patience_seconds=patience,
            fault=change,
            fault_after=20,
        )
        fresh = people.scene.server.login(people.scene.accounts["bob"], "afterwards")
        judgement = judge(load, fresh.history(people.room))
    changed_at, ended_at = load.fault_at, load.fault_at + float(str(told["seconds"]))
    acknowledged = [one.acknowledged_at for one in load.acknowledged if one.acknowledged_at is not None]
    counts = {
        "sent": len(load.sent),
        "acknowledged": len(load.acknowledged),
        "lost": len(judgement.lost),
        "repeated": judgement.repeated,
        "before": sum(at < changed_at for at in acknowledged),
        "during": sum(changed_at <= at <= ended_at for at in acknowledged),
        "after": sum(at > ended_at for at in acknowledged),
        "silent_seconds": round(load.longest_silence_seconds, 1),
    }
    print(json.dumps({**counts, **told}))


main()

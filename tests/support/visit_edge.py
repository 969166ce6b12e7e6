"""A program for the operator's host: visits the installed system's edge, a new connection for each request, and
watches its certificate. It ends when the certificate has changed and some time has passed, or after too long.

It prints JSON: `{"served", "failures", "poll", "settled", "shown": [[seconds, fingerprint]]}`; `poll` is what came of a
long poll that was begun before everything else. Usage: visit_edge.py SECONDS_AFTER MOST_SECONDS
"""

from __future__ import annotations

import hashlib
import json
import secrets
import socket
import ssl
import sys
import threading
import time

from mxinstall.cluster import Cluster
from mxinstall.proof.admin import Admin
from mxinstall.proof.matrix import Homeserver, MatrixError
from mxinstall.proof.reach import context_of
from mxinstall.site import known_site

VISITORS = 4


def main(seconds_after: float, most_seconds: float) -> None:
    context = context_of(Cluster.connect(None), known_site(None))
    assert context.address is not None
    host, _, port = context.address.rpartition(":")
    name = context.base_url.removeprefix("https://")
    trusting = ssl.create_default_context(cadata=context.ca)
    admin = Admin(context.inside, context.registration_secret)
    server = Homeserver(context.base_url, context.ca, context.address)
    session = server.login(admin.register(f"visits-{secrets.token_hex(4)}", secrets.token_urlsafe(24)))
    since = str(session.sync()["next_batch"])
    ended, began = threading.Event(), time.monotonic()
    served, failures, shown, poll = [0], [], [], []

    def visit() -> None:
        while not ended.is_set():
            try:
                with (
                    socket.create_connection((host, int(port)), timeout=15) as raw,
                    trusting.wrap_socket(raw, server_hostname=name) as talking,
                ):
                    certificate = hashlib.sha256(talking.getpeercert(binary_form=True) or b"").hexdigest()[:16]
                    request = f"GET /_matrix/client/versions HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"
                    talking.sendall(request.encode())
                    status = talking.recv(64).split()[1]
                if status != b"200":
                    failures.append(f"{time.monotonic() - began:.1f} s: answered with {status.decode()}")
                served[0] += 1
                if not shown or shown[-1][1] != certificate:
                    shown.append((round(time.monotonic() - began, 1), certificate))
            except (OSError, IndexError) as fault:
                failures.append(f"{time.monotonic() - began:.1f} s: {fault!r}")
            time.sleep(0.05)

    def hold() -> None:
        try:
            session.sync(since, timeout_seconds=most_seconds / 2, request_timeout_seconds=most_seconds)
            poll.append("answered")
        except MatrixError as fault:
            poll.append(str(fault))

    threads = [threading.Thread(target=hold), *(threading.Thread(target=visit) for _ in range(VISITORS))]
    for thread in threads:
        thread.start()
    print("visiting", file=sys.stderr, flush=True)
    settled = False
    while time.monotonic() - began < most_seconds:
        time.sleep(0.5)
        if len(shown) > 1 and time.monotonic() - began - shown[-1][0] > seconds_after:
            settled = True
            break
    ended.set()
    for thread in threads:
        thread.join()
    session.deactivate()
    told = {"served": served[0], "failures": failures, "poll": poll[0], "settled": settled, "shown": shown}
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]))

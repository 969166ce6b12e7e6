"""A program for the operator's host: every example of docs/reference/routing.md, asked of the installed system's edge.

By TLS, as a user whom it makes and ends; each request carries a marker of its own in its query. It prints JSON:
`[{"marker", "status", "errcode"}]` in the order of the page. Who answered is not its business.
"""

from __future__ import annotations

import json
import secrets
import sys
from urllib.parse import quote

from mxinstall.cluster import Cluster
from mxinstall.proof.admin import Admin
from mxinstall.proof.matrix import Homeserver, MatrixRefused, Session
from mxinstall.proof.reach import context_of
from mxinstall.site import known_site
from routing_table import Example, examples

BODIES = {
    "/_matrix/client/v3/search": {"search_categories": {}},
    "/_matrix/client/v3/keys/query": {"device_keys": {}},
    "/_matrix/client/v3/keys/claim": {"one_time_keys": {}},
    "/_matrix/client/v3/user_directory/search": {"search_term": "a"},
    "/_matrix/client/v3/createRoom": {"preset": "private_chat"},
    "/_matrix/client/v3/register": {"auth": {}},
    "/_matrix/client/v3/rooms/ROOM/typing/USER": {"typing": False},
}


def main() -> None:
    context = context_of(Cluster.connect(None), known_site(None))
    server = Homeserver(context.base_url, context.ca, context.address)
    admin = Admin(context.inside, context.registration_secret)
    name, password = f"routes-{secrets.token_hex(4)}", secrets.token_urlsafe(24)
    session = server.login(admin.register(name, password))
    room = str(session.json("POST", "/_matrix/client/v3/createRoom", {"preset": "private_chat"})["room_id"])
    values = {
        "ROOM": quote(room, safe=""),
        "USER": quote(session.account.user_id, safe=""),
        "EVENT": quote(session.send(room, "hello", "t0"), safe=""),
        "ALIAS": quote(f"#nowhere:{session.account.user_id.partition(':')[2]}", safe=""),
        "DEVICE": session.device_id,
        "SINCE": str(session.sync()["next_batch"]),
    }
    told = []
    for number, example in enumerate(examples()):
        marker = f"mxroute{number}x{secrets.token_hex(4)}"
        status, code = ask(server, session, example.with_values(values), example, marker)
        told.append({"marker": marker, "status": status, "errcode": code})
    session.deactivate()
    json.dump(told, sys.stdout)


def ask(server: Homeserver, session: Session, path: str, example: Example, marker: str) -> tuple[int, str]:
    """One request with its marker, tried once; the status of the answer, and Matrix's code of an error."""
    marked = f"{path}{'&' if '?' in path else '?'}{marker}=1"
    body = None if example.method == "GET" else BODIES.get(example.path, {})
    try:
        server.call(example.method, marked, body, token=session.token, patience_seconds=0, timeout_seconds=60)
    except MatrixRefused as refused:
        return refused.status, refused.code
    return 200, ""


if __name__ == "__main__":
    main()

"""`python rehearsal.py write|read FILE …`: users who talk, on the operator's host, and what is left of it later.

write FILE PHRASE…   makes two users and a room at the first call, then sends the phrases; FILE keeps names and room
read FILE            logs in anew and prints every phrase that the room holds, as a JSON list
"""

import json
import secrets
import sys
import time
from pathlib import Path

from mxinstall.cluster import Cluster
from mxinstall.proof import context_of
from mxinstall.proof.admin import Admin
from mxinstall.proof.matrix import Account, Homeserver
from mxinstall.site.files import known_site


def main(verb: str, place: Path, *phrases: str) -> None:
    context = context_of(Cluster.connect(None), known_site(None))
    server = Homeserver(context.base_url, context.ca, context.address)
    if not place.exists():
        admin, password = Admin(context.inside, context.registration_secret), secrets.token_urlsafe(16)
        stem = f"rehearsal-{secrets.token_hex(4)}"
        alice, bob = (admin.register(f"{stem}-{who}", password) for who in ("alice", "bob"))
        session = server.login(alice)
        room = session.create_room("rehearsal", bob.user_id)
        # A key for encryption that others may be handed once: Synapse keeps it as it comes.
        keys = {"signed_curve25519:AAAAAA": {"key": secrets.token_urlsafe(32), "signatures": {}}}
        session.json("POST", "/_matrix/client/v3/keys/upload", {"one_time_keys": keys})
        server.login(bob).join(room)
        place.write_text(json.dumps({"alice": vars(alice), "bob": vars(bob), "room": room}))
    known = json.loads(place.read_text())
    if verb == "write":
        session = server.login(Account(**known["alice"]))
        for phrase in phrases:
            session.send(known["room"], phrase, f"rehearsal-{time.time_ns()}")
    else:
        session = server.login(Account(**known["bob"]))
        print(json.dumps([message.body for message in session.history(known["room"])]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])

"""Run in main's own container: somebody registers, logs in and talks through the routing tier. Prints what was seen."""

import hashlib
import hmac
import json
import time
import urllib.parse
import urllib.request
from pathlib import Path

MAIN, PUBLIC = "http://127.0.0.1:8008", "http://routing:8008"


def call(method, url, body=None, token=None):
    headers = {"Authorization": "Bearer " + token} if token else {}
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


registration = Path("/secrets/synapse/registration").read_text().strip().encode()
nonce = call("GET", MAIN + "/_synapse/admin/v1/register")["nonce"]
name, password = "plain-" + nonce[:8], nonce
signed = "\0".join([nonce, name, password, "notadmin"]).encode()
mac = hmac.new(registration, signed, hashlib.sha1).hexdigest()
person = {"nonce": nonce, "username": name, "password": password, "mac": mac}
call("POST", MAIN + "/_synapse/admin/v1/register", person)
login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": name}, "password": password}
token = call("POST", PUBLIC + "/_matrix/client/v3/login", login)["access_token"]
room = call("POST", PUBLIC + "/_matrix/client/v3/createRoom", {}, token)["room_id"]
send = PUBLIC + "/_matrix/client/v3/rooms/" + urllib.parse.quote(room, safe="") + "/send/m.room.message/1"
sent = call("PUT", send, {"msgtype": "m.text", "body": "hello"}, token)["event_id"]
seen = []
# Whoever answers /sync hears of the message a moment after the sender knows that it is kept.
for _ in range(20):
    joined = call("GET", PUBLIC + "/_matrix/client/v3/sync", token=token)["rooms"].get("join", {})
    seen = [event["event_id"] for event in joined.get(room, {}).get("timeline", {}).get("events", [])]
    if sent in seen:
        break
    time.sleep(1)
print(json.dumps({"sent": sent, "seen": seen}))

"""Synapse's admin API, reached from inside the cluster: make test users, lift their limits, remove what they made.

It is closed at the public address on purpose. Source: Synapse docs/admin_api/{register,user,rooms}.md.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from mxinstall.proof.matrix import Account, Homeserver, Json, MatrixRefused, Session

Inside = Callable[[str, str, bytes | None], tuple[int, bytes]]
"""One request (method, path with query, JSON body) to the main process from inside; status and body."""


class Admin:
    """The admin API of one homeserver. Every call raises MatrixRefused for an answer that is not 2xx."""

    def __init__(self, inside: Inside, registration_secret: str) -> None:
        self._inside = inside
        self._secret = registration_secret.encode()

    def register(self, name: str, password: str, *, admin: bool = False) -> Account:
        """Make a user by the registration shared secret: a nonce, then an HMAC-SHA1 over what is asked for."""
        path = "/_synapse/admin/v1/register"
        nonce = str(self._call("GET", path)["nonce"])
        signed = "\0".join([nonce, name, password, "admin" if admin else "notadmin"]).encode()
        body = {
            "nonce": nonce,
            "username": name,
            "password": password,
            "admin": admin,
            "mac": hmac.new(self._secret, signed, hashlib.sha1).hexdigest(),
            "inhibit_login": True,
        }
        return Account(str(self._call("POST", path, body)["user_id"]), password)

    def lift_message_limit(self, user_id: str, by: Session) -> None:
        """Let `user_id` send as fast as it can; 0 means without limit."""
        path = f"/_synapse/admin/v1/users/{quote(user_id)}/override_ratelimit"
        self._call("POST", path, {"messages_per_second": 0, "burst_count": 0}, by)

    def purge_room(self, room_id: str, by: Session, wait_seconds: float = 60.0) -> bool:
        """Remove a room with all its events; whether that was finished within `wait_seconds`."""
        path = f"/_synapse/admin/v2/rooms/{quote(room_id, safe='')}"
        delete_id = str(self._call("DELETE", path, {"purge": True, "force_purge": True}, by)["delete_id"])
        end = time.monotonic() + wait_seconds
        while time.monotonic() < end:
            status = self._call("GET", f"/_synapse/admin/v2/rooms/delete_status/{quote(delete_id)}", by=by)["status"]
            if status in ("complete", "failed"):
                return bool(status == "complete")
            time.sleep(0.5)
        return False

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None, by: Session | None = None) -> Json:
        # The API server takes the Authorization header for itself, so the token of the test user (which the
        # clean-up ends) goes in the query, which Synapse accepts as well.
        query = "?" + urlencode({"access_token": by.token}) if by else ""
        status, answer = self._inside(method, path + query, None if body is None else json.dumps(body).encode())
        if not 200 <= status < 300:
            raise MatrixRefused(f"{method} {path}", status, answer)
        parsed: Json = json.loads(answer)
        return parsed


def directly(server: Homeserver) -> Inside:
    """`Inside` for a main process that can be reached without a cluster in between."""

    def inside(method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        try:
            return 200, server.call(method, path, None if body is None else json.loads(body))
        except MatrixRefused as refused:
            return refused.status, json.dumps({"errcode": refused.code, "error": str(refused)}).encode()

    return inside

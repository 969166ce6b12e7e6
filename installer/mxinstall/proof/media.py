"""The step that carries media up and down again, byte for byte."""

from __future__ import annotations

import hashlib
import secrets

from mxinstall.proof.matrix import MatrixRefused
from mxinstall.proof.steps import Disproved, Scene, step

MEDIA_BYTES = 1_000_000
REQUESTS = "synapse_http_server_requests_received_total"


@step("media", "Media goes up by one user and comes down to the other unchanged", needs=("login",))
def media(scene: Scene) -> str:
    content = secrets.token_bytes(MEDIA_BYTES)
    processes = scene.context.processes
    count = processes.count("media-repository")
    before = processes.counter("media-repository", REQUESTS) if count else 0.0
    uri = scene.devices["alice"].upload(content, f"{scene.name}.bin")
    received = scene.devices["bob"].download(uri)
    sent_digest, received_digest = (hashlib.sha256(data).hexdigest() for data in (content, received))
    if received_digest != sent_digest:
        raise Disproved(f"{uri}: {len(content)} bytes {sent_digest} went up, {len(received)} bytes came down")
    by = "main"
    if count:
        served = processes.counter("media-repository", REQUESTS) - before
        if served < 2:
            raise Disproved(f"{uri} went up and down, but the media repository counted only {served:.0f} requests")
        by = f"{count} media repository"
    return f"{MEDIA_BYTES} bytes, SHA-256 {sent_digest[:12]}…, served by {by}"


@step("media-is-private", "Media is not given to someone without a login", needs=("media",))
def media_is_private(scene: Scene) -> str:
    uri = scene.devices["alice"].upload(b"not for everyone", f"{scene.name}.txt")
    path = f"/_matrix/client/v1/media/download/{uri.removeprefix('mxc://')}"
    try:
        scene.server.call("GET", path)
    except MatrixRefused as refused:
        if refused.status == 401:
            return "401 without a token"
        raise
    raise Disproved(f"{uri} was given to someone without a login")

"""`python -m darksite.fileserver FOLDER PORT`: published files over HTTP with ranges, as upstream's file hosts do it.

Every answer is a JSON line on standard output, so that a test can count what was fetched. Loopback only.
"""

import contextlib
import functools
import hashlib
import json
import re
import shutil
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

_CHUNK_BYTES = 1 << 20


class PublishedFiles(BaseHTTPRequestHandler):
    """Answers GET and HEAD below `folder`; a single byte range is honoured, its validator is the content's digest."""

    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, *arguments: object) -> None:
        self._folder = folder
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Sends the file, or the asked range of it."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Sends what GET would, without the content."""
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        path = (self._folder / unquote(urlsplit(self.path).path).lstrip("/")).resolve()
        if not path.is_relative_to(self._folder) or not path.is_file():
            self._finish(HTTPStatus.NOT_FOUND, {"Content-Length": "0"})
            return
        size = path.stat().st_size
        tag = f'"{hashlib.sha256(path.read_bytes()).hexdigest()}"'
        headers = {"ETag": tag, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        first, last = 0, size - 1
        status = HTTPStatus.OK
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and self.headers.get("If-Range", tag) == tag:
            first, last = int(asked[1]), min(int(asked[2] or last), last)
            if first > last:
                unsatisfied = {"Content-Range": f"bytes */{size}", "Content-Length": "0"}
                self._finish(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, unsatisfied)
                return
            status = HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        headers["Content-Length"] = str(last - first + 1)
        self._finish(status, headers, path if with_body else None, first, last - first + 1)

    def _finish(
        self,
        status: HTTPStatus,
        headers: dict[str, str],
        path: Path | None = None,
        first: int = 0,
        count: int = 0,
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        sent = 0
        # A client may leave in the middle: what it got is still what it cost.
        with contextlib.suppress(ConnectionError):
            if path is not None:
                with path.open("rb") as content:
                    content.seek(first)
                    while sent < count and (piece := content.read(min(_CHUNK_BYTES, count - sent))):
                        self.wfile.write(piece)
                        sent += len(piece)
        line = {"method": self.command, "path": self.path, "status": int(status), "bytes": sent}
        print(json.dumps(line), flush=True)

    def log_message(self, *_line: object) -> None:
        """The JSON line says it all."""


def publish(folder: Path, path: str, source: Path) -> None:
    """Makes the content of `source` appear at `path` (`host/…`) of the server over `folder`."""
    place = folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    growing = place.with_name(f".{place.name}")
    shutil.copyfile(source, growing)
    growing.replace(place)


def serve(folder: Path, port: int) -> None:
    """Serves until it is ended. Raises OSError when the port is taken."""
    with ThreadingHTTPServer(("127.0.0.1", port), functools.partial(PublishedFiles, folder.resolve())) as server:
        server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))

"""A registry with one image, for one user with a password: enough of the distribution protocol for a pull, on loopback.

Not a registry for anything else. It keeps the password in memory and writes nothing; the image's blobs are files of an OCI
layout.

Source: OCI distribution specification 1.1, "Pulling manifests", "Pulling blobs"; RFC 7617.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_PATH = re.compile(r"/v2/(?P<name>[a-z0-9/-]+)/(?P<what>manifests|blobs)/(?P<reference>[A-Za-z0-9_.:-]+)")


class PullServer(ThreadingHTTPServer):
    """Serves an OCI layout.

    Attributes:
        address: ``127.0.0.1:<port>``.
        granted: how many requests came with the right password.
        refused: how many came with none or a wrong one.
    """

    daemon_threads = True

    def __init__(self, layout: Path, *, username: str, password: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.granted = self.refused = 0
        self._blobs = layout / "blobs" / "sha256"
        self._digest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
        self._login = username.encode() + b":" + password

    def admits(self, authorization: str) -> bool:
        """Whether an Authorization header is the user's."""
        scheme, _, encoded = authorization.partition(" ")
        try:
            given = base64.b64decode(encoded, validate=True) if scheme.lower() == "basic" else b""
        except (binascii.Error, ValueError):
            given = b""
        return hmac.compare_digest(given, self._login)

    def find(self, what: str, reference: str) -> tuple[str, Path] | None:
        """Media type and file of a manifest or blob; every tag means the one image."""
        digest = reference if ":" in reference else self._digest
        algorithm, _, encoded = digest.partition(":")
        path = self._blobs / encoded
        if algorithm != "sha256" or not re.fullmatch("[0-9a-f]{64}", encoded) or not path.is_file():
            return None
        if what == "blobs":
            return "application/octet-stream", path
        return json.loads(path.read_text())["mediaType"], path

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; http.server would print a traceback."""


class _Handler(BaseHTTPRequestHandler):
    server: PullServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if not self.server.admits(self.headers.get("Authorization", "")):
            self.server.refused += 1
            self._answer(HTTPStatus.UNAUTHORIZED, "application/json", b"{}")
            return
        self.server.granted += 1
        if self.path == "/v2/":
            self._answer(HTTPStatus.OK, "application/json", b"{}")
            return
        match = _PATH.fullmatch(self.path)
        found = self.server.find(match["what"], match["reference"]) if match else None
        if found is None:
            self._answer(HTTPStatus.NOT_FOUND, "application/json", b'{"errors":[{"code":"NAME_UNKNOWN"}]}')
        else:
            self._answer(HTTPStatus.OK, found[0], found[1].read_bytes())

    do_HEAD = do_GET

    def _answer(self, status: HTTPStatus, media_type: str, body: bytes) -> None:
        self.send_response(status)
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", 'Basic realm="verify"')
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serve_image(layout: Path, *, username: str, password: bytes) -> Iterator[PullServer]:
    """Run a :class:`PullServer` beside the block, in a thread."""
    with PullServer(layout, username=username, password=password) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

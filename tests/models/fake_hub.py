"""A small Hub on loopback: what the studio asks of the real one, and ways to misbehave."""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lora_studio.core.control import TaskContext
from lora_studio.core.events import Phase, RunEvent
from tests.models.fake_uploads import Uploads

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "somebody/tiny"


@dataclass
class Request:
    """What was asked, as a test looks at it afterwards."""

    path: str
    range: str
    authorization: str


@dataclass
class FakeHub:
    """The Hub's files and its moods.

    Attributes:
        files: Contents by name.
        kind: "models" or "datasets".
        needs_token: Answer 401 with GatedRepo to file requests without this token.
        cut_after: Close the connection after so many bytes of a weight file, for the first `cuts` requests.
        redirect_to: Send requests for weights to this address, as the Hub does to its storage.
        ignores_ranges: Answer 200 with the whole file whatever range is asked.
        damages: Flip a byte in the first so many weight answers.
        status: Answer every request with this status instead.
        uploads: What it does for uploads; None where it is for reading alone.
    """

    files: dict[str, bytes]
    repo: str = REPO
    kind: str = "models"
    needs_token: str = ""
    cut_after: int = -1
    cuts: int = 0
    redirect_to: str = ""
    ignores_ranges: bool = False
    damages: int = 0
    status: int = 0
    error_code: str = ""
    uploads: Uploads | None = None
    address: str = ""
    requests: list[Request] = field(default_factory=list)

    def listing(self) -> dict[str, Any]:
        siblings: list[dict[str, Any]] = []
        for name, content in self.files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": blob}
            if name.endswith(".safetensors"):
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
            siblings.append(entry)
        return {"id": self.repo, "sha": COMMIT, "gated": bool(self.needs_token), "siblings": siblings}

    def asked_for(self, ending: str) -> list[Request]:
        return [request for request in self.requests if request.path.split("?")[0].endswith(ending)]


def stop_past(events: Iterator[RunEvent], context: TaskContext, done: float) -> None:
    """Go through a task's events, and ask it to stop once its progress has passed `done`."""
    for event in events:
        if isinstance(event, Phase) and (event.done or 0) > done:
            context.control.stop()


@contextmanager
def running_hub(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve a hub on a free port of loopback while the block runs."""

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    if hub.uploads is not None:
        hub.uploads.address = hub.address
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


class _Handler(BaseHTTPRequestHandler):
    state: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub = self.state
        hub.requests.append(Request(self.path, self.headers.get("Range", ""), self.headers.get("Authorization", "")))
        path = urllib.parse.unquote(self.path.split("?")[0])
        if hub.status:
            self._refuse(hub.status, hub.error_code)
        elif hub.uploads is not None:
            self._upload(hub.uploads)
        elif path.startswith(f"/api/{hub.kind}/"):
            self._describe(path)
        elif hub.kind == "datasets":
            self._send_file(path.partition(f"/resolve/{COMMIT}/")[2])
        else:
            self._send_file(path.rsplit("/", 1)[-1])

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        hub = self.state
        hub.requests.append(Request(self.path, "", self.headers.get("Authorization", "")))
        if hub.status or hub.uploads is None:
            self._body()
            self._refuse(hub.status or 405, hub.error_code)
        else:
            self._upload(hub.uploads)

    def do_PUT(self) -> None:
        self.do_POST()

    def _upload(self, uploads: Uploads) -> None:
        path = urllib.parse.unquote(self.path.split("?")[0])
        answer = uploads.answer(self.command, path, self.headers.get("Authorization", ""), self._body())
        content = json.dumps(answer.body if answer.body is not None else {}).encode()
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _describe(self, path: str) -> None:
        name, _, revision = path.removeprefix(f"/api/{self.state.kind}/").partition("/revision/")
        if name != self.state.repo:
            self._refuse(401, "RepoNotFound")
        elif revision not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        else:
            self._answer(200, json.dumps(self.state.listing()).encode())

    def _send_file(self, name: str) -> None:
        hub = self.state
        is_weights = name.endswith(".safetensors")
        if hub.needs_token and self.headers.get("Authorization") != f"Bearer {hub.needs_token}":
            self._refuse(401, "GatedRepo")
        elif name not in hub.files:
            self._refuse(404, "EntryNotFound")
        elif is_weights and hub.redirect_to:
            self.send_response(302)
            self.send_header("Location", f"{hub.redirect_to}/stored/{name}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._send(hub.files[name], is_weights)

    def _send(self, content: bytes, is_weights: bool) -> None:
        hub = self.state
        wanted = self.headers.get("Range", "")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and not hub.ignores_ranges else 0
        body = bytearray(content[start:])
        if is_weights and hub.damages:
            hub.damages -= 1
            body[-1] ^= 1
        cut = is_weights and hub.cuts > 0
        hub.cuts -= cut
        self._answer(206 if start else 200, bytes(body), hub.cut_after if cut else len(body))

    def _answer(self, status: int, body: bytes, sent: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[:sent])
        self.wfile.flush()
        if sent is not None and sent < len(body):
            self.close_connection = True

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Keep standard error clean."""

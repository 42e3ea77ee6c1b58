"""A hub on this machine: the real client asks a small server, or one that isn't there."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PARAMETERS = 1_000_000
KNOWN = ("/api/models/org/model", "/api/datasets/org/data")
NOWHERE = "http://127.0.0.1:9"


class _Hub(BaseHTTPRequestHandler):
    """Knows a model and a data set, and says of every other name that there is none."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        found = path in KNOWN
        body = {"error": "Repository not found"}
        if found:
            told = {"parameters": {"F32": PARAMETERS}, "total": PARAMETERS}
            body = {"id": path.split("/", 3)[-1], "siblings": [], "safetensors": told}
        content = json.dumps(body).encode()
        self.send_response(200 if found else 404)
        if not found:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Keep the screen clean."""


@contextmanager
def serving() -> Iterator[str]:
    """Lend the address of a hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def point_at(address: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client ask at ``address``, and know nothing but what is in ``folder``."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setenv("CORAL_CACHE", str(folder / "cache"))

"""An imitation of the Hugging Face hub on 127.0.0.1, which serves folders as models."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any
from urllib.parse import unquote, urlsplit

_COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Handler(BaseHTTPRequestHandler):
    models: Mapping[str, Path]
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        page = unquote(urlsplit(self.path).path)
        self.asked.append(f"{self.command} {page}")
        for name, folder in self.models.items():
            if page.startswith(f"/api/models/{name}"):
                facts = self._tree(folder) if "/tree/" in page else self._about(name, folder)
                self._send(json.dumps(facts).encode(), "application/json", with_body=with_body)
                return
            if page.startswith(f"/{name}/resolve/"):
                file = folder / page.split("/resolve/", 1)[1].split("/", 1)[1]
                if file.is_file():
                    self._send(file.read_bytes(), "application/octet-stream", with_body=with_body)
                    return
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _about(self, name: str, folder: Path) -> dict[str, Any]:
        siblings = [{"rfilename": each["path"]} for each in self._tree(folder)]
        return {"id": name, "modelId": name, "sha": _COMMIT, "private": False, "siblings": siblings, "tags": [], "downloads": 0}

    def _tree(self, folder: Path) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "oid": _digest(path)[:40]}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]

    def _send(self, body: bytes, kind: str, *, with_body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()[:40]}"')
        self.send_header("X-Repo-Commit", _COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def hub(models: Mapping[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Serve models by their ids: the hub's address, and what it was asked for so far."""
    asked: list[str] = []
    handler = type("Handler", (_Handler,), {"models": models, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def breaking_server() -> Iterator[str]:
    """The address of a server that ends every connection without an answer."""

    class Breaking(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1024)

    with ThreadingTCPServer(("127.0.0.1", 0), Breaking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()

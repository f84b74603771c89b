"""An imitation of CivitAI, written from its public documentation (developer.civitai.com/site/reference).

The API is on 127.0.0.1, the storage that downloads are redirected to on another port of "localhost": under another host name.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from carlos_core.civitai.client import CivitaiClient
from carlos_core.civitai.keys import ApiKey
from carlos_core.civitai.transport import Patience

KEY = "test-key-0123456789abcdef"


@dataclass(frozen=True)
class Request:
    """What arrived. server: "api" or "storage". page: path and query. headers: names in lower case."""

    server: str
    method: str
    page: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Fault:
    """An answer in place of the right one, for the next `times` requests whose page contains `page`."""

    page: str
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    times: int = 1


@dataclass
class CivitaiServer:
    """What the imitation holds and how it behaves.

    versions: by id, as the API gives them. contents: version id -> file id -> bytes. cuts: numbers of bytes of single answers of
    the storage, after which the next connections break. etag: of the storage's files; "" for none.
    """

    models: dict[int, dict[str, Any]] = field(default_factory=dict)
    versions: dict[int, dict[str, Any]] = field(default_factory=dict)
    contents: dict[int, dict[int, bytes]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    etag: str = '"v1"'
    knows_ranges: bool = True
    wants_key: bool = False
    redirect_to: str = ""
    url: str = ""
    storage_url: str = ""

    def add(
        self, version_id: int, content: bytes | dict[str, bytes], *, model_id: int = 7, name: str = "snow", **facts: Any
    ) -> dict[str, Any]:
        """Publish a version with one file `<name>.safetensors`, or with several by name. `facts` change the version's fields."""
        named = content if isinstance(content, dict) else {f"{name}.safetensors": content}
        files = [self._file(version_id, 10 * version_id + k, *item, is_primary=k == 0) for k, item in enumerate(named.items())]
        self.contents[version_id] = {file["id"]: data for file, data in zip(files, named.values(), strict=True)}
        version = {
            "id": version_id,
            "modelId": model_id,
            "name": "v1.0",
            "description": None,
            "baseModel": "SDXL 1.0",
            "baseModelType": "Standard",
            "status": "Published",
            "availability": "Public",
            "nsfwLevel": 3,
            "createdAt": "2025-12-18T08:55:00.000Z",
            "publishedAt": f"2025-12-18T09:16:{version_id % 60:02}.062Z",
            "usageControl": "Download",
            "trainedWords": ["snw style", "cold breath"],
            "earlyAccessConfig": None,
            "earlyAccessEndsAt": None,
            "stats": {"downloadCount": 215627, "thumbsUpCount": 13828, "thumbsDownCount": 22},
            "model": {"name": "Snow & Ice", "type": "LORA", "nsfw": False, "poi": False, "minor": False},
            "files": files,
            "images": [
                {"url": f"{self.url}/images/{version_id}.mp4", "type": "video", "nsfwLevel": 1},
                {"url": f"{self.url}/images/{version_id}.jpeg", "type": "image", "nsfwLevel": 1, "width": 832, "height": 1216},
            ],
            "downloadUrl": f"{self.url}/api/download/models/{version_id}",
            **facts,
        }
        self.versions[version_id] = version
        model = self.models.setdefault(
            model_id, {"id": model_id, "name": "Snow & Ice", "type": "LORA", "nsfw": False, "mode": None, "modelVersions": []}
        )
        model["modelVersions"].insert(0, {key: value for key, value in version.items() if key not in ("modelId", "model")})
        return version

    def of(self, server: str) -> list[Request]:
        return [request for request in self.requests if request.server == server]

    def _file(self, version_id: int, file_id: int, name: str, content: bytes, *, is_primary: bool) -> dict[str, Any]:
        return {
            "id": file_id,
            "name": name,
            "type": "Archive" if name.endswith(".zip") else "Model",
            "sizeKB": len(content) / 1024,
            "metadata": {"format": "SafeTensor" if name.endswith(".safetensors") else "Other", "size": "full", "fp": "fp16"},
            "pickleScanResult": "Success",
            "virusScanResult": "Success",
            "hashes": {"AutoV2": "A5F58EB1C3", "SHA256": hashlib.sha256(content).hexdigest().upper()},
            # The addresses of further files are all the same, and lead to the first one.
            "downloadUrl": f"{self.url}/api/download/models/{version_id}" + ("" if is_primary else "?type=Model"),
            "primary": is_primary,
        }

    def answer_api(self, method: str, page: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        path, query = urlsplit(page).path, parse_qs(urlsplit(page).query)
        if found := re.fullmatch(r"/api/download/models/(\d+)", path):
            return self._download(found[1], query, headers)
        if path == "/api/v1/model-versions/by-hash" and method == "POST":
            hashes = json.loads(body)
            return _json(self._with_hashes(hashes)) if len(hashes) <= 100 else (400, {}, b'{"error": "Too many hashes"}')
        pages: dict[str, Callable[[str], Any]] = {
            r"/api/v1/models/(\d+)": lambda model_id: self.models.get(int(model_id)),
            r"/api/v1/model-versions/(\d+)": lambda version_id: self.versions.get(int(version_id)),
            r"/api/v1/model-versions/by-hash/(\w+)": lambda sha256: next(iter(self._with_hashes([sha256])), None),
        }
        for pattern, answer in pages.items():
            if found := re.fullmatch(pattern, path):
                return _json(answer(found[1]))
        return 200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>a page for people</html>"

    def _download(
        self, version_id: str, query: dict[str, list[str]], headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        files = self.contents.get(int(version_id), {})
        file_id = int(query["fileId"][0]) if "fileId" in query else next(iter(files), 0)
        if file_id not in files:
            return _json(None)
        if self.wants_key and headers.get("authorization") != f"Bearer {KEY}":
            return 307, {"Location": "/login?returnUrl=/models/7&reason=download-auth"}, b""
        return 307, {"Location": self.redirect_to or f"{self.storage_url}/{version_id}/{file_id}?X-Amz-Signature=abc"}, b""

    def answer_storage(self, page: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        version_id, file_id = urlsplit(page).path.strip("/").split("/")
        content = self.contents[int(version_id)][int(file_id)]
        tag = {"ETag": self.etag} if self.etag else {}
        start = int(headers["range"].removeprefix("bytes=").rstrip("-")) if "range" in headers else 0
        if not self.knows_ranges or ("if-range" in headers and headers["if-range"] != self.etag):
            return 200, tag, content
        if start >= len(content):
            return 416, {"Content-Range": f"bytes */{len(content)}"}, b""
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return 206, {"Content-Range": span, "Content-Type": "application/octet-stream", **tag}, content[start:]

    def _with_hashes(self, hashes: list[str]) -> list[dict[str, Any]]:
        wanted = {sha256.upper() for sha256 in hashes}
        return [v for v in self.versions.values() if any(file["hashes"].get("SHA256") in wanted for file in v["files"])]


def client_of(*servers: CivitaiServer, key: str | None = KEY, attempts: int = 5, **options: Any) -> CivitaiClient:
    """A client of imitations, the first one asked first, that waits a hundredth of what a real one does."""
    patience = Patience(attempts=attempts, first_wait_s=0.01, longest_wait_s=30.0)
    return CivitaiClient(
        [server.url for server in servers], None if key is None else ApiKey(key), **{"patience": patience, **options}
    )


@contextmanager
def serving() -> Iterator[CivitaiServer]:
    """An imitation with nothing published yet."""
    state = CivitaiServer()
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(state, name)) for name in ("api", "storage")]
    threads = [threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}) for server in servers]
    for thread in threads:
        thread.start()
    state.url = f"http://127.0.0.1:{servers[0].server_port}"
    state.storage_url = f"http://localhost:{servers[1].server_port}"
    try:
        yield state
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


def _json(content: Any) -> tuple[int, dict[str, str], bytes]:
    if content is None:
        return 404, {"Content-Type": "application/json"}, b'{"error": "Model not found"}'
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def _handler(state: CivitaiServer, name: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._handle("GET")

        def do_POST(self) -> None:
            self._handle("POST")

        def _handle(self, method: str) -> None:
            headers = {key.lower(): value for key, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            state.requests.append(Request(name, method, self.path, headers, body))
            fault = next((fault for fault in state.faults if fault.times and fault.page in f"{name}:{self.path}"), None)
            if fault is not None:
                fault.times -= 1
                self._send(fault.status, {"Content-Type": "application/json", **fault.headers}, fault.body)
            elif name == "api":
                self._send(*state.answer_api(method, self.path, headers, body))
            else:
                self._send(*state.answer_storage(self.path, headers))

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if name == "storage" and status < 300 and state.cuts:
                body = body[: state.cuts.pop(0)]
            # A client that has seen enough hangs up.
            with suppress(ConnectionError):
                self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    return Handler

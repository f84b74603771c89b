"""Fetching weights from a real server: resumed, checked, there only when complete, and clear when it cannot be."""

from __future__ import annotations

import hashlib
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import requests
from safetensors.numpy import save

from carlos_core import partial_file
from carlos_core.clip import weights
from carlos_core.clip.loading import load_encoder
from carlos_core.clip.weights import ensure_weights, fetch_file, weights_path
from carlos_core.errors import EncoderError
from carlos_core.partial_file import PartialFile
from carlos_core.progress import Progress

CONTENT = save({"noise": np.random.default_rng(41).integers(0, 256, 3_500_000, dtype=np.uint8)})
HUB_FILE = "/timm/vit_base_patch32_clip_224.openai/resolve/main/open_clip_model.safetensors"


@dataclass
class Storage:
    """What the server has and how it behaves. breaks_off_after: bytes of each of the next answers. requests: (path, Range header)
    of all that was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    announced: str | None = None
    redirects: dict[str, str] = field(default_factory=dict)
    breaks_off_after: list[int] = field(default_factory=list)
    knows_ranges: bool = True
    url: str = ""
    requests: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def storage() -> Iterator[Storage]:
    storage = Storage(files={"/weights": CONTENT})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            storage.requests.append((self.path, asked))
            if self.path in storage.redirects:
                self._answer(302, {"Location": storage.redirects[self.path]})
            elif self.path not in storage.files:
                self._answer(404, {})
            else:
                self._send(storage.files[self.path], asked if storage.knows_ranges else None)

        def _send(self, content: bytes, asked: str | None) -> None:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0  # type: ignore[index]
            if start >= len(content):
                self._answer(416, {"Content-Range": f"bytes */{len(content)}"})
                return
            part = content[start:]
            extent = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            self._answer(206 if asked else 200, extent if asked else {}, len(part))
            self.wfile.write(part[: storage.breaks_off_after.pop(0)] if storage.breaks_off_after else part)
            self.close_connection = True

        def _answer(self, status: int, headers: dict[str, str], length: int = 0) -> None:
            self.send_response(status)
            if storage.announced and status < 400 and self.path not in storage.redirects.values():
                headers["X-Linked-ETag"] = f'"{storage.announced}"'
            for name, value in (headers | {"Content-Length": str(length)}).items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    storage.url = f"http://127.0.0.1:{server.server_port}"
    yield storage
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def closed() -> str:
    """A URL where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "encoders" / "clip.safetensors"


def partial(target: Path) -> Path:
    return target.with_name("clip.safetensors.part")


def test_a_file_appears_only_when_it_is_complete(storage: Storage, target: Path) -> None:
    seen: list[tuple[int, int]] = []

    def on_progress(progress: Progress) -> None:
        seen.append((progress.done, progress.total))
        assert not target.exists()

    fetch_file(f"{storage.url}/weights", target, on_progress)
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]
    assert seen == sorted(seen)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert len(seen) >= 2


def test_a_connection_that_breaks_off_is_made_again(storage: Storage, target: Path) -> None:
    storage.breaks_off_after = [1_200_000, 1_000_000]
    fetch_file(f"{storage.url}/weights", target)
    assert target.read_bytes() == CONTENT
    first, second, third = (int(str(asked)[len("bytes=") : -1]) for _, asked in storage.requests)
    # What of a piece has not arrived whole is asked for again.
    assert first == 0
    assert 1_100_000 < second <= 1_200_000
    assert 2_000_000 < third <= 2_200_000


def test_a_later_run_goes_on_where_an_earlier_one_broke_off(
    storage: Storage, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_LONGEST_WAIT_S", 0.0)
    storage.breaks_off_after = [2_400_000, 0, 0, 0]
    # urllib3 1 hands out the piece that has not arrived whole, and urllib3 2 does not.
    with pytest.raises(EncoderError, match="broke off after 2,[34]") as caught:
        fetch_file(f"{storage.url}/weights", target)
    assert caught.value.hint
    assert not target.exists()
    have = partial(target).read_bytes()
    assert 2_300_000 < len(have) <= 2_400_000
    assert CONTENT.startswith(have)
    storage.breaks_off_after = []
    seen: list[tuple[int, int]] = []
    fetch_file(f"{storage.url}/weights", target, lambda progress: seen.append((progress.done, progress.total)))
    assert storage.requests[-1] == ("/weights", f"bytes={len(have)}-")
    assert target.read_bytes() == CONTENT
    assert seen[0][0] > len(have)
    assert {total for _, total in seen} == {len(CONTENT)}
    assert list(target.parent.iterdir()) == [target]


def test_a_server_that_knows_no_ranges_sends_all_again(storage: Storage, target: Path) -> None:
    storage.knows_ranges = False
    target.parent.mkdir()
    partial(target).write_bytes(CONTENT[:1_000_000])
    seen: list[tuple[int, int]] = []
    fetch_file(f"{storage.url}/weights", target, lambda progress: seen.append((progress.done, progress.total)))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_beginning_that_is_longer_than_the_file_is_given_up(storage: Storage, target: Path) -> None:
    target.parent.mkdir()
    partial(target).write_bytes(CONTENT + b"of another version")
    fetch_file(f"{storage.url}/weights", target)
    assert target.read_bytes() == CONTENT


def test_what_would_not_fit_the_disk_is_not_begun(storage: Storage, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = len(CONTENT) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(EncoderError, match="No space left"):
        fetch_file(f"{storage.url}/weights", target)
    assert list(target.parent.iterdir()) == []


def test_two_processes_do_not_write_the_same_file(storage: Storage, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_file, "_LOCK_TIMEOUT_S", 0.1)
    with PartialFile(partial(target), len(CONTENT)).locked(), pytest.raises(EncoderError, match="Another process"):
        fetch_file(f"{storage.url}/weights", target)
    assert storage.requests == []


def test_a_file_that_the_server_lacks_is_an_error_with_the_way_to_do_it_by_hand(storage: Storage, target: Path) -> None:
    url = f"{storage.url}/not there"
    with pytest.raises(EncoderError, match="HTTP 404") as caught:
        fetch_file(url, target)
    assert url in caught.value.hint
    assert str(target) in caught.value.hint
    assert not target.exists()


def test_no_connection_is_an_error_with_the_way_to_do_it_by_hand(
    closed: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_LONGEST_WAIT_S", 0.0)
    with pytest.raises(EncoderError, match="no connection") as caught:
        fetch_file(f"{closed}/weights", target)
    assert f"{closed}/weights" in caught.value.hint
    assert str(target) in caught.value.hint
    assert not target.exists()


@pytest.mark.parametrize("redirected", [False, True])
def test_a_file_with_the_announced_sha256_is_taken_and_another_is_removed(
    storage: Storage, target: Path, redirected: bool
) -> None:
    if redirected:
        # The hub announces the hash where it sends clients on to its storage.
        storage.redirects["/file"] = "/weights"
    url = f"{storage.url}/{'file' if redirected else 'weights'}"
    storage.announced = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(EncoderError, match="sha256 is not the announced one"):
        fetch_file(url, target)
    assert list(target.parent.iterdir()) == []
    storage.announced = hashlib.sha256(CONTENT).hexdigest()
    fetch_file(url, target)
    assert target.read_bytes() == CONTENT


def sent_on(start: str, location: str) -> str | None:
    """Where a session that asks a named address first lets itself be sent on to."""
    answer = requests.Response()
    answer.status_code, answer.url = 302, start
    answer.headers["Location"] = location
    return weights._Session(start).get_redirect_target(answer)


@pytest.mark.parametrize(
    ("start", "location"),
    [
        ("https://8.8.8.8/a", "https://1.1.1.1/b"),
        ("https://8.8.8.8/a", "/b"),
        # Mirrors: a name of its own for encrypted connections, and a storage beside it.
        ("http://8.8.8.8/a", "https://8.8.8.8/b"),
        ("http://8.8.8.8/a", "http://8.8.8.8/b"),
        ("https://10.1.2.3/a", "https://10.1.2.4/b"),
        ("http://10.1.2.3/a", "https://10.1.2.3/b"),
    ],
)
def test_redirects_of_the_hub_and_of_mirrors_are_followed(start: str, location: str) -> None:
    assert sent_on(start, location) == location


@pytest.mark.parametrize(
    ("start", "location"),
    [
        ("https://8.8.8.8/a", "https://10.1.2.3/b"),
        ("https://8.8.8.8/a", "https://localhost/b"),
        ("https://8.8.8.8/a", "https://169.254.169.254/latest/meta-data"),
        ("https://8.8.8.8/a", "http://8.8.8.8/b"),
        ("https://8.8.8.8/a", "http://1.1.1.1/b"),
        ("https://10.1.2.3/a", "http://10.1.2.4/b"),
    ],
)
def test_redirects_into_the_users_network_or_off_https_are_not_followed(start: str, location: str) -> None:
    with pytest.raises(requests.RequestException, match="which is not a public https address"):
        sent_on(start, location)


@pytest.mark.parametrize("place", ["http://8.8.8.8/weights", "http://localhost:{port}/weights", "https://[broken/weights"])
def test_a_redirect_that_is_not_followed_is_an_error_with_the_way_to_do_it_by_hand(
    storage: Storage, target: Path, place: str
) -> None:
    storage.redirects["/file"] = place.format(port=storage.url.rpartition(":")[2])
    with pytest.raises(EncoderError, match="sent on to .*(which is not a public https|not a web) address.* save it as"):
        fetch_file(f"{storage.url}/file", target)
    assert not target.exists()


def test_a_file_that_is_no_safetensors_file_is_refused_and_not_built_upon(storage: Storage, target: Path) -> None:
    storage.files["/weights"] = b"<html>Please log in to the hotel's network.</html>" * 100
    with pytest.raises(EncoderError, match=r"clip\.safetensors is not a safetensors file"):
        fetch_file(f"{storage.url}/weights", target)
    assert not target.exists()
    storage.files["/weights"] = CONTENT
    fetch_file(f"{storage.url}/weights", target)
    assert target.read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made_is_an_error(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EncoderError, match="could not be saved"):
        fetch_file(f"{storage.url}/weights", tmp_path / "file" / "clip.safetensors")


def test_weights_that_are_there_are_found_in_any_folder_without_a_network(
    closed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "HUB", closed)
    folders = [tmp_path / "first", tmp_path / "second"]
    there = weights_path("ViT-B-32-quickgelu", "openai", folders[1])
    there.parent.mkdir()
    there.write_bytes(CONTENT)
    assert ensure_weights("ViT-B-32-quickgelu", "openai", {"hf_hub": "timm/x/"}, folders) == there
    assert not folders[0].exists()


def test_weights_are_fetched_from_the_hub_into_the_first_folder(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "HUB", storage.url)
    storage.files[HUB_FILE] = CONTENT
    folders = [tmp_path / "first", tmp_path / "second"]
    fetched = ensure_weights("ViT-B-32-quickgelu", "openai", {"hf_hub": "timm/vit_base_patch32_clip_224.openai/"}, folders)
    assert fetched == folders[0] / "ViT-B-32-quickgelu.openai.safetensors"
    assert fetched.read_bytes() == CONTENT
    assert storage.requests == [(HUB_FILE, "bytes=0-")]


def test_a_mirror_of_the_hub_is_asked_where_one_is_named(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    monkeypatch.setattr(weights, "HUB", closed)
    monkeypatch.setenv("HF_ENDPOINT", f"{storage.url}/")
    storage.files[HUB_FILE] = CONTENT
    config = {"hf_hub": "timm/vit_base_patch32_clip_224.openai/"}
    path = ensure_weights("ViT-B-32-quickgelu", "openai", config, [tmp_path])
    assert path.read_bytes() == CONTENT


def test_weights_that_open_clip_has_no_file_for_are_to_be_put_there_by_hand(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="names no safetensors file") as caught:
        ensure_weights("RN50", "openai", {"url": "https://example.com/RN50.pt"}, [tmp_path])
    assert str(tmp_path / "RN50.openai.safetensors") in caught.value.hint


def test_the_published_encoder_without_weights_and_network_is_a_clear_error(
    closed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "HUB", closed)
    monkeypatch.setattr(weights, "_LONGEST_WAIT_S", 0.0)
    with pytest.raises(EncoderError, match="no connection") as caught:
        load_encoder("ViT-B-32-quickgelu/openai", [tmp_path])
    assert f"{closed}{HUB_FILE}" in caught.value.hint
    assert str(tmp_path / "ViT-B-32-quickgelu.openai.safetensors") in caught.value.hint


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    weights_path("ViT-B-32-quickgelu", "openai", tmp_path).write_bytes(CONTENT)
    with pytest.raises(EncoderError, match=r"ViT-B-32-quickgelu\.openai\.safetensors does not fit"):
        load_encoder("ViT-B-32-quickgelu/openai", [tmp_path])


def test_a_file_behind_a_link_to_nothing_comes_where_the_link_leads(storage: Storage, target: Path, tmp_path: Path) -> None:
    target.parent.mkdir()
    target.symlink_to("../big disk/clip.safetensors")
    fetch_file(f"{storage.url}/weights", target)
    assert target.is_symlink()
    assert list((tmp_path / "big disk").iterdir()) == [tmp_path / "big disk" / "clip.safetensors"]
    assert target.read_bytes() == CONTENT

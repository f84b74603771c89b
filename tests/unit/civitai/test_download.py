"""Downloads: resumed, checked, there only when complete; and nothing of the user's is ever overwritten."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from safetensors.numpy import save

from carlos_core.civitai.client import CivitaiClient
from carlos_core.civitai.file_names import safe_name
from carlos_core.civitai.versions import VersionFile
from carlos_core.errors import CivitaiError, CivitaiNotFound
from carlos_core.progress import Progress
from tests.support import civitai_server
from tests.support.civitai_server import CivitaiServer, Fault, client_of

CONTENT = save({"noise": np.random.default_rng(5).integers(0, 256, 3_000_000, dtype=np.uint8)})


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    return tmp_path / "models" / "loras"


@pytest.fixture
def client(civitai: CivitaiServer) -> CivitaiClient:
    civitai.add(5, CONTENT)
    return client_of(civitai)


@pytest.fixture
def red() -> Iterator[CivitaiServer]:
    with civitai_server.serving() as server:
        yield server


def file_of(client: CivitaiClient) -> VersionFile:
    return client.version(5).files[0]


def part_of(folder: Path) -> Path:
    return folder / f"snow.5-{hashlib.sha256(CONTENT).hexdigest()[:12]}.part"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_file_appears_only_when_it_is_complete_and_progress_is_told(client: CivitaiClient, loras: Path) -> None:
    seen: list[Progress] = []

    def on_progress(progress: Progress) -> None:
        seen.append(progress)
        assert not (loras / "snow.safetensors").exists()

    path = client.download(file_of(client), loras, on_progress)
    assert path == loras / "snow.safetensors"
    assert path.read_bytes() == CONTENT
    assert names(loras) == ["snow.safetensors"]
    assert (seen[-1].done, seen[-1].total) == (len(CONTENT), len(CONTENT))
    assert all("MB/s" in progress.note for progress in seen)
    dones = [progress.done for progress in seen]
    assert dones == sorted(dones)


@pytest.mark.parametrize("place", [round(k * (len(CONTENT) - 1) / 29) for k in range(30)])
def test_a_connection_cut_at_any_place_is_taken_up_where_it_broke(
    civitai: CivitaiServer, client: CivitaiClient, loras: Path, place: int
) -> None:
    civitai.cuts = [place]
    assert client.download(file_of(client), loras).read_bytes() == CONTENT
    first, second = civitai.of("storage")
    assert first.headers["range"] == "bytes=0-"
    start = int(second.headers["range"].removeprefix("bytes=").removesuffix("-"))
    # What was in the reader's hands when the connection broke is fetched again: less than one chunk.
    assert place - 65_536 < start <= place
    assert second.headers.get("if-range") == ('"v1"' if start else None)
    assert names(loras) == ["snow.safetensors"]


def test_thirty_cuts_in_one_download_are_all_taken_up(civitai: CivitaiServer, client: CivitaiClient, loras: Path) -> None:
    civitai.cuts = [66_000 + 1_000 * k for k in range(30)]
    assert client.download(file_of(client), loras).read_bytes() == CONTENT
    assert len(civitai.of("storage")) == 31


def test_a_later_run_goes_on_where_an_earlier_one_broke_off(civitai: CivitaiServer, client: CivitaiClient, loras: Path) -> None:
    civitai.cuts = [2_000_000, 0, 0, 0, 0]
    # urllib3 1 hands out the piece that has not arrived whole, and urllib3 2 does not.
    with pytest.raises(CivitaiError, match="broke off after (1,9|2,0)") as caught:
        client.download(file_of(client), loras)
    assert "goes on from there" in caught.value.hint
    have = part_of(loras).stat().st_size
    assert CONTENT.startswith(part_of(loras).read_bytes())
    seen: list[Progress] = []
    later = client_of(civitai)
    assert later.download(file_of(later), loras, seen.append).read_bytes() == CONTENT
    assert civitai.of("storage")[-1].headers["range"] == f"bytes={have}-"
    assert seen[0].done > have
    assert names(loras) == ["snow.safetensors"]


def test_a_cancel_keeps_what_has_arrived(civitai: CivitaiServer, client: CivitaiClient, loras: Path) -> None:
    class Cancelled(Exception):
        pass

    def cancel(progress: Progress) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        client.download(file_of(client), loras, cancel)
    have = part_of(loras).stat().st_size
    assert 0 < have < len(CONTENT)
    assert client.download(file_of(client), loras).read_bytes() == CONTENT
    assert civitai.of("storage")[-1].headers["range"] == f"bytes={have}-"


@pytest.mark.parametrize("etag", ['"v2"', ""])
def test_a_file_that_changed_on_the_server_meanwhile_is_fetched_from_the_beginning(
    civitai: CivitaiServer, client: CivitaiClient, loras: Path, etag: str
) -> None:
    """With an ETag the server says so; without one the hash does, after the wrong halves were put together."""
    civitai.etag = etag and '"v1"'
    civitai.contents[5][50] = b"x" * len(CONTENT)
    civitai.cuts = [1_000_000, 0]
    with pytest.raises(CivitaiError, match="broke off"):
        client_of(civitai, attempts=2).download(file_of(client), loras)
    civitai.contents[5][50] = CONTENT
    civitai.etag = etag
    assert client.download(file_of(client), loras).read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_sends_all_again(civitai: CivitaiServer, client: CivitaiClient, loras: Path) -> None:
    civitai.knows_ranges = False
    civitai.cuts = [2_000_000]
    assert client.download(file_of(client), loras).read_bytes() == CONTENT
    assert [request.headers["range"] == "bytes=0-" for request in civitai.of("storage")] == [True, False]


def test_a_part_that_is_complete_or_too_long_is_handled(civitai: CivitaiServer, client: CivitaiClient, loras: Path) -> None:
    loras.mkdir(parents=True)
    part_of(loras).write_bytes(CONTENT)
    assert client.download(file_of(client), loras).read_bytes() == CONTENT
    (loras / "snow.safetensors").unlink()
    part_of(loras).write_bytes(CONTENT + b"and more")
    assert client.download(file_of(client), loras).read_bytes() == CONTENT
    assert names(loras) == ["snow.safetensors"]


@pytest.mark.parametrize("content_range", ["bytes 7-99/100", "bytes 0-", "", "items 0-5/6"])
def test_a_range_that_was_not_asked_for_is_not_taken(
    civitai: CivitaiServer, client: CivitaiClient, loras: Path, content_range: str
) -> None:
    civitai.faults.append(Fault("storage:/5", 206, {"Content-Range": content_range}, b"x" * 93))
    assert client.download(file_of(client), loras).read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_leaves_nothing(civitai: CivitaiServer, client: CivitaiClient, loras: Path) -> None:
    civitai.contents[5][50] = CONTENT[:-1] + b"\0"
    with pytest.raises(CivitaiError, match="sha256 is not the one that CivitAI says") as caught:
        client.download(file_of(client), loras)
    assert caught.value.hint
    assert names(loras) == []


@pytest.mark.parametrize("size", [len(CONTENT) - 5000, len(CONTENT) + 5000])
def test_a_wrong_size_is_refused_and_leaves_nothing(
    civitai: CivitaiServer, client: CivitaiClient, loras: Path, size: int
) -> None:
    with pytest.raises(CivitaiError, match=f"bytes, not {size:,} bytes as CivitAI says"):
        client.download(replace(file_of(client), size=size), loras)
    assert names(loras) == []


@pytest.mark.parametrize("length", ["20000000", ""])
def test_a_body_that_is_too_long_is_not_read_to_its_end(
    civitai: CivitaiServer, client: CivitaiClient, loras: Path, length: str
) -> None:
    """Not at all if its length is announced, else up to the size that CivitAI says."""
    civitai.faults.append(Fault("storage:/5", 200, {"Content-Length": length}, b"x" * 20_000_000))
    seen: list[Progress] = []
    with pytest.raises(CivitaiError, match="as CivitAI says"):
        client.download(file_of(client), loras, seen.append)
    assert max((progress.done for progress in seen), default=0) <= (0 if length else len(CONTENT) + 1024)
    assert names(loras) == []


def test_a_file_that_is_no_safetensors_file_is_refused_whatever_its_name(civitai: CivitaiServer, loras: Path) -> None:
    for version_id, content in ((8, b"\x80\x04cos\nsystem\n."), (9, b"\x10\0\0\0\0\0\0\0" + b"[" * 16), (10, b"<html>")):
        civitai.add(version_id, content, name="evil")
        client = client_of(civitai)
        with pytest.raises(CivitaiError, match=r"evil\.safetensors is not a safetensors file"):
            client.download(client.version(version_id).files[0], loras)
        assert names(loras) == []


def test_other_formats_and_files_without_a_hash_are_refused_before_anything_is_fetched(
    civitai: CivitaiServer, client: CivitaiClient, loras: Path
) -> None:
    file = file_of(client)
    for name in ("snow.ckpt", "snow.pt", "snow", "snow.safetensors.exe"):
        with pytest.raises(CivitaiError, match="is not a safetensors file"):
            client.download(replace(file, name=name), loras)
    with pytest.raises(CivitaiError, match="does not say how to fetch and check"):
        client.download(replace(file, sha256=None), loras)
    assert civitai.of("storage") == []


def test_a_file_of_the_same_name_is_never_overwritten(civitai: CivitaiServer, client: CivitaiClient, loras: Path) -> None:
    loras.mkdir(parents=True)
    (loras / "snow.safetensors").write_bytes(b"mine")
    assert client.download(file_of(client), loras) == loras / "snow.5.safetensors"
    (loras / "snow.5.safetensors").write_bytes(b"mine too")
    assert client.download(file_of(client), loras) == loras / "snow.5-2.safetensors"
    assert [(loras / name).read_bytes() for name in ("snow.safetensors", "snow.5.safetensors")] == [b"mine", b"mine too"]
    (loras / "snow.5.safetensors").unlink()
    (loras / "snow.safetensors").unlink()
    (loras / "snow.safetensors").symlink_to("/nowhere/at/all")
    assert client.download(file_of(client), loras) == loras / "snow.5.safetensors"


def test_a_file_that_is_there_is_not_fetched_again(civitai: CivitaiServer, client: CivitaiClient, loras: Path) -> None:
    first = client.download(file_of(client), loras)
    fetched = len(civitai.of("storage"))
    assert client.download(file_of(client), loras) == first
    assert len(civitai.of("storage")) == fetched


def test_a_full_disk_is_a_clear_error_that_leaves_nothing(client: CivitaiClient, loras: Path) -> None:
    loras.mkdir(parents=True)
    # Writing to /dev/full fails as on a full disk.
    part_of(loras).symlink_to("/dev/full")
    with pytest.raises(CivitaiError, match="the disk is full") as caught:
        client.download(file_of(client), loras)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert names(loras) == []


def test_a_file_that_does_not_fit_the_disk_is_refused_before_it_is_fetched(
    civitai: CivitaiServer, client: CivitaiClient, loras: Path
) -> None:
    civitai.faults.append(Fault("storage:/5", 200, {"Content-Length": str(1 << 60)}, b"x" * 100))
    with pytest.raises(CivitaiError, match="the disk is full"):
        client.download(replace(file_of(client), size=1 << 60), loras)
    assert names(loras) == []


def test_a_folder_that_cannot_be_made_is_a_clear_error(client: CivitaiClient, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CivitaiError, match="could not be saved"):
        client.download(file_of(client), tmp_path / "file" / "loras")


def test_two_processes_do_not_write_the_same_part(client: CivitaiClient, loras: Path) -> None:
    loras.mkdir(parents=True)
    with FileLock(part_of(loras).with_suffix(".part-lock")), pytest.raises(CivitaiError, match="Another process is fetching"):
        client.download(file_of(client), loras)


def test_a_login_page_and_any_other_page_are_not_taken_for_a_file(
    civitai: CivitaiServer, client: CivitaiClient, loras: Path
) -> None:
    civitai.wants_key = True
    with pytest.raises(CivitaiError, match="only to those who log in") as caught:
        client_of(civitai, key=None).download(file_of(client), loras)
    assert "CIVITAI_API_KEY" in caught.value.hint
    civitai.redirect_to = "/models/7"
    with pytest.raises(CivitaiError, match="a web page in place of"):
        client.download(file_of(client), loras)
    assert names(loras) == []


@pytest.mark.parametrize("status", [401, 403])
def test_early_access_is_called_by_its_name(civitai: CivitaiServer, loras: Path, status: int) -> None:
    civitai.add(6, CONTENT, availability="EarlyAccess", earlyAccessEndsAt="2999-01-31T00:00:00.000Z")
    civitai.faults.append(Fault("/api/download", status))
    client = client_of(civitai)
    with pytest.raises(CivitaiError, match="early access to the file of version 6 until 2999-01-31"):
        client.download(client.version(6).files[0], loras)


def test_a_file_that_the_first_site_hides_is_fetched_from_the_second(
    civitai: CivitaiServer, red: CivitaiServer, client: CivitaiClient, loras: Path
) -> None:
    file = file_of(client)
    del civitai.contents[5]
    with pytest.raises(CivitaiNotFound, match="deleted or unpublished"):
        client_of(civitai, red).download(file, loras)
    red.add(5, CONTENT)
    assert client_of(civitai, red).download(file, loras).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("snow.safetensors", "snow.safetensors"),
        ("Snow.SafeTensors", "Snow.safetensors"),
        ("../../etc/passwd.safetensors", "passwd.safetensors"),
        ("/etc/passwd.safetensors", "passwd.safetensors"),
        ("..\\..\\evil.safetensors", "evil.safetensors"),
        ("C:\\evil.safetensors", "evil.safetensors"),
        ("C:evil.safetensors", "C_evil.safetensors"),
        ("...hidden.safetensors", "hidden.safetensors"),
        (" . .safetensors", "lora.safetensors"),
        (".safetensors", "lora.safetensors"),
        ("", "lora.safetensors"),
        ("..", "lora.safetensors"),
        ("con.safetensors", "_con.safetensors"),
        ("NUL.v1.safetensors", "_NUL.v1.safetensors"),
        ("com1.safetensors", "_com1.safetensors"),
        ("console.safetensors", "console.safetensors"),
        ("a\0b\nc\x7f.safetensors", "a_b_c_.safetensors"),
        ('a<b>c:"d|e?f*.safetensors', "a_b_c__d_e_f_.safetensors"),
        ("snow\u202egnp.safetensors", "snowgnp.safetensors"),
        ("snow\ud800.safetensors", "snow.safetensors"),
        ("雪 style v1.0.safetensors", "雪 style v1.0.safetensors"),
        ("snow.zip", "snow.safetensors"),
    ],
)
def test_names_from_the_network_are_made_harmless(name: str, expected: str) -> None:
    assert safe_name(name) == expected


def test_names_stay_short_enough_for_sidecars() -> None:
    for name in ("x" * 5000, "雪" * 500):
        assert len(safe_name(name + ".safetensors").encode()) <= 132
    # A blank or a dot at the place where the name is cut is not an end of a name on Windows.
    assert safe_name("x" * 119 + " y") == safe_name("x" * 119 + ".y") == f"{'x' * 119}.safetensors"
    assert safe_name("雪" * 500).removesuffix(".safetensors").strip("雪") == ""


def test_a_further_file_of_a_version_is_asked_for_by_its_id(civitai: CivitaiServer, loras: Path) -> None:
    other = save({"noise": np.arange(100, dtype=np.uint8)})
    civitai.add(6, {"large.safetensors": CONTENT, "small.safetensors": other})
    client = client_of(civitai)
    large, small = client.version(6).files
    assert client.download(small, loras).read_bytes() == other
    assert client.download(large, loras).read_bytes() == CONTENT
    assert [request.page for request in civitai.of("api")[1:]] == ["/api/download/models/6?fileId=61", "/api/download/models/6"]


def test_a_name_that_leads_elsewhere_stays_in_the_folder(civitai: CivitaiServer, loras: Path) -> None:
    civitai.add(5, CONTENT, name="../../../escaped")
    client = client_of(civitai)
    assert client.download(file_of(client), loras) == loras / "escaped.safetensors"
    assert [path for path in loras.parent.parent.rglob("*") if path.is_file()] == [loras / "escaped.safetensors"]


def test_the_beginning_of_an_etag_that_a_kill_has_left_is_not_sent(
    civitai: CivitaiServer, client: CivitaiClient, loras: Path
) -> None:
    loras.mkdir(parents=True)
    part_of(loras).write_bytes(CONTENT[:1000])
    part_of(loras).with_name(f"{part_of(loras).name}-etag").write_text('"v')
    assert client.download(file_of(client), loras).read_bytes() == CONTENT
    headers = [request.headers for request in civitai.of("storage")]
    assert [header["range"] for header in headers] == ["bytes=1000-"]
    assert not any("if-range" in header for header in headers)


def test_what_a_killed_run_has_left_beside_the_finished_file_goes_with_the_next(client: CivitaiClient, loras: Path) -> None:
    path = client.download(file_of(client), loras)
    for end in ("", "-etag", "-lock"):
        part_of(loras).with_name(part_of(loras).name + end).write_bytes(b"left")
    assert client.download(file_of(client), loras) == path
    assert names(loras) == ["snow.safetensors"]

"""The LoRA library: what a scan finds, what it remembers, and what it does not read again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from carlos_core.errors import LoraError
from carlos_core.loras.library import LoraLibrary, scan, survey
from carlos_core.loras.lora_file import read_lora_file
from carlos_core.progress import Progress
from tests.support.lora_files import Files, later, listed, lora, opened_loras, sidecar

ROOT = Path(__file__).resolve().parents[3]
N_FILES = 5000

_SCAN = """
import sys, time
from pathlib import Path
from tests.support.lora_files import listed
from carlos_core.loras import library
library._SAVE_EVERY_S = 0.02
# Slow enough to be caught in the middle, where somebody wants that.
pause = float(sys.argv[3])
found = library.scan(listed(Path(sys.argv[1])), Path(sys.argv[2]), lambda progress: time.sleep(pause))
print(len(found.entries), sum(entry.sha256 is not None for entry in found.entries))
"""


class Library:
    """A folder of LoRAs and its index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "loras"
        self.index = folder / "user" / "loras.sqlite"
        self.folder.mkdir()

    def scan(self, *, hash_files: bool = True) -> LoraLibrary:
        return scan(listed(self.folder), self.index, hash_files=hash_files)

    def scan_in_another_process(self, pause_s: float = 0.0) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _SCAN, str(self.folder), str(self.index), str(pause_s)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def n_kept(self) -> int:
        connection = sqlite3.connect(self.index)
        try:
            return int(connection.execute("SELECT count(*) FROM files WHERE sha256 IS NOT NULL").fetchone()[0])
        finally:
            connection.close()


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path)


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """5,000 LoRAs in 50 folders, every second with a sidecar."""
    library = Library(tmp_path_factory.mktemp("big"))
    template = lora(library.folder / "template.safetensors").read_bytes()
    (library.folder / "template.safetensors").unlink()
    for place in range(N_FILES):
        path = library.folder / f"folder{place % 50}" / f"lora{place}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(template[:-4] + place.to_bytes(4, "little"))
        if place % 2:
            sidecar(path, id=10_000 + place, modelId=place, baseModel="Pony", trainedWords=[f"word {place}"])
    return library


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def only(found: LoraLibrary, name: str = "a.safetensors") -> object:
    entry = found.entry(name)
    assert entry is not None
    return entry


def test_5000_files_are_known_and_none_of_them_is_opened_again(big: Library) -> None:
    found = big.scan()
    assert [(entry.name, entry.path) for entry in found.entries] == listed(big.folder)
    assert [entry.sha256 for entry in found.entries] == [sha256(entry.path) for entry in found.entries]
    place = 4321
    entry = found.entry(f"folder{place % 50}/lora{place}.safetensors")
    assert entry is not None
    assert (entry.metadata.version_id, entry.metadata.model_id, entry.metadata.base_model) == (10_000 + place, place, "Pony")
    assert entry.metadata.trigger_words == (f"word {place}",)
    with opened_loras() as opened:
        again = big.scan()
    assert opened == []
    assert again.entries == found.entries


def test_only_the_new_the_changed_and_the_annotated_file_are_opened(library: Library) -> None:
    for name in ("a", "b", "c"):
        lora(library.folder / f"{name}.safetensors", ord(name))
    library.scan()
    later(lora(library.folder / "b.safetensors", 1))
    lora(library.folder / "sub" / "d.safetensors", 2)
    sidecar(library.folder / "c.safetensors", id=7)
    with opened_loras() as opened:
        found = library.scan()
    assert set(opened) == {"b.safetensors", "d.safetensors", "c.safetensors", "c.civitai.info"}
    assert [entry.sha256 for entry in found.entries] == [sha256(path) for _, path in listed(library.folder)]


def test_size_and_time_decide_whether_a_file_has_changed(library: Library) -> None:
    path = lora(library.folder / "a.safetensors", 1)
    before, stat = sha256(path), path.stat()
    library.scan()
    lora(path, 2)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert library.scan().entries[0].sha256 == before != sha256(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert library.scan().entries[0].sha256 == sha256(path)


@pytest.mark.parametrize("suffix", [".civitai.info", ".metadata.json", ".json"])
def test_a_sidecar_that_came_changed_and_went_is_seen_without_hashing_again(library: Library, suffix: str) -> None:
    path = lora(library.folder / "my.snow.v1.safetensors", 1, "own")
    key = {".civitai.info": "baseModel", ".metadata.json": "base_model", ".json": "sd version"}[suffix]
    assert library.scan().entries[0].metadata.base_model == "SDXL"
    beside = sidecar(path, suffix, **{key: "Pony"})
    stat = path.stat()
    # Whoever hashed this file again would find that it changed.
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    hashes = {library.scan().entries[0].sha256}
    assert library.scan().entries[0].metadata.base_model == "Pony"
    sidecar(path, suffix, **{key: "Illustrious"})
    found = library.scan().entries[0]
    assert found.metadata.base_model == "Illustrious"
    beside.unlink()
    gone = library.scan().entries[0]
    assert (gone.metadata.base_model, gone.metadata.trigger_words) == ("SDXL", ("own",))
    assert hashes | {found.sha256, gone.sha256} != {sha256(path)}
    assert len(hashes | {found.sha256, gone.sha256}) == 1


def test_an_entry_says_what_reading_the_file_says(library: Library) -> None:
    path = lora(library.folder / "sub" / "a.safetensors", 3, "one, two", width=768)
    for beside in (lambda: None, lambda: sidecar(path, id=5, model={"name": "Snow"}, trainedWords=["three"])):
        beside()
        (entry,) = library.scan().entries
        assert entry.as_lora_file() == read_lora_file(path, "sub/a.safetensors")
        (remembered,) = library.scan().entries
        assert remembered == entry


def test_linked_files_and_folders_are_files_like_others(library: Library, tmp_path: Path) -> None:
    elsewhere = lora(tmp_path / "drive" / "deep" / "a.safetensors", 1)
    sidecar(elsewhere, id=5)
    (library.folder / "linked").symlink_to(tmp_path / "drive", target_is_directory=True)
    (library.folder / "b.safetensors").symlink_to(elsewhere)
    found = library.scan()
    assert [entry.name for entry in found.entries] == ["b.safetensors", "linked/deep/a.safetensors"]
    assert {entry.sha256 for entry in found.entries} == {sha256(elsewhere)}
    # A sidecar belongs to the name it stands beside.
    assert [entry.metadata.version_id for entry in found.entries] == [None, 5]
    lora(elsewhere, 2, "longer")
    assert {entry.sha256 for entry in library.scan().entries} == {sha256(elsewhere)}


def test_files_of_an_offline_drive_are_not_listed_and_not_forgotten(library: Library, tmp_path: Path) -> None:
    lora(library.folder / "here.safetensors", 1)
    lora(library.folder / "drive" / "away.safetensors", 2)
    online = library.scan()
    (library.folder / "drive").rename(tmp_path / "unplugged")
    assert [entry.name for entry in library.scan().entries] == ["here.safetensors"]
    (tmp_path / "unplugged").rename(library.folder / "drive")
    with opened_loras() as opened:
        assert library.scan().entries == online.entries
    assert opened == []


def test_a_file_that_is_no_lora_has_a_problem_and_the_rest_is_known(library: Library, tmp_path: Path) -> None:
    good = lora(library.folder / "good.safetensors", 1)
    whole = good.read_bytes()
    (library.folder / "cut.safetensors").write_bytes(whole[:-1])
    (library.folder / "empty.safetensors").touch()
    (library.folder / "pickle.safetensors").write_bytes(b"\x80\x04pickle")
    nested = b"[" * 100_000
    (library.folder / "nested.safetensors").write_bytes(len(nested).to_bytes(8, "little") + nested)
    (library.folder / "dangling.safetensors").symlink_to(tmp_path / "nowhere")
    files = listed(library.folder)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.safetensors")
        files.append(("pipe.safetensors", tmp_path / "pipe.safetensors"))
    files += [("folder.safetensors", tmp_path), ("nul\0.safetensors", library.folder / "nul\0.safetensors")]
    if os.geteuid() != 0:
        lora(library.folder / "secret.safetensors").chmod(0)
        files.append(("secret.safetensors", library.folder / "secret.safetensors"))
    for hash_files in (True, False, True):
        found = scan(files, library.index, hash_files=hash_files)
        problems = {entry.name: entry.problem for entry in found.entries if entry.problem}
        assert problems.keys() == {name for name, _ in files} - {"good.safetensors"}
        assert "a part of it is missing" in problems["cut.safetensors"]
        assert "not a safetensors file" in problems["nested.safetensors"]
    entry = found.entry("pickle.safetensors")
    assert entry is not None
    with pytest.raises(LoraError, match=r"pickle\.safetensors is not a safetensors file"):
        entry.as_lora_file()
    (library.folder / "cut.safetensors").write_bytes(whole)
    assert [entry.problem for entry in library.scan().entries if entry.name == "cut.safetensors"] == [""]


def test_broken_sidecars_are_left_out(library: Library) -> None:
    path = lora(library.folder / "a.safetensors", 1, "own")
    for content in (b"{", b"\xff\xfe", b"[" * 100_000, b'{"id": 1' + b"0" * 10_000 + b"}"):
        path.with_name("a.civitai.info").write_bytes(content)
        assert library.scan().entries[0].metadata.trigger_words == ("own",)


def test_names_that_are_no_text_are_kept(library: Library) -> None:
    try:
        path = lora(Path(os.fsdecode(os.fsencode(library.folder) + b"/caf\xe9")) / "a.safetensors", 1)
    except (OSError, UnicodeError):
        pytest.skip("This file system has text for names only.")
    first = library.scan()
    assert first.entries[0].sha256 == sha256(path)
    with opened_loras() as opened:
        assert library.scan().entries == first.entries
    assert opened == []


def garbage(index: Path) -> None:
    index.write_bytes(os.urandom(20_000))


def truncated(index: Path) -> None:
    index.write_bytes(index.read_bytes()[: index.stat().st_size // 2])


def emptied(index: Path) -> None:
    index.write_bytes(b"")


def overwritten_pages(index: Path) -> None:
    content = index.read_bytes()
    index.write_bytes(content[:100] + b"\xa5" * (len(content) - 100))


def foreign(index: Path) -> None:
    index.unlink()
    connection = sqlite3.connect(index)
    connection.execute("CREATE TABLE files (something TEXT)")
    connection.close()


def length_beyond_memory(index: Path) -> None:
    """Found by fuzzing: SQLite does not say of it that it is damaged, but that memory is short."""
    shutil.copyfile(ROOT / "fuzz" / "corpus" / "library_index" / "length_beyond_memory", index)
    with closing(sqlite3.connect(index)) as connection, pytest.raises(MemoryError):
        connection.execute("SELECT * FROM files")


def text_that_is_none(index: Path) -> None:
    """In the row of a file that is gone, which no scan writes again."""
    with closing(sqlite3.connect(index)) as connection, connection:
        connection.execute(
            "INSERT INTO files SELECT x'2f', size, mtime_ns, CAST(x'ff' AS TEXT), sha256, facts FROM files LIMIT 1"
        )


def nonsense_facts(index: Path) -> None:
    connection = sqlite3.connect(index)
    connection.execute("UPDATE files SET facts = '{\"sidecar\": 3'")
    connection.commit()
    connection.close()


DAMAGES = (garbage, truncated, overwritten_pages, length_beyond_memory, text_that_is_none)


@pytest.mark.parametrize("spoil", [*DAMAGES, emptied, foreign, nonsense_facts])
def test_a_damaged_index_is_made_anew(library: Library, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture) -> None:
    for place in range(300):
        lora(library.folder / f"{place}.safetensors", place)
    first = library.scan()
    spoil(library.index)
    with caplog.at_level(logging.WARNING):
        assert library.scan().entries == first.entries
    if spoil in DAMAGES:
        assert "carlos: the index of LoRA files loras.sqlite is damaged and made again" in caplog.text
    with opened_loras() as opened:
        assert library.scan().entries == first.entries
    assert opened == []


def test_rows_with_values_of_other_types_are_as_if_they_were_not_there(library: Library) -> None:
    """Found by fuzzing: SQLite lets a column hold anything."""
    for place in range(3):
        lora(library.folder / f"{place}.safetensors", place)
    first = library.scan()
    with closing(sqlite3.connect(library.index)) as connection, connection:
        connection.execute("UPDATE files SET mtime_ns = 'late' WHERE path = (SELECT path FROM files LIMIT 1)")
        connection.execute("INSERT INTO files SELECT 'a path', size, mtime_ns, sidecars, sha256, facts FROM files LIMIT 1")
    # Looks whether what is not known is what another file was.
    unhashed = library.scan(hash_files=False).entries
    assert sum(entry.sha256 is not None for entry in unhashed) == 2
    assert library.scan().entries == first.entries


def test_without_a_place_for_the_index_a_scan_still_works(library: Library, caplog: pytest.LogCaptureFixture) -> None:
    path = lora(library.folder / "a.safetensors", 1)
    library.index.mkdir(parents=True)
    assert library.scan().entries[0].sha256 == sha256(path)
    assert "carlos: the index of LoRA files loras.sqlite cannot be used now" in caplog.text


def test_what_was_read_before_a_cancel_is_kept(library: Library) -> None:
    files: Files = [(f"{k}.safetensors", lora(library.folder / f"{k}.safetensors", k)) for k in range(200)]

    class Cancelled(BaseException):
        pass

    def cancel(progress: Progress) -> None:
        assert progress.total == 200
        if progress.done == 30:
            raise Cancelled

    with pytest.raises(Cancelled):
        scan(files, library.index, cancel)
    assert 30 <= library.n_kept() < 200
    kept = library.n_kept()
    with opened_loras() as opened:
        found = library.scan()
    assert len(set(opened)) == 200 - kept
    assert {entry.name: entry.sha256 for entry in found.entries} == {name: sha256(path) for name, path in files}


def test_progress_counts_the_files_that_are_opened(library: Library) -> None:
    for place in range(5):
        lora(library.folder / f"{place}.safetensors", place)
    steps: list[tuple[int, int]] = []
    scan(listed(library.folder), library.index, lambda progress: steps.append((progress.done, progress.total)))
    assert steps == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    scan(listed(library.folder), library.index, lambda progress: steps.append((progress.done, progress.total)))
    assert len(steps) == 5


def test_two_processes_may_scan_at_once(big: Library, tmp_path: Path) -> None:
    big.index = tmp_path / "loras.sqlite"
    processes = [big.scan_in_another_process() for _ in range(2)]
    assert [process.communicate(timeout=100)[0].split() for process in processes] == [[str(N_FILES)] * 2] * 2
    with opened_loras() as opened:
        found = big.scan()
    assert opened == []
    assert len({entry.sha256 for entry in found.entries}) == N_FILES


def test_a_killed_scan_loses_at_most_the_last_moment(big: Library, tmp_path: Path) -> None:
    for attempt in range(3):
        big.index = tmp_path / f"{attempt}.sqlite"
        process = big.scan_in_another_process(pause_s=0.001)
        while not big.index.exists() or big.index.stat().st_size < 4096 * (4 + 20 * attempt):
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
        process.communicate()
        kept = big.n_kept()
        with opened_loras() as opened:
            found = big.scan()
        # An early kill may come before anything is kept.
        assert (0 if attempt < 2 else 1) <= kept < N_FILES
        assert len({name for name in opened if name.endswith(".safetensors")}) == N_FILES - kept
        assert all(entry.sha256 == sha256(entry.path) for entry in found.entries)


def test_without_hashing_a_new_file_is_known_by_header_and_sidecar_alone(library: Library) -> None:
    path = lora(library.folder / "a.safetensors", 1, "own")
    sidecar(path, id=5)
    (entry,) = library.scan(hash_files=False).entries
    assert (entry.sha256, entry.metadata.version_id, entry.metadata.trigger_words, entry.metadata.base_model) == (
        None,
        5,
        ("own",),
        "SDXL",
    )
    with pytest.raises(LoraError, match="not hashed"):
        entry.as_lora_file()
    with opened_loras() as opened:
        assert library.scan(hash_files=False).entries == (entry,)
    assert opened == []
    assert library.scan().entries[0].sha256 == sha256(path)
    # What is known stays known.
    assert library.scan(hash_files=False).entries[0].sha256 == sha256(path)


def test_without_hashing_a_renamed_file_is_known_again_and_a_replaced_one_told_apart(library: Library) -> None:
    paths = [lora(library.folder / f"{name}.safetensors", ord(name)) for name in "ab"]
    lora(library.folder / "other size.safetensors", 5, "some words more")
    before = sha256(paths[0])
    scan([(path.name, path) for path in paths], library.index)
    (library.folder / "new").mkdir()
    paths[0].rename(library.folder / "new" / "name.safetensors")
    later(lora(paths[1], 9))
    found = library.scan(hash_files=False)
    hashes = {entry.name: entry.sha256 for entry in found.entries}
    assert hashes == {
        "b.safetensors": sha256(paths[1]),
        "new/name.safetensors": before,
        "other size.safetensors": None,
    }


def test_a_drive_that_is_mounted_elsewhere_is_not_read_whole(library: Library, tmp_path: Path) -> None:
    for place in range(5):
        lora(library.folder / "old" / f"{place}.safetensors", place)
    library.scan()
    shutil.move(library.folder / "old", library.folder / "new")
    found = library.scan(hash_files=False)
    assert [entry.name for entry in found.entries] == [f"new/{place}.safetensors" for place in range(5)]
    assert {entry.sha256 for entry in found.entries} == {None}


def test_a_hash_is_not_lost_to_a_process_that_only_reads_headers(library: Library) -> None:
    """Both found the file new; the one that hashed it was quicker."""
    path = lora(library.folder / "a.safetensors", 1)
    files = [("a.safetensors", path), ("b.safetensors", lora(library.folder / "b.safetensors", 2, "longer"))]

    def meanwhile(_progress: Progress) -> None:
        scan(files, library.index)

    scan(files, library.index, meanwhile, hash_files=False)
    assert {entry.sha256 for entry in library.scan(hash_files=False).entries} == {sha256(path) for _, path in files}


def test_equal_surveys_mean_that_nothing_has_changed(library: Library) -> None:
    path = lora(library.folder / "a.safetensors", 1)
    first = survey(listed(library.folder))
    assert survey(listed(library.folder)) == first
    sidecar(path, id=1)
    second = survey(listed(library.folder))
    assert second != first
    lora(path, 2, "changed")
    assert survey(listed(library.folder)) != second


def test_what_an_earlier_version_kept_is_read_as_it_meant_it(library: Library) -> None:
    """It kept what the sidecar says apart from what it made of that and the header."""
    lora(library.folder / "a.safetensors", 1, "own")
    before = library.scan().entries
    with closing(sqlite3.connect(library.index)) as connection, connection:
        (text,) = connection.execute("SELECT facts FROM files").fetchone()
        facts = json.loads(text)
        facts["sidecar"] |= {"base_model": None, "trigger_words": []}
        connection.execute("UPDATE files SET facts = ?", (json.dumps(facts),))
    with opened_loras() as opened:
        assert library.scan().entries == before
    assert opened == []
    assert before[0].metadata.base_model == "SDXL"

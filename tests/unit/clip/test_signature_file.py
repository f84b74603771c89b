"""The file of signatures: read at once, bounded, and never in the way, whatever becomes of it."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carlos_core.clip import signature_file
from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.clip.signature_file import SignatureFile
from carlos_core.clip.signatures import SignatureCache
from carlos_core.prompts.prompt_set import PromptSet, default_effect_bank
from carlos_core.search.searcher import Searcher

DAY = 86_400


def vector(k: int) -> np.ndarray:
    return np.linspace(k, k + 1, 512) / 3


def vectors(*numbers: int) -> dict[str, np.ndarray]:
    return {f"{k:032x}": vector(k) for k in numbers}


def assert_holds(found: dict[str, np.ndarray], numbers: list[int]) -> None:
    """Exactly these vectors, to the bit."""
    assert sorted(found) == [f"{k:032x}" for k in sorted(numbers)]
    for key, values in found.items():
        np.testing.assert_array_equal(values, vector(int(key, 16)), strict=True)


def old_file(folder: Path, k: int) -> Path:
    """A vector as earlier versions kept it."""
    folder.mkdir(exist_ok=True)
    values = vector(k).astype("<f8").tobytes()
    path = folder / f"{k:032x}.f64"
    path.write_bytes(hashlib.sha256(values).digest()[:16] + values)
    return path


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """Names of the files that Python or SQLite is asked to open meanwhile."""
    names: list[str] = []
    is_watching = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if is_watching and event in ("open", "sqlite3.connect"):
            names.append(os.fspath(arguments[0]) if not isinstance(arguments[0], int) else "")

    sys.addaudithook(hook)
    try:
        yield names
    finally:
        is_watching = False


def test_vectors_are_there_to_the_bit_when_the_file_is_opened_again(tmp_path: Path) -> None:
    SignatureFile(tmp_path / "deep" / "folder").write(vectors(1, 2, 3))
    found = SignatureFile(tmp_path / "deep" / "folder").read([*vectors(2, 3, 4)])
    assert_holds(found, [2, 3])


def test_more_than_one_statement_can_ask_for_are_read_all_the_same(tmp_path: Path) -> None:
    SignatureFile(tmp_path).write(vectors(*range(2500)))
    assert_holds(SignatureFile(tmp_path).read([*vectors(*range(3000))]), list(range(2500)))


def test_who_only_looks_writes_nothing(tmp_path: Path) -> None:
    file = SignatureFile(tmp_path / "none")
    assert file.read([*vectors(1)]) == {}
    assert file.usage() == (0, 0)
    file.clear()
    assert not list(tmp_path.iterdir())


def test_a_search_that_starts_opens_one_file_few_times_for_the_whole_bank(
    encoder: OpenClipEncoder, few_prompts: PromptSet, database: Any, tmp_path: Path
) -> None:
    bank = default_effect_bank()

    def searcher() -> Searcher:
        return Searcher(database, encoder=encoder, prompts=few_prompts, signatures=SignatureCache(tmp_path), bank=bank)

    first = searcher().background()
    again = searcher()
    with opened_files() as names:
        found = again.background()
    ours = [name for name in map(os.fsdecode, names) if name.startswith(str(tmp_path))]
    assert len(bank) == 561
    assert set(ours) == {str(tmp_path / "signatures.sqlite")}
    assert len(ours) <= 2
    assert found.probes.equal(first.probes)


def test_files_of_earlier_versions_are_taken_in_once_and_damaged_ones_dropped(tmp_path: Path) -> None:
    files = [old_file(tmp_path, k) for k in range(1000)]
    files[3].write_bytes(files[3].read_bytes()[:-8])
    files[4].write_bytes(b"")
    (tmp_path / "not ours.txt").write_text("stays")
    file = SignatureFile(tmp_path)
    assert_holds(file.read([*vectors(*range(1000))]), [0, 1, 2, *range(5, 1000)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["not ours.txt", "signatures.sqlite"]


def test_what_was_made_since_is_not_undone_by_an_old_file(tmp_path: Path) -> None:
    SignatureFile(tmp_path).write({f"{1:032x}": vector(7)})
    old_file(tmp_path, 1)
    np.testing.assert_array_equal(SignatureFile(tmp_path).read([f"{1:032x}"])[f"{1:032x}"], vector(7))


def test_old_files_stay_where_they_cannot_be_taken_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = old_file(tmp_path, 1)
    (tmp_path / "signatures.sqlite").mkdir()
    assert SignatureFile(tmp_path).read([*vectors(1)]) == {}
    assert file.exists()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_flipped_byte_of_a_vector_costs_that_vector_only(tmp_path: Path) -> None:
    SignatureFile(tmp_path).write(vectors(*range(20)))
    path = SignatureFile(tmp_path).path
    whole = path.read_bytes()
    place = whole.index(vector(5).astype("<f8").tobytes()[:200])
    path.write_bytes(whole[: place + 100] + bytes([whole[place + 100] ^ 0x10]) + whole[place + 101 :])
    file = SignatureFile(tmp_path)
    assert_holds(file.read([*vectors(*range(20))]), [k for k in range(20) if k != 5])
    file.write(vectors(5))
    assert_holds(SignatureFile(tmp_path).read([*vectors(*range(20))]), list(range(20)))


def test_whatever_byte_is_damaged_no_wrong_vector_is_given(tmp_path: Path) -> None:
    SignatureFile(tmp_path).write(vectors(*range(4)))
    path = SignatureFile(tmp_path).path
    whole = path.read_bytes()
    # The head of the file, where SQLite keeps what it goes by, and samples of the rest.
    for place in [*range(110), *range(110, len(whole), 61)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x21]) + whole[place + 1 :])
        for key, values in SignatureFile(tmp_path).read([*vectors(*range(4))]).items():
            np.testing.assert_array_equal(values, vector(int(key, 16)))


def test_a_table_of_something_else_is_made_again(tmp_path: Path) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("Python 3.10 does not tell this from a file that is locked.")
    with closing(sqlite3.connect(tmp_path / "signatures.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE signatures (a, b)")
        connection.execute("PRAGMA user_version = 1")
    SignatureFile(tmp_path).write(vectors(1))
    assert_holds(SignatureFile(tmp_path).read([*vectors(1)]), [1])


def test_a_file_of_something_else_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "signatures.sqlite").write_bytes(b"some other file" * 1000)
    file = SignatureFile(tmp_path)
    assert file.read([*vectors(1)]) == {}
    file.write(vectors(1))
    assert_holds(SignatureFile(tmp_path).read([*vectors(1)]), [1])
    assert "damaged and made again" in caplog.text


def used_days_ago(path: Path, days: int, *numbers: int) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        day = int(time.time() // DAY) - days
        for key in vectors(*numbers):
            connection.execute("UPDATE signatures SET used = ? WHERE key = ?", (day, key))


def test_when_there_are_too_many_those_go_that_were_not_used_for_longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature_file, "MOST", 20)
    monkeypatch.setattr(signature_file, "_SPARE", 5)
    file = SignatureFile(tmp_path)
    file.write(vectors(*range(20)))
    used_days_ago(file.path, 3, *range(10))
    used_days_ago(file.path, 2, *range(10, 20))
    assert_holds(file.read([*vectors(1, 4)]), [1, 4])
    assert file.usage()[0] == 20
    file.write(vectors(30))
    # 21, down to 15: the first ones of those that were used three days ago, but for the two that were read.
    assert_holds(file.read([*vectors(*range(31))]), [1, 4, 8, 9, *range(10, 20), 30])


def test_reading_writes_only_the_first_time_in_a_day(tmp_path: Path) -> None:
    file = SignatureFile(tmp_path)
    file.write(vectors(1, 2))
    used_days_ago(file.path, 1, 1, 2)
    untouched = file.path.read_bytes()
    file.read([*vectors(1, 2)])
    touched = file.path.read_bytes()
    assert touched != untouched
    file.read([*vectors(1, 2)])
    assert file.path.read_bytes() == touched


def test_a_cleared_file_is_small_and_takes_vectors_again(tmp_path: Path) -> None:
    file = SignatureFile(tmp_path)
    file.write(vectors(*range(200)))
    n, size = file.usage()
    assert (n, size > 200 * 512 * 8) == (200, True)
    file.clear()
    assert file.usage()[0] == 0
    assert file.path.stat().st_size < 40_000
    file.write(vectors(3))
    assert_holds(SignatureFile(tmp_path).read([*vectors(*range(200))]), [3])


WRITING = """
import sys
from pathlib import Path
import numpy as np
from carlos_core.clip import signature_file
from carlos_core.clip.signature_file import SignatureFile
# A writer that cannot get the file for longer goes without it.
signature_file._TIMEOUT_S = 60
folder, first = Path(sys.argv[1]), int(sys.argv[2])
file = SignatureFile(folder)
sys.stdin.readline()
for k in range(first, first + 100):
    file.write({f"{k:032x}": np.linspace(k, k + 1, 512) / 3})
    assert len(SignatureFile(folder).read([f"{k:032x}"])) == 1
"""


def test_processes_that_take_in_and_write_at_once_lose_nothing(tmp_path: Path) -> None:
    for k in range(1000, 1100):
        old_file(tmp_path, k)
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITING, str(tmp_path), str(first)], stdin=subprocess.PIPE, text=True)
        for first in (0, 50, 100)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=120)
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert_holds(SignatureFile(tmp_path).read([*vectors(*range(2000))]), [*range(200), *range(1000, 1100)])
    assert [path.name for path in tmp_path.iterdir()] == ["signatures.sqlite"]


def test_a_file_that_another_process_keeps_locked_can_be_read_or_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(signature_file, "_TIMEOUT_S", 0.05)
    monkeypatch.setattr(signature_file, "_PAUSE_S", 0.0)
    file = SignatureFile(tmp_path)
    file.write(vectors(1))
    with closing(sqlite3.connect(file.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert_holds(file.read([*vectors(1)]), [1])
        file.write(vectors(2))
        other.rollback()
        other.execute("BEGIN EXCLUSIVE")
        assert file.read([*vectors(1)]) == {}
        other.rollback()
    assert_holds(file.read([*vectors(1, 2)]), [1])
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_lock_that_cannot_be_had_is_not_waited_for_at_each_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature_file, "_TIMEOUT_S", 0.05)
    file = SignatureFile(tmp_path)
    file.write(vectors(1))
    with closing(sqlite3.connect(file.path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert file.read([*vectors(1)]) == {}
    # Not tried again for some time, even if it could be had by now.
    assert file.read([*vectors(1)]) == {}
    monkeypatch.setattr(file._kept, "_off_until", 0.0)
    assert_holds(file.read([*vectors(1)]), [1])


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from carlos_core.clip.signature_file import SignatureFile
folder = Path(sys.argv[1])
file = SignatureFile(folder)
file.write({"a" * 32: np.arange(512.0)})
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
file.write({f"{k:032x}": np.arange(512.0) for k in range(100)})
print(len(file.read([*(f"{k:032x}" for k in range(100)), "a" * 32])))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
file.write({f"{k:032x}": np.arange(512.0) for k in range(100)})
print(len(SignatureFile(folder).read([*(f"{k:032x}" for k in range(100)), "a" * 32])))
"""


def test_a_full_disk_costs_only_what_did_not_fit(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="only Unix can limit the size of files")
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert process.stdout.split() == ["1", "101"]
    assert process.stderr.count("cannot be used now") == 1


READ_ONLY = """
import sys
from pathlib import Path
import numpy as np
from carlos_core.clip.signature_file import SignatureFile
file = SignatureFile(Path(sys.argv[1]))
print(len(file.read([f"{k:032x}" for k in range(5)])))
file.write({f"{k:032x}": np.arange(512.0) for k in range(5)})
file.write({f"{k:032x}": np.arange(512.0) for k in range(5)})
print(len(file.read([f"{k:032x}" for k in range(5)])), file.usage()[0])
"""


def test_a_folder_that_cannot_be_written_is_read_and_said_once(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("No file system can be mounted here (unshare -rm): the read-only folder is NOT tested.")
    file = SignatureFile(tmp_path)
    file.write(vectors(1, 2, 3))
    # Read on a later day, it would be noted that they were used.
    used_days_ago(file.path, 1, 1, 2, 3)
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", mount, str(tmp_path), sys.executable, "-c", READ_ONLY, str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert process.stdout.split() == ["3", "3", "3"]
    assert process.stderr.count("cannot be used now") == 1

"""Temporary files and permissions: those of killed writers go, those in use stay, and names, owners and modes are kept."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carlos_core import storage
from carlos_core.database.database import MetricsDatabase, create_database, load_database, upsert_into_file
from carlos_core.errors import DatabaseError
from carlos_core.measuring.kept_facts import KeptFacts
from carlos_core.storage import holding, locked, move_as_new, write_atomically
from tests.support.rows import a_row, old_file

KILLED = """
import os, signal, sys
from pathlib import Path
from carlos_core.storage import write_atomically

def write(path):
    path.write_text("half a")
    os.kill(os.getpid(), signal.SIGKILL)

write_atomically(Path(sys.argv[1]), write, is_cache=sys.argv[2] == "cache")
"""

WAITING = """
import sys
from pathlib import Path
from carlos_core.storage import write_atomically

def write(path):
    path.write_text("theirs")
    print("writing", flush=True)
    sys.stdin.readline()

write_atomically(Path(sys.argv[1]), write)
"""

LONGEST = "名" * 82 + ".parquet"
"""A name of 254 bytes; file systems take 255."""

unix = pytest.mark.skipif(
    os.name == "nt", reason="Windows knows neither SIGKILL nor these permissions, and other limits of names"
)


def temporary_files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.suffix == ".tmp"]


def kill_a_writer_of(path: Path, kind: str = "file") -> None:
    run = subprocess.run([sys.executable, "-c", KILLED, str(path), kind], check=False)
    assert run.returncode == -signal.SIGKILL
    assert temporary_files(path.parent)


@unix
def test_what_a_killed_writer_has_left_goes_with_the_next_write_of_whatever_file(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        kill_a_writer_of(tmp_path / name)
    write_atomically(tmp_path / "a.json", lambda path: path.write_text("whole"))
    assert temporary_files(tmp_path) == []
    assert (tmp_path / "a.json").read_text() == "whole"
    assert not (tmp_path / "b.json").exists()


@unix
def test_what_a_killed_writer_of_cached_files_has_left_goes_with_the_next_process(tmp_path: Path) -> None:
    kill_a_writer_of(tmp_path / "facts.json", "cache")
    KeptFacts(tmp_path / "facts.json").keep("a", 1)
    assert temporary_files(tmp_path) == []


def test_a_file_that_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    other = subprocess.Popen([sys.executable, "-c", WAITING, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "writing\n"
    write_atomically(path, lambda file: file.write_text("ours"))
    assert path.read_text() == "ours"
    other.communicate("go on\n", timeout=60)
    assert other.returncode == 0
    assert path.read_text() == "theirs"
    assert temporary_files(tmp_path) == []


def test_temporary_files_of_another_machine_are_left_alone_for_ten_minutes(tmp_path: Path) -> None:
    left = tmp_path / ".a.json.carlos-01234567-89abcdef.tmp"
    left.write_text("half a")
    write_atomically(tmp_path / "a.json", lambda path: path.write_text("whole"))
    assert left.exists()
    os.utime(left, (time.time() - 3600,) * 2)
    write_atomically(tmp_path / "a.json", lambda path: path.write_text("whole"))
    assert not left.exists()


def test_files_of_other_programs_are_never_taken_for_ours(tmp_path: Path) -> None:
    names = [
        ".a.json.tmp",
        ".notes.tmp",
        "a.json.carlos-01234567-89abcdef.tmp",
        ".b.json.0123abc_.tmp",
        ".carlos-01234567-89abcdef",
    ]
    for name in names:
        (tmp_path / name).write_text("theirs")
        os.utime(tmp_path / name, (time.time() - 3600,) * 2)
    write_atomically(tmp_path / "a.json", lambda path: path.write_text("whole"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "a.json"])


@pytest.mark.parametrize(
    ("name", "value", "age_s"),
    [
        # As on Windows, where a finished file is closed before it is renamed, and an open one cannot be removed.
        ("fcntl", None, 60),
        # As on network drives of Linux (SMB), none of which can be had here: through another handle they refuse a locked file.
        pytest.param("_can_be_written", lambda path: False, 3600, marks=unix),
    ],
)
def test_where_no_lock_marks_a_temporary_file_time_protects_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object, age_s: int
) -> None:
    monkeypatch.setattr(storage, name, value)
    left: list[Path] = []

    def write(path: Path) -> None:
        left.append(path)
        path.write_text("whole")

    write_atomically(tmp_path / "a.json", write)
    assert (tmp_path / "a.json").read_text() == "whole"
    assert temporary_files(tmp_path) == []
    left[0].write_text("another process is writing this")
    write_atomically(tmp_path / "a.json", write)
    assert left[0].exists()
    os.utime(left[0], (time.time() - age_s,) * 2)
    write_atomically(tmp_path / "a.json", write)
    assert temporary_files(tmp_path) == []


@pytest.mark.parametrize("name", [LONGEST, pytest.param("x" * 247 + ".parquet", marks=unix)])
def test_names_as_long_as_the_file_system_takes_can_be_saved_and_changed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    create_database(MetricsDatabase.empty("some encoder", 4), path)
    upsert_into_file(path, a_row("one"), {})
    database = load_database(path)
    database.upsert(a_row("two"))
    upsert_into_file(path, a_row("three"), {})
    database.save_parquet(path)
    assert load_database(path).column("lora_id") == ["one", "three", "two"]
    KeptFacts(path.with_suffix(".json")).keep("a", 1)
    assert KeptFacts(path.with_suffix(".json")).get("a") == 1
    assert temporary_files(tmp_path) == []


def test_two_long_names_that_begin_alike_have_two_locks(tmp_path: Path) -> None:
    with locked(tmp_path / ("x" * 200 + "a")), locked(tmp_path / ("x" * 200 + "b")):
        assert len(list(tmp_path.glob(".*.lock"))) == 2


@unix
def test_a_name_that_no_file_system_takes_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="cannot be opened") as caught:
        load_database(tmp_path / ("x" * 300))
    assert caught.value.hint
    with pytest.raises(DatabaseError, match="could not be saved"):
        MetricsDatabase.empty("some encoder", 4).save_parquet(tmp_path / ("x" * 300))
    assert temporary_files(tmp_path) == []


@unix
def test_a_private_file_stays_private_while_it_is_written_and_a_new_one_is_as_the_user_wants(tmp_path: Path) -> None:
    modes: list[int] = []
    path = tmp_path / "a.json"

    def write(file: Path) -> None:
        modes.append(stat.S_IMODE(file.stat().st_mode))
        file.write_text("whole")

    before = os.umask(0o027)
    try:
        write_atomically(path, write)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        write_atomically(path, write)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert modes == [0o640, 0o600]


@unix
def test_who_owned_a_file_owns_it_still_when_root_has_saved_it(tmp_path: Path) -> None:
    """As in a container that runs as root on a user's folder."""
    old_file(tmp_path / "a.parquet")
    if os.geteuid():
        pytest.skip("Only root can give files away.")
    os.chown(tmp_path / "a.parquet", 1234, 2345)
    (tmp_path / "a.parquet").chmod(0o600)
    upsert_into_file(tmp_path / "a.parquet", a_row("new"), {})
    facts = (tmp_path / "a.parquet").stat()
    assert (facts.st_uid, facts.st_gid, stat.S_IMODE(facts.st_mode)) == (1234, 2345, 0o600)


def test_a_file_is_never_moved_over_another_one(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")
    (tmp_path / "there").write_text("there")
    (tmp_path / "link").symlink_to("nowhere")
    for taken in ("there", "link"):
        with pytest.raises(FileExistsError):
            move_as_new(tmp_path / "new", tmp_path / taken)
    move_as_new(tmp_path / "new", tmp_path / "free")
    assert (tmp_path / "free").read_text() == "new"
    assert (tmp_path / "there").read_text() == "there"
    assert not (tmp_path / "new").exists()


@unix
def test_the_lock_of_a_download_is_never_held_by_two(tmp_path: Path) -> None:
    """Each removes it when it is done; the next one must not hold a file that is no longer there."""
    command = [sys.executable, "-c", TAKING_TURNS, str(tmp_path / "a.part")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in both] == ["100\n"] * 3
    assert (tmp_path / "count").read_text() == "300"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["count"]


TAKING_TURNS = """
import os, sys
from pathlib import Path
import carlos_core.partial_file as partial_file
partial_file._LOCK_TIMEOUT_S = 50
part = partial_file.PartialFile(Path(sys.argv[1]), 10)
count = part.path.with_name("count")
done = 0
while done < 100:
    with part.locked():
        # Two at once would count to less than 300, or meet here.
        mine = os.open(part.path.with_name("inside"), os.O_CREAT | os.O_EXCL)
        os.close(mine)
        count.write_text(str(int(count.read_text() if count.exists() else 0) + 1))
        part.path.with_name("inside").unlink()
    done += 1
print(done)
"""


def test_a_lock_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of ours"), holding(tmp_path / "lock", 0):
        raise ValueError("of ours")
    with holding(tmp_path / "lock", 0):
        pass

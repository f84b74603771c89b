"""Database files under a full disk, a kill and two writers at once: whole at every moment, and nothing lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from carlos_core.database.database import MetricsDatabase, change_database, create_database, load_database, upsert_into_file
from carlos_core.errors import DatabaseError
from tests.support.rows import a_row, old_file

PREPARE = """
import sys
import numpy as np
from carlos_core.database.database import MetricsDatabase, upsert_into_file
from carlos_core.database.published import copy_bundled_database
from carlos_core.errors import DatabaseError
from carlos_core.records import LoraRecord

def record(name, strength, dimension):
    direction = np.random.default_rng(int(strength)).normal(size=dimension).astype(np.float32)
    return LoraRecord(lora_id=name, direction=direction, strength=strength, consistency=0.2)

path = sys.argv[1]
"""

FULL_DISK = """
import resource
large = MetricsDatabase.empty("some encoder", 4096)
for row in range(20):
    large.upsert(record(str(row), row, 4096))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for attempt in (
    lambda: large.save_parquet(path),
    lambda: copy_bundled_database(path, overwrite=True),
    lambda: large.save_parquet(path + ".new"),
):
    try:
        attempt()
    except DatabaseError as error:
        print(error)
"""

TWO_WRITERS = """
import os
from pathlib import Path
for name in ("left", "right"):
    if os.fork() == 0:
        for row in range(10):
            upsert_into_file(Path(path), record(f"{name} {row}", row, 4), {})
        os._exit(0)
sys.exit(any([os.wait()[1] for _ in range(2)]))
"""

SAVERS_FOR_EVER = """
import os
import time
end = time.monotonic() + 60
states = [MetricsDatabase.empty("some encoder", 256) for _ in range(2)]
for row in range(40):
    states[0].upsert(record(str(row), 1, 256))
    states[1].upsert(record(str(row), 2, 256))
for file in sys.argv[1:]:
    states[0].save_parquet(file)
    saver = os.fork()
    if saver == 0:
        turn = 0
        while time.monotonic() < end:
            turn += 1
            states[turn % 2].save_parquet(file)
        os._exit(0)
    print(saver, flush=True)
for _ in sys.argv[1:]:
    print(*os.wait(), flush=True)
"""

READERS_AND_A_SAVER = """
import os
import time
end = time.monotonic() + 4
states = [MetricsDatabase.empty("some encoder", 64) for _ in range(2)]
for rows, state in enumerate(states, start=1):
    for row in range(20 * rows):
        state.upsert(record(str(row), rows, 64))
states[0].save_parquet(path)
if os.fork() == 0:
    turn = 0
    while time.monotonic() < end:
        turn += 1
        MetricsDatabase(states[turn % 2].table, encoder_id="some encoder").save_parquet(path)
    os._exit(0)
from carlos_core.database.database import load_database
loads = 0
while time.monotonic() < end:
    strengths = load_database(path).column("strength")
    assert strengths == [len(strengths) // 20] * len(strengths), strengths
    loads += 1
assert os.wait()[1] == 0
print(loads)
"""

SAVERS_OF_ALL_KINDS = """
import os
import time
from pathlib import Path
end = time.monotonic() + 3
names = [path, path, path + ".b", path + ".abcdefgh"]
whole = MetricsDatabase.empty("some encoder", 256)
for row in range(40):
    whole.upsert(record(str(row), 1, 256))
for name in names:
    whole.save_parquet(name)
for place, name in enumerate(names):
    if os.fork() == 0:
        while time.monotonic() < end:
            if place % 2:
                upsert_into_file(Path(name), record("0", 2, 256), {})
            else:
                MetricsDatabase(whole.table, encoder_id="some encoder").save_parquet(name)
        os._exit(0)
sys.exit(any([os.wait()[1] for _ in names]))
"""

LOADED_IN_TWO = """
from carlos_core.database.database import load_database
mine = load_database(path)
mine.upsert(record("mine", 1, 4), {})
mine.set_value("old", "model_name", "named by me")
print("loaded", flush=True)
sys.stdin.readline()
mine.save_parquet(path)
mine.upsert(record("mine too", 2, 4), {})
mine.save_parquet(path)
print(len(mine), flush=True)
"""


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked here, to start them at once")


def start(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PREPARE + script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="only Unix can limit the size of files")
    before = old_file(tmp_path / "a.parquet")
    process = start(FULL_DISK, tmp_path / "a.parquet")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output.count("could not be saved") == 3, output
    assert output.count("the old file is untouched. Free some disk space") == 3, output
    assert "a.parquet.new" in output.splitlines()[2]
    assert (tmp_path / "a.parquet").read_bytes() == before
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == [tmp_path / "a.parquet"]


@needs_fork
def test_two_processes_that_write_at_once_lose_no_row(tmp_path: Path) -> None:
    old_file(tmp_path / "a.parquet")
    writers = start(TWO_WRITERS, tmp_path / "a.parquet")
    writers.communicate(timeout=60)
    assert writers.returncode == 0
    expected = {"old"} | {f"{name} {row}" for name in ("left", "right") for row in range(10)}
    assert set(load_database(tmp_path / "a.parquet").column("lora_id")) == expected


@needs_fork
def test_a_process_killed_while_it_saves_leaves_a_whole_file(tmp_path: Path) -> None:
    paths = [tmp_path / str(k) / "a.parquet" for k in range(4)]
    launcher = start(SAVERS_FOR_EVER, *paths)
    assert launcher.stdout is not None
    savers = [int(launcher.stdout.readline()) for _ in paths]
    moments = random.Random(31)
    for saver in savers:
        time.sleep(moments.uniform(0.02, 0.2))
        os.kill(saver, signal.SIGKILL)
    ended, _ = launcher.communicate(timeout=60)
    assert sorted(ended.splitlines()) == sorted(f"{saver} {signal.SIGKILL:d}" for saver in savers)
    for path in paths:
        saved = load_database(path)
        strength = saved.column("strength")[0]
        direction = np.random.default_rng(int(strength)).normal(size=256).astype(np.float32)
        assert saved.column("strength") == [strength] * 40
        np.testing.assert_array_equal(saved.ranking_arrays.directions.numpy(), np.tile(direction, (40, 1)))


def test_saving_over_a_file_keeps_its_permissions(tmp_path: Path) -> None:
    old_file(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").chmod(0o640)
    load_database(tmp_path / "a.parquet").save_parquet(tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_mode & 0o777 == 0o640


def test_a_change_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    before = old_file(tmp_path / "a.parquet")
    with pytest.raises(DatabaseError, match="shape"):
        upsert_into_file(tmp_path / "a.parquet", a_row("b", [1, 2]), {})
    assert (tmp_path / "a.parquet").read_bytes() == before


def test_a_change_sees_what_others_have_saved_since(tmp_path: Path) -> None:
    old_file(tmp_path / "a.parquet")
    stale = load_database(tmp_path / "a.parquet")
    upsert_into_file(tmp_path / "a.parquet", a_row("theirs", protocol_id="p"), {"preset": "quick"})
    saved = change_database(tmp_path / "a.parquet", lambda database: database.upsert(a_row("ours")))
    assert len(stale) == 1
    assert saved.column("lora_id") == ["old", "theirs", "ours"]
    assert load_database(tmp_path / "a.parquet").table.equals(saved.table)
    assert saved.protocols == {"p": {"preset": "quick"}}


def test_a_new_database_never_replaces_a_file(tmp_path: Path) -> None:
    empty = MetricsDatabase.empty("some encoder", dimension=4)
    created = create_database(empty, tmp_path / "new folder" / "a.parquet")
    assert (len(created), created.path) == (0, tmp_path / "new folder" / "a.parquet")
    before = old_file(tmp_path / "b.parquet")
    with pytest.raises(DatabaseError, match=r"b\.parquet exists already"):
        create_database(empty, tmp_path / "b.parquet")
    assert (tmp_path / "b.parquet").read_bytes() == before


def test_a_folder_that_cannot_be_made_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DatabaseError, match="could not be saved") as caught:
        MetricsDatabase.empty("some encoder", dimension=4).save_parquet(tmp_path / "file" / "a.parquet")
    assert "permissions" in caught.value.hint


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="no layout 'csv'"):
        MetricsDatabase.empty("some encoder", dimension=4).save_parquet(tmp_path / "a.parquet", layout="csv")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_used_is_said_as_such(tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("no folder")
    with pytest.raises(DatabaseError, match=r"new\.parquet could not be saved .*Free some disk space or check the folder"):
        create_database(MetricsDatabase.empty("some encoder", 4), tmp_path / "a file" / "new.parquet")


@needs_fork
def test_who_opens_a_database_while_another_process_saves_gets_one_whole_version(tmp_path: Path) -> None:
    run = start(READERS_AND_A_SAVER, tmp_path / "a.parquet")
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 0
    assert int(output) > 5


@needs_fork
def test_who_saves_leaves_the_temporary_files_of_others_alone(tmp_path: Path) -> None:
    savers = start(SAVERS_OF_ALL_KINDS, tmp_path / "a.parquet")
    savers.communicate(timeout=60)
    assert savers.returncode == 0


def test_what_a_killed_process_has_left_is_removed_by_a_later_saving(tmp_path: Path) -> None:
    left = [tmp_path / ".a.parquet.0123abc_.tmp", tmp_path / ".a.parquet.b.0123abc_.tmp", tmp_path / ".notes.tmp"]
    for path in left:
        path.write_bytes(b"half a file")
    old_file(tmp_path / "a.parquet")
    # They may be somebody's who is just writing.
    assert [path.exists() for path in left] == [True, True, True]
    for path in left:
        os.utime(path, (time.time() - 3600,) * 2)
    old_file(tmp_path / "a.parquet")
    assert [path.exists() for path in left] == [False, True, True]


def test_two_processes_that_loaded_the_same_file_both_keep_their_rows(tmp_path: Path) -> None:
    old_file(tmp_path / "a.parquet")
    other = start(LOADED_IN_TWO, tmp_path / "a.parquet")
    assert other.stdout is not None
    assert other.stdout.readline() == "loaded\n"
    ours = load_database(tmp_path / "a.parquet")
    ours.upsert(a_row("ours", protocol_id="p"), {"preset": "quick"})
    ours.save_parquet(tmp_path / "a.parquet")
    output, _ = other.communicate("go on\n", timeout=60)
    assert (other.returncode, output) == (0, "4\n")
    both = load_database(tmp_path / "a.parquet")
    assert both.column("lora_id") == ["old", "ours", "mine", "mine too"]
    assert both.column("model_name") == ["named by me", None, None, None]
    assert both.protocols == {"p": {"preset": "quick"}}


def test_a_database_that_nobody_else_changed_is_not_read_again_when_it_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_file(tmp_path / "a.parquet")
    ours = load_database(tmp_path / "a.parquet")
    monkeypatch.setattr(MetricsDatabase, "rebase", lambda *_: pytest.fail("nobody has changed the file"))
    for name in ("one", "two"):
        ours.upsert(a_row(name))
        ours.save_parquet(tmp_path / "a.parquet")
    change_database(tmp_path / "a.parquet", lambda database: database.upsert(a_row("three"))).save_parquet(tmp_path / "a.parquet")
    assert load_database(tmp_path / "a.parquet").column("lora_id") == ["old", "one", "two", "three"]


def test_a_copy_of_a_changed_database_brings_its_changes_to_the_file_as_it_is_now(tmp_path: Path) -> None:
    old_file(tmp_path / "a.parquet")
    changed = load_database(tmp_path / "a.parquet")
    changed.upsert(a_row("ours"))
    upsert_into_file(tmp_path / "a.parquet", a_row("theirs"), {})
    changed.copy().save_parquet(tmp_path / "a.parquet")
    assert load_database(tmp_path / "a.parquet").column("lora_id") == ["old", "theirs", "ours"]


def test_a_file_that_became_a_database_of_another_encoder_is_not_overwritten(tmp_path: Path) -> None:
    old_file(tmp_path / "a.parquet")
    ours = load_database(tmp_path / "a.parquet")
    MetricsDatabase.empty("another encoder", dimension=8).save_parquet(tmp_path / "a.parquet")
    before = (tmp_path / "a.parquet").read_bytes()
    with pytest.raises(DatabaseError, match=r"a\.parquet is another database by now, of the encoder another encoder"):
        ours.save_parquet(tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == before


def test_saving_to_another_place_overwrites_what_is_there(tmp_path: Path) -> None:
    old_file(tmp_path / "a.parquet")
    upsert_into_file(tmp_path / "a.parquet", a_row("theirs"), {})
    MetricsDatabase.empty("some encoder", dimension=4).save_parquet(tmp_path / "a.parquet")
    assert len(load_database(tmp_path / "a.parquet")) == 0


@pytest.mark.parametrize("save", ["save_parquet", "upsert_into_file"])
def test_behind_a_link_the_target_is_written_and_the_link_stays(tmp_path: Path, save: str) -> None:
    (tmp_path / "drive").mkdir()
    old_file(tmp_path / "drive" / "real.parquet")
    (tmp_path / "near.parquet").symlink_to("drive/real.parquet")
    (tmp_path / "far.parquet").symlink_to(tmp_path / "near.parquet")
    if save == "save_parquet":
        database = load_database(tmp_path / "far.parquet")
        database.upsert(a_row("new"))
        database.save_parquet(tmp_path / "far.parquet")
    else:
        upsert_into_file(tmp_path / "far.parquet", a_row("new"), {})
    assert (tmp_path / "far.parquet").readlink() == tmp_path / "near.parquet"
    assert (tmp_path / "near.parquet").readlink() == Path("drive/real.parquet")
    assert load_database(tmp_path / "drive" / "real.parquet").column("lora_id") == ["old", "new"]


def test_two_names_of_one_file_share_its_lock(tmp_path: Path) -> None:
    (tmp_path / "drive").mkdir()
    old_file(tmp_path / "drive" / "real.parquet")
    (tmp_path / "link.parquet").symlink_to("drive/real.parquet")
    upsert_into_file(tmp_path / "link.parquet", a_row("new"), {})
    assert [path.name for path in tmp_path.rglob("*.lock")] == [".real.parquet.lock"]


def test_a_link_to_a_drive_that_is_not_there_makes_no_folders(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").symlink_to(tmp_path / "drive" / "loras" / "a.parquet")
    for write in (
        MetricsDatabase.empty("some encoder", dimension=4).save_parquet,
        lambda path: upsert_into_file(path, a_row("a"), {}),
    ):
        with pytest.raises(DatabaseError, match="could not be saved"):
            write(tmp_path / "a.parquet")
    assert not (tmp_path / "drive").exists()
    (tmp_path / "drive" / "loras").mkdir(parents=True)
    MetricsDatabase.empty("some encoder", dimension=4).save_parquet(tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").is_symlink()
    assert (tmp_path / "drive" / "loras" / "a.parquet").is_file()

"""Database files under a full disk, a kill and two writers at once: whole at every moment, and nothing lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import mini
import numpy as np
import pytest

from carlos_core.database import MetricsDatabase, change_database, create_database, load_database, upsert_into_file
from carlos_core.errors import DatabaseError

PREPARE = """
import sys
import numpy as np
from carlos_core.database import MetricsDatabase, copy_bundled_database, upsert_into_file
from carlos_core.errors import DatabaseError
from carlos_core.types import LoraRecord

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
sys.exit(max(os.wait()[1] for _ in range(2)))
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


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked here, to start them at once")


def start(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PREPARE + script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def old_file(path: Path) -> bytes:
    database = MetricsDatabase.empty("some encoder", dimension=4)
    database.upsert(mini.record("old"))
    database.save_parquet(path)
    return path.read_bytes()


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
    assert list(tmp_path.iterdir()) == [tmp_path / "a.parquet"]


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
        upsert_into_file(tmp_path / "a.parquet", mini.record("b", [1, 2]), {})
    assert (tmp_path / "a.parquet").read_bytes() == before


def test_a_change_sees_what_others_have_saved_since(tmp_path: Path) -> None:
    old_file(tmp_path / "a.parquet")
    stale = load_database(tmp_path / "a.parquet")
    upsert_into_file(tmp_path / "a.parquet", mini.record("theirs", protocol_id="p"), {"preset": "quick"})
    saved = change_database(tmp_path / "a.parquet", lambda database: database.upsert(mini.record("ours")))
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

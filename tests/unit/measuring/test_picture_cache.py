"""The limit of the pictures' cache: what was not used for longest goes first, and never what a measurement needs."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from carlos_core.database.database import MetricsDatabase
from carlos_core.database.target import InMemory
from carlos_core.measuring import picture_cache
from carlos_core.measuring.contact_sheet import keep_thumbnail
from carlos_core.measuring.feature_store import FeatureStore, mean_features
from carlos_core.measuring.in_use import stems_in_use, unless_in_use
from carlos_core.measuring.outcome import ALREADY_INDEXED
from tests.support.bench import Bench, assert_same_bits, indexer_of
from tests.support.drawing_generator import DrawingGenerator

ROOT = Path(__file__).parents[3]
LONG_AGO = time.time() - 1_000_000


def unit(cache: Path, name: str, *, hours_ago: float, folder: str = "loras", pictures: int = 10) -> FeatureStore:
    """A complete journal of some pictures with a thumbnail, last used so many hours ago: 4.1 kB of features a picture."""
    store = FeatureStore(cache / folder, {"encoder": "clip", "lora": name}, 1024)
    store.begin()
    if pictures:
        store.append([(name, k, np.full(1024, k, np.float32), 1) for k in range(pictures)])
        keep_thumbnail(store, name, 0, picture())
        store.mark_complete()
    used = time.time() - 3600 * hours_ago
    os.utime(store.path, (used, used))
    return store


def picture() -> torch.Tensor:
    return torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(0))


def left(cache: Path) -> set[str]:
    """Everything that is left in a cache but for locks and empty folders."""
    return {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"}


def files_of(store: FeatureStore, cache: Path) -> set[str]:
    stem = store.path.relative_to(cache).with_suffix("").as_posix()
    return {name for name in left(cache) if name.startswith(stem)}


def size_of(cache: Path) -> int:
    return sum(found.whole_size for found in picture_cache.units(cache))


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No room beyond what is in use; and what changes that."""
    monkeypatch.setenv(picture_cache.VARIABLE, "0")
    return monkeypatch


def set_limit(limit: pytest.MonkeyPatch, size: float) -> None:
    limit.setenv(picture_cache.VARIABLE, repr(size / 1e9))


def test_what_was_not_used_for_longest_goes_first_and_as_a_whole(tmp_path: Path, limit: pytest.MonkeyPatch) -> None:
    stores = {
        "b": unit(tmp_path, "b", hours_ago=3),
        "d": unit(tmp_path, "d", hours_ago=1, folder="base"),
        "a": unit(tmp_path, "a", hours_ago=4, folder="trials/base"),
        "c": unit(tmp_path, "c", hours_ago=2, folder="trials/loras"),
    }
    kept = files_of(stores["c"], tmp_path) | files_of(stores["d"], tmp_path)
    assert len(kept) == 2 * 3
    set_limit(limit, size_of(tmp_path) / 2)
    picture_cache.trim(tmp_path)
    assert left(tmp_path) == kept
    # Locks too.
    assert sorted(path.name for path in tmp_path.rglob(".*.journal.lock")) == sorted(
        f".{stores[name].path.name}.lock" for name in "cd"
    )


def test_within_the_limit_nothing_goes(tmp_path: Path, limit: pytest.MonkeyPatch) -> None:
    for k in range(3):
        unit(tmp_path, str(k), hours_ago=k)
    before = left(tmp_path)
    set_limit(limit, size_of(tmp_path))
    picture_cache.trim(tmp_path)
    assert left(tmp_path) == before
    set_limit(limit, size_of(tmp_path) - 1)
    picture_cache.trim(tmp_path)
    assert len(before) - len(left(tmp_path)) == 3


def test_thumbnails_count(tmp_path: Path, limit: pytest.MonkeyPatch) -> None:
    store = unit(tmp_path, "a", hours_ago=2)
    other = unit(tmp_path, "b", hours_ago=1)
    (store.thumbnails / "large.png").write_bytes(bytes(1_000_000))
    set_limit(limit, 900_000)
    picture_cache.trim(tmp_path)
    assert left(tmp_path) == files_of(other, tmp_path)


def test_a_search_by_picture_counts_as_use_and_a_look_does_not(tmp_path: Path, limit: pytest.MonkeyPatch) -> None:
    looked_at = unit(tmp_path, "a", hours_ago=9)
    searched = unit(tmp_path, "b", hours_ago=8, folder="base")
    other = unit(tmp_path, "c", hours_ago=1)
    FeatureStore(looked_at.path.parent, {"encoder": "clip", "lora": "a"}, 1024).hold()
    assert mean_features(tmp_path / "base", "clip") is not None
    set_limit(limit, size_of(tmp_path) * 0.7)
    picture_cache.trim(tmp_path)
    assert left(tmp_path) == files_of(searched, tmp_path) | files_of(other, tmp_path)
    set_limit(limit, size_of(tmp_path) * 0.7)
    picture_cache.trim(tmp_path)
    assert left(tmp_path) == files_of(searched, tmp_path)


def test_a_measurement_that_makes_no_picture_counts_as_use_and_a_row_that_is_known_does_not(
    bench: Bench, limit: pytest.MonkeyPatch
) -> None:
    limit.delenv(picture_cache.VARIABLE)
    measured, known = bench.lora("red.safetensors"), bench.lora("blue.safetensors", tint=(0, 0, 1))
    indexer = indexer_of(bench, DrawingGenerator())
    for lora in (known, measured):
        indexer.index(lora)
    for path in (bench.folder / "work").glob("*/*.journal"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    replace(indexer, target=InMemory(MetricsDatabase.empty(bench.encoder.encoder_id, 64))).index(measured)
    assert indexer.index(known).status == ALREADY_INDEXED
    used = sorted((found.kind, found.used > LONG_AGO + 1) for found in picture_cache.units(bench.folder / "work"))
    assert used == [("base", True), ("loras", False), ("loras", True)]


def test_what_is_held_stays_until_it_is_let_go_without_the_garbage_collector(tmp_path: Path, limit: pytest.MonkeyPatch) -> None:
    unit(tmp_path, "a", hours_ago=5)
    held = FeatureStore(tmp_path / "loras", {"encoder": "clip", "lora": "a"}, 1024)
    held.hold()
    before = left(tmp_path)
    picture_cache.trim(tmp_path)
    assert left(tmp_path) == before
    assert stems_in_use(tmp_path / "loras") == {held.path.stem}
    gc.disable()
    try:
        del held
        assert stems_in_use(tmp_path / "loras") == set()
    finally:
        gc.enable()
    picture_cache.trim(tmp_path)
    assert left(tmp_path) == set()


def test_what_two_hold_stays_until_both_have_let_go(tmp_path: Path, limit: pytest.MonkeyPatch) -> None:
    unit(tmp_path, "a", hours_ago=5)
    one, other = (FeatureStore(tmp_path / "loras", {"encoder": "clip", "lora": "a"}, 1024) for _ in range(2))
    one.hold()
    other.hold()
    del one
    picture_cache.trim(tmp_path)
    assert left(tmp_path)
    del other
    picture_cache.trim(tmp_path)
    assert not left(tmp_path)


def test_an_empty_journal_goes_unless_it_was_just_begun(tmp_path: Path) -> None:
    unit(tmp_path, "failed", hours_ago=5, pictures=0)
    begun = FeatureStore(tmp_path / "loras", {"encoder": "clip", "lora": "begun"}, 1024)
    begun.hold()
    begun.begin()
    # Small, and not empty.
    one = FeatureStore(tmp_path / "loras", {"encoder": "clip", "lora": "one"}, 2)
    one.append([("one", 0, np.zeros(2, np.float32), 1)])
    picture_cache.trim(tmp_path)
    assert left(tmp_path) == files_of(begun, tmp_path) | files_of(one, tmp_path)


def test_what_a_crash_has_left_goes_and_what_is_not_ours_stays(tmp_path: Path, limit: pytest.MonkeyPatch) -> None:
    store = unit(tmp_path, "a", hours_ago=1)
    store.path.unlink()
    foreign = ["loras/my own.journal", "loras/0123.journal", "loras/pictures/x.png", "other/" + store.path.name, "notes.json"]
    for name in foreign:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"mine")
    abandoned, new = tmp_path / ".speeds.json.abcd1234.tmp", tmp_path / ".speeds.json.abcd1235.tmp"
    abandoned.touch()
    new.touch()
    os.utime(abandoned, (LONG_AGO, LONG_AGO))
    picture_cache.trim(tmp_path)
    assert left(tmp_path) == {*foreign, new.name}


def test_the_rest_of_what_another_process_is_removing_goes_before_what_is_whole(
    tmp_path: Path, limit: pytest.MonkeyPatch
) -> None:
    whole, removed = unit(tmp_path, "whole", hours_ago=9), unit(tmp_path, "removed", hours_ago=1)
    # The folder of its thumbnails was changed a moment ago.
    removed.path.unlink()
    set_limit(limit, size_of(tmp_path) - 1)
    picture_cache.trim(tmp_path)
    assert files_of(whole, tmp_path)
    assert not files_of(removed, tmp_path)


def test_a_file_that_goes_while_the_mean_is_taken_is_left_out(tmp_path: Path) -> None:
    unit(tmp_path, "a", hours_ago=1, folder="base")
    expected = mean_features(tmp_path / "base", "clip")
    # Listed, and not there.
    (tmp_path / "base" / f"{'0' * 24}.journal").symlink_to("gone")
    found = mean_features(tmp_path / "base", "clip")
    assert expected is not None
    assert found is not None
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("value", "gigabytes"), [("", 10.0), ("2.5", 2.5), (" 3 ", 3.0), ("0", 0.0), ("inf", float("inf")), ("1e-3", 0.001)]
)
def test_the_limit_is_the_environments(monkeypatch: pytest.MonkeyPatch, value: str, gigabytes: float) -> None:
    monkeypatch.setenv(picture_cache.VARIABLE, value)
    assert picture_cache.limit() == pytest.approx(gigabytes * 1e9)
    monkeypatch.delenv(picture_cache.VARIABLE)
    assert picture_cache.limit() == 10e9


@pytest.mark.parametrize("value", ["ten", "10 GB", "nan", "-1"])
def test_a_limit_that_is_no_number_is_said_once_and_the_default_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    monkeypatch.setenv(picture_cache.VARIABLE, value)
    assert [picture_cache.limit() for _ in range(3)] == [10e9] * 3
    assert len(caplog.records) == 1
    assert f"CARLOS_CACHE_GB={value!r}" in caplog.text


def test_of_a_limit_of_nothing_a_measurement_keeps_what_it_needs_and_its_row_is_the_same(
    bench: Bench, limit: pytest.MonkeyPatch
) -> None:
    limit.delenv(picture_cache.VARIABLE)
    loras = [bench.lora(f"{name}.safetensors", tint=tint) for name, tint in (("red", (1, 0, 0)), ("blue", (0, 0, 1)))]
    expected = [bench.measure(lora, DrawingGenerator(), work="unlimited") for lora in loras]
    limit.setenv(picture_cache.VARIABLE, "0")
    for lora, one in zip(loras, expected, strict=True):
        assert_same_bits(bench.measure(lora, DrawingGenerator()), one)
    kept = [path.name for path in (bench.folder / "work").glob("*/*.journal")]
    # The second LoRA's, and none of the first's: the pictures without a LoRA were in use.
    assert len(kept) == 2
    again = bench.measure(loras[0], DrawingGenerator())
    assert_same_bits(again, expected[0])
    assert again.base_model_evaluations == 0


def test_an_unfinished_measurement_goes_on_where_it_stopped_however_long_ago(bench: Bench, limit: pytest.MonkeyPatch) -> None:
    lora = bench.lora()
    whole = bench.measure(lora, DrawingGenerator(), work="whole")

    class Cancelled(Exception):
        pass

    def cancel(_progress: object) -> None:
        if len(generator.lora_jobs) > 8:
            raise Cancelled

    generator = DrawingGenerator()
    with pytest.raises(Cancelled):
        bench.measure(lora, generator, on_progress=cancel)
    for path in (bench.folder / "work").glob("*/*.journal"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    generator = DrawingGenerator()
    assert_same_bits(bench.measure(lora, generator), whole)
    assert 0 < len(generator.lora_jobs) < 18
    assert generator.base_jobs == []


MEASURING = """
import sys
from pathlib import Path
from carlos_core.clip.loading import load_encoder
from tests.support import miniworld
from tests.support.bench import Bench
from tests.support.drawing_generator import DrawingGenerator

bench = Bench(Path(sys.argv[1]), load_encoder(miniworld.encoder_id(), [miniworld.MINIWORLD]))
said = False

def on_progress(progress):
    global said
    if progress.image is not None and not said:
        said = True
        print("the first pictures are kept", flush=True)
        sys.stdin.readline()

found = bench.measure(bench.lora(), DrawingGenerator(), on_progress=on_progress)
print(found.record.direction.tobytes().hex(), flush=True)
"""


@contextmanager
def measuring(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has made its first pictures in `folder`/work, and waits for a line to go on."""
    command = [sys.executable, "-c", MEASURING, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "the first pictures are kept\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_what_another_process_measures_stays_and_its_row_is_as_ever(bench: Bench, limit: pytest.MonkeyPatch) -> None:
    work = bench.folder / "work"
    with measuring(bench.folder) as process:
        old = unit(work, "old", hours_ago=1)
        for path in work.glob("*/*.journal"):
            os.utime(path, (LONG_AGO, LONG_AGO))
        before = left(work) - files_of(old, work)
        picture_cache.trim(work)
        assert left(work) == before
        assert "thumbs" in str(before)
        output, _ = process.communicate("go on\n", timeout=120)
    assert process.returncode == 0
    assert output.strip() == bench.measure(bench.lora(), DrawingGenerator(), work="alone").record.direction.tobytes().hex()
    picture_cache.trim(work)
    assert not [name for name in left(work) if "speeds" not in name]


def test_what_a_killed_process_has_left_can_go(bench: Bench, limit: pytest.MonkeyPatch) -> None:
    work = bench.folder / "work"
    with measuring(bench.folder) as process:
        process.kill()
        process.wait()
        # Its marks are still there.
        assert list(work.glob("*/in_use/*.lock"))
        picture_cache.trim(work)
    assert not [name for name in left(work) if "speeds" not in name]
    assert not list(work.glob("*/in_use/*.lock"))


def test_nobody_begins_to_need_what_is_just_being_removed(tmp_path: Path) -> None:
    store = unit(tmp_path, "a", hours_ago=1)
    happened: list[str] = []

    def hold() -> None:
        store.hold()
        happened.append("held")

    holding = threading.Thread(target=hold)
    with unless_in_use(store.path) as is_free:
        assert is_free
        holding.start()
        holding.join(0.3)
        happened.append("removed")
    holding.join(60)
    assert happened == ["removed", "held"]


APPENDING = """
import sys
from pathlib import Path
import numpy as np
from carlos_core.measuring.feature_store import FeatureStore
folder = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for round in range(15):
    store = FeatureStore(folder / "loras", {"encoder": "clip", "round": round % 3}, 64)
    store.hold()
    before = len(store)
    store.begin()
    for k in range(10):
        store.append([(f"{round}", k, np.full(64, k, np.float32), 1)])
    # Whoever opens it now finds all of it.
    assert len(FeatureStore(folder / "loras", {"encoder": "clip", "round": round % 3}, 64)) == before + 10, round
    del store
"""

TRIMMING = """
import sys
from pathlib import Path
from carlos_core.measuring import picture_cache
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    picture_cache.trim(Path(sys.argv[1]))
"""


def run_at_once(*commands: list[str], limit: str) -> None:
    """Let Python programs begin at the same time, with a limit of so many gigabytes, and succeed."""
    environment = {**os.environ, picture_cache.VARIABLE: limit}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        for command in commands
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), errors


def test_while_others_trim_all_the_time_no_picture_of_who_appends_is_lost(tmp_path: Path) -> None:
    folder = str(tmp_path)
    run_at_once([APPENDING, folder], [TRIMMING, folder, "300"], [TRIMMING, folder, "300"], limit="0")


def test_processes_that_trim_at_once_remove_no_more_than_one_would(tmp_path: Path) -> None:
    stores = [unit(tmp_path, f"{k:03}", hours_ago=100 - k, pictures=2) for k in range(60)]
    sizes = {found.journal: found.whole_size for found in picture_cache.units(tmp_path)}
    allowed = sum(sizes[store.path] for store in stores[25:])
    kept = {name for store in stores[25:] for name in files_of(store, tmp_path)}
    run_at_once(*[[TRIMMING, str(tmp_path), "1"]] * 4, limit=repr((allowed + 1) / 1e9))
    assert left(tmp_path) == kept


def test_a_folder_that_cannot_be_looked_through_is_a_line_in_the_log(
    tmp_path: Path, limit: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "loras").symlink_to("loras")
    picture_cache.trim(tmp_path)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be looked through" in caplog.text

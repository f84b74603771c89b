"""Processes that are killed (SIGKILL) while they write: at random moments, many times, real files.

Everything is imported once; each process that is killed is a fork, so that a kill costs some milliseconds. Called as
`python -m tests.support.kills FOLDER KIND KILLS SEED`; writes a line of JSON with what happened, or fails.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from carlos_core.database.database import MetricsDatabase, load_database, upsert_into_file
from carlos_core.loras.library_index import KnownFile, LibraryIndex
from carlos_core.measuring.feature_store import FeatureStore
from carlos_core.records import LoraMetadata
from tests.support.rows import a_row

OLDER = Path(__file__).parents[1] / "assets" / "older" / "older.parquet"

_ROWS = 40
"""Ids that writes go round: each is written again and again."""
_WIDTH = 64
_LONGEST_S = 0.06
_IN_ONE_CALL = frozenset({"features"})
"""What is written by a single call is never found half written."""
_MOST = 10
"""So many times the kills that were asked for are made, until one writer was in the middle of it."""
"""Within so much of its first moment of writing a process is killed."""


@dataclass(frozen=True)
class Kind:
    """A way of writing. Write number k (from 1) makes of the content after k - 1 writes that after k."""

    prepare: Callable[[Path], object]
    write: Callable[[Path, int], object]
    content: Callable[[Path], Any]
    """What a reader finds."""
    expected: Callable[[int], Any]
    """The content after so many writes."""


def _record(k: int) -> Any:
    direction = np.random.default_rng(k).normal(size=_WIDTH).astype(np.float32)
    return a_row(f"row {k % _ROWS}", direction, strength=float(k), sha256=f"{k % _ROWS:064x}")


def _empty_database(folder: Path) -> None:
    MetricsDatabase.empty("some encoder", _WIDTH).save_parquet(folder / "a.parquet")


def _upsert(folder: Path, k: int) -> None:
    upsert_into_file(folder / "a.parquet", _record(k), {})


def _save(folder: Path, k: int) -> None:
    database = load_database(folder / "a.parquet")
    database.upsert(_record(k), {})
    database.save_parquet(folder / "a.parquet")


def _strengths(folder: Path) -> dict[str, float]:
    database = load_database(folder / "a.parquet")
    ids, strengths = database.column("lora_id"), database.column("strength")
    assert len(ids) == len(set(ids)), "a row is there twice"
    for direction, strength in zip(database.column("direction"), strengths, strict=True):
        np.testing.assert_array_equal(np.asarray(direction, np.float32), _record(int(strength)).direction)
    return dict(zip(ids, strengths, strict=True))


def _latest(writes: int) -> dict[str, float]:
    return {f"row {k % _ROWS}": float(k) for k in range(1, writes + 1)}


def _journal(folder: Path, name: str = "journals") -> FeatureStore:
    return FeatureStore(folder / name, {"a": 1}, _WIDTH)


def _picture(k: int) -> tuple[str, int, np.ndarray, int]:
    return f"picture {k}", k, np.full(_WIDTH, k, np.float32), 1


def _keep(folder: Path, k: int) -> None:
    """Pictures are kept; every 10th comes by a merge with another journal, which is not cleared by every 40th."""
    if k % 40 == 0:
        _journal(folder).clear()
    elif k % 10 == 0:
        other = _journal(folder, "others")
        other.append([_picture(k)])
        _journal(folder).merge(other)
    else:
        _journal(folder).append([_picture(k)])
        if k % 5 == 0:
            _journal(folder).mark_complete()


def _pictures_after(writes: int) -> set[int]:
    since, merges = writes // 40 * 40, [k for k in range(10, writes + 1, 10) if k % 40]
    merged = {k for k in merges if k < since} if merges and merges[-1] > since else set()
    return merged | set(range(since + 1, writes + 1))


def _pictures(folder: Path) -> set[int]:
    journal = _journal(folder)
    found = {k for k in range(20 * 1000) if (entry := journal.get(f"picture {k}", k)) and (entry.features == k).all()}
    assert len(found) == len(journal)
    return found


def _index(folder: Path, k: int) -> None:
    file = KnownFile(f"/loras/{k % _ROWS}", 10, 20, "", str(k), LoraMetadata(trigger_words=("snow",)))
    LibraryIndex(folder / "index.sqlite").save([file])


def _hashes(folder: Path) -> dict[str, str | None]:
    known = LibraryIndex(folder / "index.sqlite").known([f"/loras/{k}" for k in range(_ROWS)])
    return {file.path: file.sha256 for file in known.values()}


def _older_index(folder: Path) -> None:
    LibraryIndex(folder / "index.sqlite").save(
        [KnownFile(f"/loras/{k}", 10, 20, "", f"{k}", LoraMetadata(trigger_words=())) for k in range(_ROWS)]
    )


def _migrate(folder: Path, k: int) -> None:
    """In turn: a database of older code and an index of an earlier version are put there, opened and saved."""
    if k % 2:
        shutil.copy(OLDER, folder / "put")
        os.replace(folder / "put", folder / "a.parquet")
        load_database(folder / "a.parquet").save_parquet(folder / "a.parquet")
    else:
        with closing(sqlite3.connect(folder / "index.sqlite", isolation_level=None)) as connection:
            connection.execute(f"PRAGMA user_version = {1 + k // 2 % 3}")
        LibraryIndex(folder / "index.sqlite").save([KnownFile("/loras/0", 10, 20, "", "0", LoraMetadata(trigger_words=()))])


def _put_older(folder: Path) -> None:
    shutil.copy(OLDER, folder / "a.parquet")
    _older_index(folder)


def _migrated(folder: Path) -> Any:
    return load_database(folder / "a.parquet").table.to_pylist(), _hashes(folder)


_OLDER_ROWS: list[dict[str, Any]] = load_database(OLDER).table.to_pylist()

KINDS = {
    "upsert": Kind(_empty_database, _upsert, _strengths, _latest),
    "save": Kind(_empty_database, _save, _strengths, _latest),
    "features": Kind(lambda folder: None, _keep, _pictures, _pictures_after),
    "index": Kind(
        lambda folder: None,
        _index,
        _hashes,
        lambda writes: {f"/loras/{k % _ROWS}": str(k) for k in range(1, writes + 1)},
    ),
    "migration": Kind(
        _put_older, _migrate, _migrated, lambda writes: (_OLDER_ROWS, {f"/loras/{k}": str(k) for k in range(_ROWS)})
    ),
}


def left_over(folder: Path) -> list[str]:
    """Names of temporary files."""
    return [path.name for path in folder.rglob("*") if path.name.endswith((".tmp", "-journal"))]


class _NoWarnings(logging.Handler):
    """Who is told by a warning that nothing was kept is not told that it was."""

    def emit(self, record: logging.LogRecord) -> None:
        if "unfinished record" not in record.getMessage():  # the rest of a killed writer's
            raise AssertionError(record.getMessage())


def _child(kind: Kind, folder: Path, done: int, tell: int) -> None:
    """Check what the last one has left, write once and check again, then write until killed. Tells a byte for each write."""
    found = kind.content(folder)
    assert found in (kind.expected(done), kind.expected(done + 1)), f"after {done} writes: {repr(found)[-500:]}"
    for k in range(done + 1, sys.maxsize):
        kind.write(folder, k)
        if k == done + 1:
            assert not left_over(folder), left_over(folder)
        os.write(tell, b".")


def run(name: str, folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill so many writers, and further ones until one was in the middle of a write, where that can be. Returns what was seen.

    Raises AssertionError for the first promise that was not kept.
    """
    kind, moments = KINDS[name], random.Random(seed)
    kind.prepare(folder)
    begin, done, torn, killed = time.monotonic(), 0, 0, 0
    while killed < kills or (not torn and name not in _IN_ONE_CALL and killed < _MOST * kills):
        killed += 1
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(told)
                _child(kind, folder, done, tell)
            except BaseException:  # the parent is to go on alone
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(tell)
        # Its first write is checked; then it may be killed at any moment.
        first = os.read(told, 1)
        time.sleep(moments.uniform(0, _LONGEST_S))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert first, f"{name}: a process broke a promise after {done} writes"
        assert os.WIFSIGNALED(status), f"{name}: a process ended by itself after {done} writes"
        while more := os.read(told, 4096):
            first += more
        os.close(told)
        done += len(first)
        torn += bool(left_over(folder))
    kind.write(folder, done + 1)
    assert kind.content(folder) == kind.expected(done + 1)
    assert not left_over(folder)
    seconds = round(time.monotonic() - begin, 1)
    return {"kind": name, "kills": killed, "writes": done, "in the middle of a write": torn, "seconds": seconds}


if __name__ == "__main__":
    logging.getLogger("carlos_core").addHandler(_NoWarnings(logging.WARNING))
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    place, wanted, n_kills, n = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    sys.stdout.write(json.dumps(run(wanted, place, n_kills, n)) + "\n")

"""Many processes that write one database file at once, in three ways, while one reads and some are killed (SIGKILL).

Called as `python -m tests.support.writers FOLDER WRITERS ROWS KILLS SEED`; writes a line of JSON, or fails.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from carlos_core.database.database import MetricsDatabase, load_database, upsert_into_file
from carlos_core.database.target import DatabaseFile
from tests.support.kills import left_over
from tests.support.rows import a_row

_BETWEEN_KILLS_S = (0.02, 0.25)


def _name(writer: int, k: int) -> str:
    return f"writer {writer}, row {k}"


def _write(path: Path, writer: int, k: int) -> None:
    record = a_row(_name(writer, k), [writer, k, 1, 1], strength=float(1000 * writer + k))
    if k % 3 == 0:
        upsert_into_file(path, record, {})
    elif k % 3 == 1:
        DatabaseFile(path).change(lambda database: database.upsert(record, {}))
    else:
        database = load_database(path)
        database.upsert(record, {})
        database.save_parquet(path)


def _write_rows(path: Path, writer: int, first: int, rows: int, tell: int) -> None:
    for k in range(first, rows):
        _write(path, writer, k)
        os.write(tell, b".")


def _read(path: Path, tell: int) -> None:
    """Load again and again: each time it is a whole version, and what was there is there."""
    known: set[str] = set()
    while True:
        ids = load_database(path).column("lora_id")
        assert len(ids) == len(set(ids)), "a row is there twice"
        assert known <= set(ids), f"{len(known - set(ids))} rows are gone"
        known = set(ids)
        os.write(tell, b".")


class _Process:
    """A fork that tells a byte for each thing done."""

    def __init__(self, work: Callable[[int], object]) -> None:
        self.told, tell = os.pipe()
        self.done = 0
        self.process_id = os.fork()
        if self.process_id == 0:
            code = 1
            try:
                work(tell)
                code = 0
            except BaseException:  # the parent is to go on alone
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(tell)

    def listen(self) -> bool:
        """Take in what it has told. Returns whether it is still there."""
        content = os.read(self.told, 65536)
        self.done += len(content)
        return bool(content)

    def end(self) -> int:
        """Wait for it. Returns how it ended, as `waitpid` says."""
        while self.listen():
            pass
        os.close(self.told)
        return os.waitpid(self.process_id, 0)[1]

    def kill(self) -> int:
        os.kill(self.process_id, signal.SIGKILL)
        return self.end()


def run(folder: Path, n_writers: int, rows: int, kills: int, seed: int) -> dict[str, Any]:
    """Let the writers write their rows. Returns what was seen; raises AssertionError for a promise that was not kept."""
    path, moments = folder / "a.parquet", random.Random(seed)
    MetricsDatabase.empty("some encoder", 4).save_parquet(path)
    begin = time.monotonic()
    reader = _Process(lambda tell: _read(path, tell))
    acknowledged, ends, torn = Counter[int](), Counter[int](), 0

    def started(writer: int) -> _Process:
        return _Process(lambda tell: _write_rows(path, writer, acknowledged[writer], rows, tell))

    writers = {writer: started(writer) for writer in range(n_writers)}
    next_kill = time.monotonic() + moments.uniform(*_BETWEEN_KILLS_S)
    while writers:
        ready, _, _ = select.select([process.told for process in writers.values()], [], [], 0.02)
        for writer in [writer for writer, process in writers.items() if process.told in ready]:
            if not writers[writer].listen():
                process = writers.pop(writer)
                assert process.end() == 0, f"writer {writer} failed"
                acknowledged[writer] += process.done
        if writers and ends[signal.SIGKILL] < kills and time.monotonic() > next_kill:
            writer = moments.choice(sorted(writers))
            process = writers.pop(writer)
            status = process.kill()
            ends[status] += 1
            acknowledged[writer] += process.done
            torn += bool(left_over(folder))
            writers[writer] = started(writer)
            next_kill = time.monotonic() + moments.uniform(*_BETWEEN_KILLS_S)
    seconds = time.monotonic() - begin
    reader.listen()
    assert os.WTERMSIG(reader.kill()) == signal.SIGKILL, "the reader ended by itself"
    database = load_database(path)
    expected = {_name(writer, k): float(1000 * writer + k) for writer in range(n_writers) for k in range(rows)}
    assert Counter(database.column("lora_id")) == Counter(list(expected)), "not every row is there exactly once"
    assert dict(zip(database.column("lora_id"), database.column("strength"), strict=True)) == expected
    assert all(count >= rows for count in acknowledged.values())
    upsert_into_file(path, a_row("one more"), {})
    assert not left_over(folder), left_over(folder)
    told = {"writers": n_writers, "rows": len(expected), "kills": ends[signal.SIGKILL], "loads": reader.done}
    return {**told, "temporary files seen": torn, "seconds": round(seconds, 1)}


if __name__ == "__main__":
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    sys.stdout.write(json.dumps(run(Path(sys.argv[1]), *map(int, sys.argv[2:6]))) + "\n")

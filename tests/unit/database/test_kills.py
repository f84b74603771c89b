"""Writers that are killed (SIGKILL) at random moments: what they said was done is there, once, and what they left behind goes.

`CARLOS_WRITER_KILLS=1000` kills 1,000 writers of each kind, and lets 8 processes write 200 rows each: see
benchmarks/results/crashes.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

KILLS = int(os.environ.get("CARLOS_WRITER_KILLS", "0"))
WRITERS = (8, 200, 200) if KILLS else (4, 12, 8)
"""How many processes write, how many rows each, and how often one of them is killed."""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked here: a kill costs milliseconds")


def told(module: str, *arguments: object) -> dict[str, Any]:
    """What a run in a process of its own tells. It has one thread, so that it can be forked."""
    command = [sys.executable, "-m", f"tests.support.{module}", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    sys.stdout.write(run.stdout)
    return json.loads(run.stdout)


@pytest.mark.parametrize("kind", ["upsert", "save", "features", "index", "migration"])
def test_what_a_killed_writer_had_finished_is_there_and_the_next_one_tidies_up(tmp_path: Path, kind: str) -> None:
    kills = KILLS or 15
    seen = told("kills", tmp_path, kind, kills, 7)
    assert seen["kills"] >= kills
    assert seen["writes"] >= seen["kills"]
    # The journal's records are written by a single call.
    assert seen["in the middle of a write"] > (-1 if kind == "features" else 0)


def test_of_many_processes_that_write_one_database_and_are_killed_every_row_is_there_once(tmp_path: Path) -> None:
    writers, rows, kills = WRITERS
    seen = told("writers", tmp_path, writers, rows, kills, 7)
    assert seen["rows"] == writers * rows
    assert seen["kills"] > 0
    assert seen["loads"] > 10

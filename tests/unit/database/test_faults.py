"""Every call to the system fails once, in everything that writes: the old or the new content, and nothing left behind.

`CARLOS_FAULTS=all` takes all operations, and also lets single calls fail with ENOSPC, EACCES and EINTR (15 minutes on two cores).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import faults

SHORT_KINDS = (faults.FULL, "EIO")
SHORT = (
    *("upsert", "save behind a link", "create", "create over", "copy", "begin", "append", "append first", "clear", "merge"),
    *("mark complete", "index", "facts", "thumbnail", "gallery", "download"),
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = faults.compiled(tmp_path_factory.mktemp("faults"))
    if library is None:
        pytest.skip("Calls can only be made to fail on Linux with a C compiler.")
    return library


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, if there is one: forcing thousands of files to disk takes long."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path) as folder:
        yield Path(folder)


def ends(library: Path, folder: Path, kinds: Iterable[str], operations: Iterable[str]) -> list[dict[str, Any]]:
    """How often which operation ended in what."""
    command = [sys.executable, "-m", "tests.support.faults", str(folder), ",".join(kinds), ",".join(operations)]
    run = subprocess.run(command, env=faults.environment(library), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_whatever_call_fails_the_content_is_the_old_or_the_new_one_and_nothing_is_left(library: Path, folder: Path) -> None:
    kinds, operations = (faults.KINDS, ()) if os.environ.get("CARLOS_FAULTS") == "all" else (SHORT_KINDS, SHORT)
    found = ends(library, folder, kinds, operations)
    calls = {(end["operation"], end["kind"]): end["calls"] for end in found}
    # The faults arrive, those of Arrow's and SQLite's own calls among them.
    assert calls["upsert", "EIO"] > 100
    assert calls["index", "EIO"] > 30
    errors = {end["operation"]: set(end) - {"operation", "kind", "calls", "went through"} for end in found}
    assert {name for name, kinds_of_errors in errors.items() if not kinds_of_errors} == {"index", "facts", "thumbnail", "gallery"}
    assert set().union(*errors.values()) == {"DatabaseError", "IndexingError", "CivitaiError"}


def test_an_interrupted_call_is_made_again(library: Path, folder: Path) -> None:
    found = ends(library, folder, ["EINTR"], ["append"])
    assert found[0]["went through"] > 3

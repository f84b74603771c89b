"""Any program of two sessions on one database file, against a dict: nothing that was saved is lost, and nothing is there twice.

The sessions load, change, save and change the file at once, as nodes do; processes of their own are killed while they write.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from carlos_core.database.database import MetricsDatabase, load_database, upsert_into_file
from tests.support.rows import a_row

ENCODER = "some encoder"
CONTENTS = st.integers(0, 3)
"""Files by their content. Every two of them claim to be one version of CivitAI."""
STRENGTHS = st.floats(0.5, 9.5)
SESSIONS = st.sampled_from("ab")


def sha256(content: int) -> str:
    return f"{content:x}" * 64


def put(database: MetricsDatabase, content: int, strength: float) -> None:
    """Add or replace the row of a content."""
    database.upsert(a_row(str(content // 2), sha256=sha256(content), strength=strength))


def put_into_file(path: Path, content: int, strength: float) -> None:
    upsert_into_file(path, a_row(str(content // 2), sha256=sha256(content), strength=strength), {})


def rows_of(path: Path) -> dict[str, float]:
    """Content -> strength, of all rows of a file. No id and no content is there twice."""
    database = load_database(path)
    ids, contents = database.column("lora_id"), database.column("sha256")
    assert len(set(ids)) == len(ids)
    assert len(set(contents)) == len(contents)
    return dict(zip(contents, database.column("strength"), strict=True))


class Sessions(RuleBasedStateMachine):
    """`saved` is what the file must hold; `unsaved` what a session has changed since it last read or wrote the file."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "rows.parquet"
        MetricsDatabase.empty(ENCODER, 4).save_parquet(self.path)
        self.saved: dict[str, float] = {}
        self.databases = {name: load_database(self.path) for name in "ab"}
        self.unsaved: dict[str, dict[str, float]] = {"a": {}, "b": {}}

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @rule(name=SESSIONS)
    def load(self, name: str) -> None:
        self.databases[name], self.unsaved[name] = load_database(self.path), {}

    @rule(name=SESSIONS, content=CONTENTS, strength=STRENGTHS)
    def change(self, name: str, content: int, strength: float) -> None:
        put(self.databases[name], content, strength)
        self.unsaved[name][sha256(content)] = strength

    @rule(name=SESSIONS)
    def save(self, name: str) -> None:
        self.databases[name].save_parquet(self.path)
        self.saved |= self.unsaved[name]
        self.unsaved[name] = {}

    @rule(content=CONTENTS, strength=STRENGTHS)
    def change_the_file(self, content: int, strength: float) -> None:
        put_into_file(self.path, content, strength)
        self.saved[sha256(content)] = strength

    @rule(name=SESSIONS)
    def copy(self, name: str) -> None:
        self.databases[name] = self.databases[name].copy()

    @rule(content=CONTENTS, strength=STRENGTHS, after_ms=st.floats(0, 8))
    def change_the_file_and_be_killed(self, content: int, strength: float, after_ms: float) -> None:
        _killed(lambda: put_into_file(self.path, content, strength), after_ms / 1000)
        # Whether it was written before is open; that it is one of the two is not.
        found = rows_of(self.path)
        assert found in (self.saved, self.saved | {sha256(content): strength})
        self.saved = found

    @invariant()
    def the_file_holds_what_was_saved(self) -> None:
        if hasattr(self, "path"):
            assert rows_of(self.path) == self.saved

    @invariant()
    def a_session_knows_what_it_has_changed(self) -> None:
        for name, database in getattr(self, "databases", {}).items():
            for content, strength in self.unsaved[name].items():
                lora_id = database.id_of("", content)
                assert database.cells(lora_id)["strength"] == strength


def _killed(work: Callable[[], None], after_s: float) -> None:
    """Do some work in a process of its own, and kill that."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    time.sleep(after_s)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()


TestSessions = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")(Sessions.TestCase)
TestSessions.settings = settings(max_examples=int(os.environ.get("CARLOS_PROGRAMS", "30")), stateful_step_count=40, deadline=None)

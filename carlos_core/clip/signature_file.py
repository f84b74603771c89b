"""Signatures of texts, kept in one SQLite file: a search reads hundreds of them when it starts.

A value that is damaged counts as missing; where the file cannot be used, signatures are made without it. It has room for a number
of them, and those that were not used for longest go first.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..kept_sqlite import KeptSqlite
from ..storage import is_there

FOLDER = "signatures"
"""Its folder within a cache."""

MOST = 50_000
"""So many signatures are kept: for ViT-B/32, some 230 MB. A query of many words may add a few hundred."""

_SPARE = MOST // 10
"""So many more go when there are too many, so that it need not be at each new one."""

_VERSION = 1
_CHECKSUM_BYTES = 16
_TIMEOUT_S = 2.0
_PAUSE_S = 60.0
"""Time without the file where its lock could not be had: each further try would wait for it again."""
_SECONDS_OF_A_DAY = 86_400

_AT_A_TIME = 900
"""So many are asked for in one statement: older SQLites take 999."""

_T = TypeVar("_T")


class SignatureFile:
    """The file `signatures.sqlite` of a folder. Neither has to exist. Problems are warnings in the log, never errors.

    Earlier versions kept a file for each signature in the same folder. Those are taken in, and then deleted.
    """

    def __init__(self, folder: Path) -> None:
        """Nothing is read yet."""
        self._folder = folder
        self.path = folder / "signatures.sqlite"
        self._kept = KeptSqlite(self.path, "the file of signatures", _VERSION, _make, timeout_s=_TIMEOUT_S, pause_s=_PAUSE_S)
        self._has_looked = False

    def read(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """Those of the vectors that are kept, by key: each [D] float64. They count as used."""
        if not self._is_there():
            return {}
        today = _today()

        def read(connection: sqlite3.Connection) -> list[tuple[str, bytes, int]]:
            return [row for part in _parts(keys) for row in connection.execute(_select(len(part)), part)]

        none: list[tuple[str, bytes, int]] = []
        rows = self._kept.run(read, none)
        values = {key: _values_of(key, content) for key, content, _used in rows}
        found = {key: value for key, value in values.items() if value is not None}
        # Not at each reading.
        self._use([key for key, _content, used in rows if used != today and key in found], today)
        return found

    def write(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Keep vectors, [D], by key, in place of those that are there."""
        self._is_there()
        rows = [(key, _content_of(key, vector), _today()) for key, vector in vectors.items()]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO signatures VALUES (?, ?, ?)", rows)
            _limit(connection)

        self._kept.run(write, None)

    def usage(self) -> tuple[int, int]:
        """How many are kept, and the size of the file in bytes."""
        if not self._is_there():
            return 0, 0
        n = self._kept.run(_count, 0)
        try:
            return n, self.path.stat().st_size
        except OSError:
            return 0, 0

    def clear(self) -> None:
        """Forget all of them."""
        if self._is_there():
            # Not the file: another process may be writing it.
            self._kept.run(lambda connection: connection.execute("DELETE FROM signatures"), None)
            self._kept.run(lambda connection: connection.execute("VACUUM"), None, is_transaction=False)

    def _is_there(self) -> bool:
        """Whether there is a file, once what earlier versions have kept was taken in."""
        if not self._has_looked:
            self._has_looked = True
            for part in _parts(sorted(self._folder.glob("*.f64"))):
                self._take_in(part)
        try:
            return is_there(self.path)
        except OSError as error:
            self._kept.warn(error)
            return False

    def _take_in(self, files: Sequence[Path]) -> None:
        """Move vectors from files of their own into the one file. A file goes only when its vector is there, or is damaged."""
        rows: list[tuple[str, bytes, int]] = []
        for file in files:
            try:
                content, day = file.read_bytes(), int(file.stat().st_mtime // _SECONDS_OF_A_DAY)
            except OSError:
                continue
            # Its checksum did not go over the key.
            values = _values_of("", content)
            if values is not None:
                rows.append((file.stem, _content_of(file.stem, values), day))

        def take_in(connection: sqlite3.Connection) -> bool:
            connection.executemany("INSERT OR IGNORE INTO signatures VALUES (?, ?, ?)", rows)
            _limit(connection)
            return True

        if not self._kept.run(take_in, False):
            return
        for file in files:
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                self._kept.warn(error)

    def _use(self, keys: Sequence[str], today: int) -> None:
        """Note that vectors were used today."""

        def use(connection: sqlite3.Connection) -> None:
            connection.executemany("UPDATE signatures SET used = ? WHERE key = ?", [(today, key) for key in keys])

        if keys:
            self._kept.run(use, None)


def _make(connection: sqlite3.Connection, _version: int) -> None:
    connection.execute("DROP TABLE IF EXISTS signatures")
    # used: the day of the last use, counted from 1970.
    connection.execute("CREATE TABLE signatures (key TEXT PRIMARY KEY, content BLOB NOT NULL, used INTEGER NOT NULL)")


def _count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM signatures").fetchone()[0])


def _limit(connection: sqlite3.Connection) -> None:
    """Let those go that were not used for longest, if there are too many; of one day, those that were made first."""
    n = _count(connection)
    if n > MOST:
        connection.execute(
            "DELETE FROM signatures WHERE rowid IN (SELECT rowid FROM signatures ORDER BY used, rowid LIMIT ?)",
            (n - MOST + _SPARE,),
        )


def _select(n: int) -> str:
    return f"SELECT key, content, used FROM signatures WHERE key IN ({', '.join('?' * n)})"


def _parts(whole: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(whole), _AT_A_TIME):
        yield whole[start : start + _AT_A_TIME]


def _today() -> int:
    return int(time.time() // _SECONDS_OF_A_DAY)


def _content_of(key: str, vector: np.ndarray) -> bytes:
    values = np.ascontiguousarray(vector, dtype="<f8").tobytes()
    return _checksum(key, values) + values


def _values_of(key: object, content: object) -> np.ndarray | None:
    """The vector of a content, [D] float64; None if it is damaged, or another key's: SQLite itself would not notice."""
    if not isinstance(key, str) or not isinstance(content, bytes):
        return None
    checksum, values = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
    if not values or len(values) % 8 or checksum != _checksum(key, values):
        return None
    return np.frombuffer(values, dtype="<f8").astype(np.float64)


def _checksum(key: str, values: bytes) -> bytes:
    return hashlib.sha256(key.encode() + values).digest()[:_CHECKSUM_BYTES]

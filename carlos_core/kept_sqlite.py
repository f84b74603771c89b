"""SQLite files that hold only what can be made again: problems with them are warnings in the log, never errors.

They are SQLite because what is in them must survive a kill at any moment, and because several processes use them at once. A file
that is damaged is made again; one that is locked, full or not writable is done without.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

logger = logging.getLogger(__name__)

_ATTEMPTS = 3
_TIMEOUT_S = 10.0

_T = TypeVar("_T")


class KeptSqlite:
    """The SQLite file at `path`, which does not have to exist."""

    def __init__(
        self,
        path: Path,
        noun: str,
        version: int,
        make: Callable[[sqlite3.Connection, int], None],
        *,
        timeout_s: float = _TIMEOUT_S,
        pause_s: float = 0.0,
    ) -> None:
        """Nothing is read yet.

        Args:
            path: of the file.
            noun: what it is, for the log.
            version: of its tables.
            make: makes the tables in a file of another version, which it is given; 0 for a new file.
            timeout_s: how long to wait for other processes.
            pause_s: time without the file where they kept it locked: each further try would wait again.
        """
        self._path, self._noun, self._version, self._make = path, noun, version, make
        self._timeout_s, self._pause_s = timeout_s, pause_s
        self._off_until = 0.0
        self._has_warned = False

    def run(self, work: Callable[[sqlite3.Connection], _T], otherwise: _T, *, is_transaction: bool = True) -> _T:
        """What `work` gives, in one transaction unless it is to be without; `otherwise` where the file cannot be used."""
        if time.monotonic() < self._off_until:
            return otherwise
        has_failed = False
        for _attempt in range(_ATTEMPTS):
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with closing(sqlite3.connect(self._path, timeout=self._timeout_s)) as connection:
                    self._prepare(connection)
                    if not is_transaction:
                        return work(connection)
                    with connection:
                        return work(connection)
            except (sqlite3.DatabaseError, OSError, UnicodeDecodeError, MemoryError) as error:
                if self._is_sound() if isinstance(error, MemoryError) else not _is_damage(error):
                    self._off_until = time.monotonic() + self._pause_s if "locked" in str(error) else 0.0
                    self.warn(error)
                    return otherwise
                # SQLite takes some failures of the disk for damage, and another process may have made a new file by now.
                if has_failed:
                    logger.warning("carlos: %s %s is damaged and made again: %s", self._noun, self._path.name, error)
                    self._discard()
                has_failed = True
        return otherwise

    def warn(self, error: Exception) -> None:
        """Say once that it cannot be used: what cannot be written now cannot be written the next time either."""
        level = logging.DEBUG if self._has_warned else logging.WARNING
        logger.log(level, "carlos: %s %s cannot be used now: %s", self._noun, self._path.name, error)
        self._has_warned = True

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the tables if they are missing or of another version."""
        if _version(connection) == self._version:
            return
        connection.execute("BEGIN IMMEDIATE")
        # Another process may have been quicker.
        version = _version(connection)
        if version != self._version:
            self._make(connection, version)
            connection.execute(f"PRAGMA user_version = {self._version}")
        connection.commit()

    def _is_sound(self) -> bool:
        """Whether SQLite finds nothing wrong with the file. Of a damaged length of a record it says that memory is short."""
        try:
            with closing(sqlite3.connect(self._path, timeout=self._timeout_s)) as connection:
                return connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        except sqlite3.OperationalError:
            # Locked, or not to be opened now.
            return True
        except (sqlite3.Error, UnicodeDecodeError, MemoryError):
            return False

    def _discard(self) -> None:
        try:
            for path in (self._path, self._path.with_name(f"{self._path.name}-journal")):
                path.unlink(missing_ok=True)
        except OSError as error:
            self.warn(error)


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _is_damage(error: Exception) -> bool:
    """Whether the file itself is at fault, and not that it is locked, full or not to be written now."""
    if isinstance(error, sqlite3.OperationalError):
        # A table of other columns, for example (Python 3.10 does not tell this kind from the others), or a text that is none.
        return getattr(error, "sqlite_errorcode", None) == 1 or str(error).startswith("Could not decode")
    return isinstance(error, (sqlite3.DatabaseError, UnicodeDecodeError))

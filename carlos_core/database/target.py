"""Where measured rows go: a file that others may also write, or a database in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..errors import DatabaseError
from .database import MetricsDatabase, change_database, load_database
from .parquet import check_writable


class Target(Protocol):
    """A database that rows are added to."""

    def read(self) -> MetricsDatabase:
        """The database as it is now."""
        ...

    def check_writable(self) -> None:
        """Raises DatabaseError where a change could not be kept, as far as that can be told before there is one."""
        ...

    def change(self, change: Callable[[MetricsDatabase], None]) -> MetricsDatabase:
        """Change the database and keep the change. Returns the database as it is then. Raises DatabaseError."""
        ...


OWN_COPY = "Make a copy of your own with copy_bundled_database."


@dataclass(frozen=True)
class DatabaseFile:
    """A database file: each change is saved, and other processes' changes are kept."""

    path: Path

    def read(self) -> MetricsDatabase:
        return load_database(self.path)

    def check_writable(self) -> None:
        check_writable(self.path)

    def change(self, change: Callable[[MetricsDatabase], None]) -> MetricsDatabase:
        return change_database(self.path, change)

    @classmethod
    def of(cls, database: MetricsDatabase) -> DatabaseFile:
        """The file of a database. Raises DatabaseError if rows cannot be saved to it, before any picture is made."""
        if database.read_only:
            raise DatabaseError("The bundled database is read-only.", OWN_COPY)
        if database.path is None:
            raise DatabaseError("This database has no file to save to.", "Save it first (save_parquet).")
        return cls(database.path)


@dataclass(frozen=True, eq=False)
class InMemory:
    """A database in memory, which its owner saves."""

    database: MetricsDatabase

    def read(self) -> MetricsDatabase:
        return self.database

    def check_writable(self) -> None:
        if self.database.read_only:
            raise DatabaseError(f"{self.database.name} is read-only.", OWN_COPY)

    def change(self, change: Callable[[MetricsDatabase], None]) -> MetricsDatabase:
        change(self.database)
        return self.database

"""The published database that comes with the package: 740 LoRAs, measured by the authors of the method."""

from __future__ import annotations

from pathlib import Path

from ..errors import DatabaseError
from ..storage import is_there, write_atomically
from .database import MetricsDatabase, load_database
from .parquet import locked, saving

BUNDLED_PATH = Path(__file__).parent / "data" / "published.parquet"


def load_bundled_database() -> MetricsDatabase:
    """The published database, read-only. `copy_bundled_database` makes one that can be changed."""
    database = load_database(BUNDLED_PATH)
    database.read_only = True
    return database


def copy_bundled_database(dest: str | Path, overwrite: bool = False) -> Path:
    """Write a copy of the published database to `dest`; an existing file is kept unless `overwrite`. Returns its path.

    Raises DatabaseError if `dest` is a folder, or if the file cannot be written.
    """
    dest = Path(dest)
    with saving(dest):
        if dest.is_dir():
            raise DatabaseError(f"{dest} is a folder.", "Give the name of a .parquet file in it.")
        if is_there(dest) and not overwrite:
            return dest
    content = BUNDLED_PATH.read_bytes()
    with locked(dest), saving(dest):
        # Another process may have been quicker, and may have added rows.
        if overwrite or not is_there(dest):
            write_atomically(dest, lambda target: target.write_bytes(content))
    return dest

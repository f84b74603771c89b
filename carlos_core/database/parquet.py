"""Tables in parquet files: read in one go, written atomically."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DatabaseError
from ..storage import write_atomically
from .columns import stamp_of


def read_table(path: Path) -> tuple[pa.Table, str]:
    """The table of a file, and a stamp that tells this writing of the file from the next. Raises DatabaseError."""
    if not path.is_file():
        raise DatabaseError(f"There is no database {path.name} in {path.parent}.", "Check the name, or create one first.")
    try:
        # Opened once: another process may put a new file in its place at any moment.
        with path.open("rb") as file:
            return pq.read_table(file), _stamp(file)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise DatabaseError(
            f"{path.name} cannot be read as parquet ({_first_line(error)}).", "Restore it from a copy, or choose another file."
        ) from error


def stamp_of_file(path: Path) -> str:
    """The stamp that tells the present writing of a file from the next. Raises DatabaseError."""
    try:
        with path.open("rb") as file:
            return _stamp(file)
    except OSError as error:
        raise not_saved(path, error) from error


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table so that `path` is at every moment either the old file or the complete new one. Raises DatabaseError."""
    try:
        write_atomically(path, lambda target: _write_table(table, target))
    except OSError as error:
        raise not_saved(path, error) from error


def not_saved(path: Path, error: OSError) -> DatabaseError:
    return DatabaseError(
        f"{path.name} could not be saved ({error.strerror or error}); the old file is untouched.",
        "Free some disk space or check the folder's permissions.",
    )


def _stamp(file: BinaryIO) -> str:
    """The stamp that we gave to the writing of an open file; if there is none, facts about the file itself."""
    facts = os.fstat(file.fileno())
    otherwise = f"{facts.st_ino} {facts.st_size} {facts.st_mtime_ns}"
    file.seek(0)
    try:
        return stamp_of(pq.read_schema(file).metadata) or otherwise
    except (pa.ArrowException, ValueError):
        return otherwise


def _write_table(table: pa.Table, target: Path) -> None:
    # Floats hardly compress as they are, but they do when they are split into byte planes.
    split = [name for name in ("direction", "strength", "consistency") if name in table.column_names]
    paths = [f"{name}.list.element" if name == "direction" else name for name in split]
    pq.write_table(
        table,
        target,
        compression="zstd",
        compression_level=9,
        use_dictionary=[name for name in table.column_names if name not in split and name not in ("trigger_words", "notes")],
        use_byte_stream_split=paths,
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")

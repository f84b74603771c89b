"""Tables in parquet files: read in one go, written atomically."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from .. import storage
from ..errors import DatabaseError
from .columns import stamp_of
from .parquet_footer import chunk_sizes

_FREE_BYTES = 256 << 20
_MAX_RATIO = 50
"""Directions hardly compress. A file that unpacks to more than this many times its size, and is not small, is no database."""
_VALUE_BYTES = 4
_MOST_ROWS_AT_A_TIME, _PARTS = 1024, 8


def read_table(path: Path) -> tuple[pa.Table, str]:
    """The table of a file, and a stamp that tells this writing of the file from the next. Raises DatabaseError."""
    with opening(path):
        if not _is_file(path):
            raise DatabaseError(f"There is no database {path.name} in {path.parent}.", "Check the name, or create one first.")
    try:
        # Opened once: another process may put a new file in its place at any moment.
        with opening(path), path.open("rb") as file:
            table = _read_within_limits(file, path.name)
            # Reading takes texts as they are, whether they are texts or not.
            table.validate(full=True)
            return table, _stamp(file)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise DatabaseError(
            f"{path.name} cannot be read as parquet ({_first_line(error)}).", "Restore it from a copy, or choose another file."
        ) from error


def stamp_of_file(path: Path) -> str:
    """The stamp that tells the present writing of a file from the next. Raises DatabaseError."""
    with saving(path), path.open("rb") as file:
        return _stamp(file)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table so that `path` is at every moment either the old file or the complete new one. Raises DatabaseError."""
    with saving(path):
        storage.write_atomically(path, lambda target: _write_table(table, target))


def check_writable(path: Path) -> None:
    """Raises DatabaseError where a file could not be saved whatever is in it, such as in a folder that is read-only."""
    with locked(path), saving(path):
        storage.check_writable(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let no other process write a file. Raises DatabaseError if there can be no lock."""
    with ExitStack() as stack:
        with saving(path):
            try:
                stack.enter_context(storage.locked(path))
            except TimeoutError as error:
                raise DatabaseError(str(error), "Wait for it, then run again.") from error
        yield


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Make a DatabaseError of what the system says against saving a file. Until it is replaced, the old one is untouched."""
    try:
        yield
    except OSError as error:
        raise DatabaseError(
            f"{path.name} could not be saved ({error.strerror or error}); the old file is untouched.",
            "Free some disk space or check the folder's permissions.",
        ) from error


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Make a DatabaseError of what the system says against opening a file. Nothing is wrong with its content then."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # Arrow's own about content
            raise
        raise DatabaseError(
            f"{path.name} cannot be opened now ({error.strerror or error}).",
            "Check the permissions and the disk, then run again.",
        ) from error


def _read_within_limits(file: BinaryIO, name: str) -> pa.Table:
    """The table of an open file. Raises DatabaseError for one that unpacks to much more than a database of its size does."""
    # In this thread alone: one of Arrow's that still lets go of the file when Python ends aborts the process.
    parquet = pq.ParquetFile(file, pre_buffer=False)
    chunks, limit = chunk_sizes(file), max(_FREE_BYTES, _MAX_RATIO * os.fstat(file.fileno()).st_size)
    if sum(max(chunk.n_bytes, _VALUE_BYTES * chunk.n_values) for chunk in chunks) > limit:
        raise _too_large(name)
    texts = [chunk for chunk in chunks if chunk.is_text]
    if sum(chunk.n_bytes * chunk.n_values for chunk in texts) <= limit:
        return parquet.read(use_threads=False)
    # Each text that is there once may stand in every row: that shows only when they are unpacked.
    batches, n_bytes = [], 0
    rows = limit // (_PARTS * max(chunk.n_bytes for chunk in texts))
    for batch in parquet.iter_batches(max(1, min(rows, _MOST_ROWS_AT_A_TIME)), use_threads=False):
        n_bytes += batch.nbytes
        if n_bytes > limit:
            raise _too_large(name)
        batches.append(batch)
    return pa.Table.from_batches(batches, parquet.schema_arrow).combine_chunks()


def _too_large(name: str) -> DatabaseError:
    return DatabaseError(
        f"{name} would unpack to more than {_MAX_RATIO} times its size, which no database does.", "Choose another file."
    )


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a name that holds a NUL
        return False


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

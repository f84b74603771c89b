"""Reading and writing database files: checked on the way in, atomic on the way out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import uuid4

from ..errors import DatabaseError
from ..records import LoraRecord
from ..storage import locked, write_atomically
from . import columns as schema
from . import reference
from .database import MetricsDatabase

if TYPE_CHECKING:
    import pyarrow as pa


def load_database(path: str | Path, *, encoder_id: str | None = None) -> MetricsDatabase:
    """Open a metrics database: ours, or a parquet file of the reference package.

    encoder_id: for foreign files that do not name their encoder; a file that does wins.
    Raises DatabaseError when the file is missing, damaged, or not a metrics database.
    """
    path = Path(path)
    if not path.is_file():
        raise DatabaseError(f"There is no database {path.name} in {path.parent}.", "Check the name, or create one first.")
    try:
        # Opened once: another process may put a new file in its place at any moment.
        with path.open("rb") as file:
            table, stamp = _read(file, path.name)
    except OSError as error:
        raise _unreadable(path.name, error) from error
    facts = schema.unpack_metadata(table.schema.metadata, path.name)
    encoder_id = facts.get("encoder_id") or encoder_id
    if reference.has_reference_layout(table):
        table = reference.from_reference_layout(table)
        encoder_id = encoder_id or schema.DEFAULT_ENCODER_ID
    table = schema.normalised(table.replace_schema_metadata(None), path.name)
    return MetricsDatabase(table, encoder_id=encoder_id, protocols=facts.get("protocols"), path=path, stamp=stamp)


def save_database(database: MetricsDatabase, path: Path, *, layout: str = "carlos") -> None:
    """Write a database as it is now in memory; see `MetricsDatabase.save_parquet`."""
    try:
        base = database.base_of(path)
        is_new = base is None or not path.exists()
    except OSError as error:
        raise _not_saved(path, error) from error
    if is_new:
        write_database(database, path, layout=layout)
        return
    with _locked(path):
        try:
            with path.open("rb") as file:
                is_as_it_was = _stamp(file) == base
        except OSError as error:
            raise _not_saved(path, error) from error
        if not is_as_it_was:
            database.rebase(path, load_database(path, encoder_id=database.encoder_id))
        write_database(database, path, layout=layout)


def write_database(database: MetricsDatabase, path: Path, *, layout: str = "carlos") -> None:
    """Write a database so that `path` is at every moment either the old file or the whole new one."""
    # A name for each writing, by which a reader knows whether the file is still the one that it read.
    stamp = uuid4().hex
    if layout == "reference":
        table = reference.to_reference_layout(database.table).replace_schema_metadata(schema.stamped(stamp))
    elif layout == "carlos":
        if database.encoder_id is None:
            raise DatabaseError(
                f"It is not known which encoder made the rows of {database.name}.",
                "Open the file with load_database(path, encoder_id=...).",
            )
        table = database.table.replace_schema_metadata(schema.pack_metadata(database.encoder_id, database.protocols, stamp))
    else:
        raise DatabaseError(f"There is no layout {layout!r}.", 'Choose "carlos" or "reference".')
    try:
        write_atomically(path, lambda target: _write_table(table, target))
    except OSError as error:
        raise _not_saved(path, error) from error
    database.saved(path, stamp)
    if layout == "carlos":
        database.path = path


def create_database(database: MetricsDatabase, path: Path) -> MetricsDatabase:
    """Save `database` as a new file and open that. Raises DatabaseError if the file exists already."""
    with _locked(path):
        if path.exists():
            raise DatabaseError(f"{path.name} exists already.", "Choose another name, or delete the file first.")
        write_database(database, path)
    return load_database(path)


def change_database(path: Path, change: Callable[[MetricsDatabase], None]) -> MetricsDatabase:
    """Read the file as it is now, change it, save it; no other process can come between. Returns the database saved."""
    with _locked(path):
        database = load_database(path)
        change(database)
        write_database(database, path)
    return database


def upsert_into_file(path: Path, record: LoraRecord, protocol: Mapping[str, Any]) -> MetricsDatabase:
    """Add or replace one row of a database file. Returns the database saved."""
    return change_database(path, lambda database: database.upsert(record, protocol))


def copy_file_atomically(source: Path, dest: Path) -> None:
    """Copy a file so that `dest` is never there half-written."""
    content = source.read_bytes()
    try:
        write_atomically(dest, lambda target: target.write_bytes(content))
    except OSError as error:
        raise _not_saved(dest, error) from error


def _read(file: BinaryIO, name: str) -> tuple[pa.Table, str]:
    """The table of an open parquet file, and its stamp."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(file), _stamp(file)
    except (pa.ArrowException, ValueError) as error:
        raise _unreadable(name, error) from error


def _stamp(file: BinaryIO) -> str:
    """What tells one writing of a database file from the next: the name that we gave it, else the file's own facts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    facts = os.fstat(file.fileno())
    otherwise = f"{facts.st_ino} {facts.st_size} {facts.st_mtime_ns}"
    file.seek(0)
    try:
        return schema.stamp_of(pq.read_schema(file).metadata) or otherwise
    except (pa.ArrowException, ValueError):
        return otherwise


def _unreadable(name: str, error: Exception) -> DatabaseError:
    return DatabaseError(
        f"{name} cannot be read as parquet ({_first_line(error)}).", "Restore it from a copy, or choose another file."
    )


def _write_table(table: pa.Table, target: Path) -> None:
    import pyarrow.parquet as pq

    # Floats barely compress as they stand; split into byte planes they do.
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


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path))
        except TimeoutError as error:
            raise DatabaseError(str(error), "Wait for it, then run again.") from error
        except OSError as error:
            raise _not_saved(path, error) from error
        yield


def _not_saved(path: Path, error: OSError) -> DatabaseError:
    return DatabaseError(
        f"{path.name} could not be saved ({error.strerror or error}); the old file is untouched.",
        "Free some disk space or check the folder's permissions.",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")

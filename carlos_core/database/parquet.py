"""Reading and writing database files: checked on the way in, atomic on the way out."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DatabaseError
from ..types import LoraRecord
from . import reference, schema
from .store import MetricsDatabase

if TYPE_CHECKING:
    import pyarrow as pa

_LOCK_TIMEOUT_S = 60


def load_database(path: str | Path, *, encoder_id: str | None = None) -> MetricsDatabase:
    """Open a metrics database: ours, or a parquet file of the reference package.

    encoder_id: for foreign files that do not name their encoder; a file that does wins.
    Raises DatabaseError when the file is missing, damaged, or not a metrics database.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise DatabaseError(f"There is no database {path.name} in {path.parent}.", "Check the name, or create one first.")
    try:
        table = pq.read_table(path, partitioning=None)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DatabaseError(
            f"{path.name} cannot be read as parquet ({_first_line(error)}).", "Restore it from a copy, or choose another file."
        ) from error
    facts = schema.unpack_metadata(table.schema.metadata, path.name)
    encoder_id = facts.get("encoder_id") or encoder_id
    if reference.has_reference_layout(table):
        table = reference.from_reference_layout(table)
        encoder_id = encoder_id or schema.DEFAULT_ENCODER_ID
    table = schema.normalised(table.replace_schema_metadata(None), path.name)
    return MetricsDatabase(table, encoder_id=encoder_id, protocols=facts.get("protocols"), path=path)


def write_database(database: MetricsDatabase, path: Path, *, layout: str = "carlos") -> None:
    """Write a database so that `path` is at every moment either the old file or the whole new one."""
    if layout == "reference":
        table = reference.to_reference_layout(database.table)
    elif layout == "carlos":
        if database.encoder_id is None:
            raise DatabaseError(
                f"It is not known which encoder made the rows of {database.name}.",
                "Open the file with load_database(path, encoder_id=...).",
            )
        table = database.table.replace_schema_metadata(schema.pack_metadata(database.encoder_id, database.protocols))
    else:
        raise DatabaseError(f"There is no layout {layout!r}.", 'Choose "carlos" or "reference".')
    _write_atomically(path, lambda target: _write_table(table, target))


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
    _write_atomically(dest, lambda target: target.write_bytes(content))


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


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Run `write` on a temporary file beside `path`, force it to disk, then rename it over `path`."""
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if path.exists():
            temporary.chmod(path.stat().st_mode & 0o777)
        else:
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _not_saved(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where folders can be opened (not on Windows)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    import filelock

    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"), timeout=_LOCK_TIMEOUT_S)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise DatabaseError(
            f"Another process has been writing {path.name} for {_LOCK_TIMEOUT_S} s.", "Wait for it, then run again."
        ) from error
    except OSError as error:
        raise _not_saved(path, error) from error
    try:
        # Nobody else writes now: temporary files are left by a process that was killed.
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def _not_saved(path: Path, error: OSError) -> DatabaseError:
    return DatabaseError(
        f"{path.name} could not be saved ({error.strerror or error}); the old file is untouched.",
        "Free some disk space or check the folder's permissions.",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")

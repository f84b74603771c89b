"""What earlier scans found out about LoRA files, kept in one SQLite file.

It holds only what can be read from the LoRAs again, hashes above all, which take hours. Where it cannot be used, a scan goes on
without it (`KeptSqlite`).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..kept_sqlite import KeptSqlite
from ..records import LayerFit, LoraMetadata
from .lora_file import FileFacts

_VERSION = 5
"""Version of the table and of what is read from a file. An index of another version is made again."""

_VERSIONS_OF_HASHES = (1, 2, 3, 4)
"""The earlier versions whose hashes are still true. Their fits may be those of a file that was gone when it was looked at."""

_OUTDATED = "read by an older version"
"""In place of the sidecars' state: header and sidecars are then read again."""

_SINGLE_LOOKUPS = 200
"""Up to this many files are looked up one by one; for more the whole table is read."""

_COLUMNS = "path, size, mtime_ns, sidecars, sha256, facts"
# SQLite lets any column hold anything. Other rows are as if they were not there.
_SOUND = (
    "typeof(path) = 'blob' AND typeof(size) = 'integer' AND typeof(mtime_ns) = 'integer' AND typeof(sidecars) = 'text' "
    "AND typeof(sha256) IN ('text', 'null') AND typeof(facts) = 'text'"
)
_SOUND_FIT = (
    "typeof(layout) = 'text' AND typeof(layers) = 'integer' AND typeof(of_layers) = 'integer' "
    "AND typeof(of_other_shape) = 'integer'"
)
# A process that only read the header does not undo what another one has hashed meanwhile.
_UPSERT = f"""
INSERT INTO files ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (path) DO UPDATE SET
    sha256 = CASE WHEN size = excluded.size AND mtime_ns = excluded.mtime_ns
             THEN coalesce(excluded.sha256, sha256) ELSE excluded.sha256 END,
    size = excluded.size, mtime_ns = excluded.mtime_ns, sidecars = excluded.sidecars, facts = excluded.facts
"""


@dataclass(frozen=True)
class KnownFile:
    """A file as it was when it was read."""

    path: str
    size: int
    """Bytes."""
    mtime_ns: int
    """Time of the last change, in ns."""
    sidecars: str
    """Sizes and times of the sidecars beside it; empty if there are none."""
    sha256: str | None
    """Of the whole file; None if it was not hashed."""
    metadata: LoraMetadata
    """What header and sidecar say."""
    problem: str = ""
    """What cannot be read of them; empty if nothing is wrong."""
    layout: str = ""
    """`Header.layout`."""
    line: str | None = None
    """`FileFacts.line`."""

    @property
    def facts(self) -> FileFacts:
        """What `read_facts` gave when it was read."""
        return FileFacts(self.metadata, self.layout, self.problem, self.line)


class LibraryIndex:
    """The SQLite file at `path`, which does not have to exist. Problems with it are warnings in the log, never errors."""

    def __init__(self, path: Path) -> None:
        self._kept = KeptSqlite(path, "the index of LoRA files", _VERSION, _make)

    def known(self, paths: Collection[str]) -> dict[str, KnownFile]:
        """What is known about these files, by path."""
        wanted = set(paths)

        def read(connection: sqlite3.Connection) -> dict[str, KnownFile]:
            if len(wanted) > _SINGLE_LOOKUPS:
                rows: Iterable[tuple[object, ...]] = connection.execute(f"SELECT {_COLUMNS} FROM files WHERE {_SOUND}")
            else:
                rows = _single(connection, wanted)
            files = (_file_of(row) for row in rows)
            return {file.path: file for file in files if file is not None and file.path in wanted}

        return self._kept.run(read, {})

    def hashed(self) -> list[tuple[str, int]]:
        """(path, size in bytes) of all files that were hashed, whether they are still there or not."""

        def read(connection: sqlite3.Connection) -> list[tuple[str, int]]:
            rows = connection.execute(f"SELECT path, size FROM files WHERE sha256 IS NOT NULL AND {_SOUND}")
            return [(_path(key), size) for key, size in rows]

        return self._kept.run(read, [])

    def save(self, files: Collection[KnownFile]) -> None:
        """Add or replace what is known about these files, in one transaction."""
        if files:
            rows = [_row_of(file) for file in files]
            self._kept.run(lambda connection: connection.executemany(_UPSERT, rows), None)

    def fits(self, model: str) -> dict[str, LayerFit]:
        """What was found out about a model, by layout. model: `ModelLayers.identity`."""

        def read(connection: sqlite3.Connection) -> dict[str, LayerFit]:
            rows = connection.execute(
                f"SELECT layout, layers, of_layers, of_other_shape FROM fits WHERE model = ? AND {_SOUND_FIT}", (model,)
            )
            return {layout: LayerFit(*counts) for layout, *counts in rows}

        return self._kept.run(read, {})

    def save_fits(self, model: str, fits: Mapping[str, LayerFit]) -> None:
        """Add what was found out about a model, by layout."""
        if fits:
            rows = [(model, layout, fit.layers, fit.of, fit.of_other_shape) for layout, fit in fits.items()]
            self._kept.run(
                lambda connection: connection.executemany("INSERT OR REPLACE INTO fits VALUES (?, ?, ?, ?, ?)", rows), None
            )


def _make(connection: sqlite3.Connection, version: int) -> None:
    if version in _VERSIONS_OF_HASHES:
        # Hashes took hours and stay true; headers and sidecars are read again.
        connection.execute("UPDATE files SET sidecars = ?", (_OUTDATED,))
    else:
        connection.execute("DROP TABLE IF EXISTS files")
        connection.execute(
            "CREATE TABLE files (path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, "
            "sidecars TEXT NOT NULL, sha256 TEXT, facts TEXT NOT NULL) WITHOUT ROWID"
        )
    connection.execute("DROP TABLE IF EXISTS fits")
    connection.execute(
        "CREATE TABLE fits (model TEXT NOT NULL, layout TEXT NOT NULL, layers INTEGER NOT NULL, "
        "of_layers INTEGER NOT NULL, of_other_shape INTEGER NOT NULL, PRIMARY KEY (model, layout)) WITHOUT ROWID"
    )


def _single(connection: sqlite3.Connection, paths: Collection[str]) -> Iterator[tuple[object, ...]]:
    for path in paths:
        yield from connection.execute(f"SELECT {_COLUMNS} FROM files WHERE path = ? AND {_SOUND}", (_key(path),))


def _key(path: str) -> bytes:
    # File names may be invalid text.
    return path.encode("utf-8", "surrogatepass")


def _path(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")


def _row_of(file: KnownFile) -> tuple[object, ...]:
    said = asdict(file.metadata)
    facts = json.dumps(
        {"base_model": said["base_model"], "trigger_words": said["trigger_words"], "sidecar": said}
        | {"problem": file.problem, "layout": file.layout, "line": file.line},
        separators=(",", ":"),
    )
    return (_key(file.path), file.size, file.mtime_ns, file.sidecars, file.sha256, facts)


def _file_of(row: tuple[object, ...]) -> KnownFile | None:
    """The file of a row; None if the row makes no sense. Its file is then read again."""
    path, size, mtime_ns, sidecars, sha256, text = row
    try:
        facts = json.loads(text)  # type: ignore[arg-type]
        return KnownFile(
            _path(path),  # type: ignore[arg-type]
            size,  # type: ignore[arg-type]
            mtime_ns,  # type: ignore[arg-type]
            sidecars,  # type: ignore[arg-type]
            sha256,  # type: ignore[arg-type]
            LoraMetadata(
                **{**facts["sidecar"], "base_model": facts["base_model"], "trigger_words": tuple(facts["trigger_words"])}
            ),
            facts.get("problem", ""),
            facts.get("layout", ""),
            facts.get("line"),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None

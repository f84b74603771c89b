"""Filling in from CivitAI what a database does not know about its LoRAs: words, families, hashes, pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..database.database import MetricsDatabase, change_database, load_database
from ..database.published import BUNDLED_PATH
from ..database.target import OWN_COPY
from ..errors import CivitaiError, CivitaiNotFound, CivitaiOddAnswer, DatabaseError
from ..loras.family import family_of_name
from ..progress import OnProgress, Progress
from .answers import is_sha256
from .client import MAX_HASHES, CivitaiClient
from .lora import lora_files_of
from .versions import FAILED, NOT_FOUND, REFRESHED, UNCHANGED, Version

logger = logging.getLogger(__name__)

COLUMNS = ("trigger_words", "base_model", "sha256", "nsfw_level", "download_count", "model_name", "preview_url")
"""What is filled in. A row that lacks one of them counts as a row with something missing."""

_IDENTITY = ("version_id", "model_id", "sha256")
"""These are filled in, never replaced: they say which file the row was measured from."""

_BATCH = 50
_MAX_FAILURES = 3


@dataclass(frozen=True)
class RefreshedRow:
    """What became of one row."""

    lora_id: str
    name: str
    """For people; see `records.LoraRecord.name`."""
    status: str
    """One of `versions.STATUSES`."""
    columns: tuple[str, ...] = ()
    """The columns that changed."""
    reason: str = ""
    """Why it failed or was not found; empty otherwise."""


@dataclass(frozen=True)
class _Row:
    lora_id: str
    name: str
    version_id: int | None
    sha256: str | None
    n_missing: int


def refresh_metadata(
    path: Path, client: CivitaiClient, *, only_missing: bool = True, max_rows: int = 0, on_progress: OnProgress | None = None
) -> list[RefreshedRow]:
    """Look up the rows of a database file that have a version or a hash, and save what is new.

    What CivitAI does not know stays as it is, and so does a row that cannot be looked up. The file is saved after every 50 rows
    that were found; what was found is also saved when a callback raises. Three failures in a row end the run; rows after that
    are not in the result.

    Raises CivitaiError if nothing at all could be looked up, and DatabaseError if the file cannot be read or saved, or is the
    bundled one.

    Args:
        path: the database file.
        client: answers the look-ups.
        only_missing: look up only rows that lack something, and fill in only what they lack. Otherwise all rows are looked up,
            and what CivitAI says replaces what is there, except for ids and hashes.
        max_rows: rows to look up, those that lack most first; 0 for all.
        on_progress: called after each row, in rows.
    """
    if path.resolve() == BUNDLED_PATH.resolve():
        raise DatabaseError("The bundled database is read-only.", OWN_COPY)
    rows = _rows(load_database(path), only_missing)[: max_rows or None]
    results: dict[str, RefreshedRow] = {}
    pending: dict[str, Version] = {}
    failure: CivitaiError | None = None
    n_failures = 0

    def save() -> None:
        for lora_id, columns in _save(path, pending, only_missing).items():
            status = REFRESHED if columns else UNCHANGED
            results[lora_id] = RefreshedRow(lora_id, results[lora_id].name, status, columns)
        pending.clear()

    try:
        for row, answer in _answers(client, rows):
            results[row.lora_id] = RefreshedRow(row.lora_id, row.name, UNCHANGED)
            if isinstance(answer, Version):
                pending[row.lora_id], n_failures = answer, 0
            elif isinstance(answer, CivitaiNotFound):
                results[row.lora_id], n_failures = RefreshedRow(row.lora_id, row.name, NOT_FOUND, reason=str(answer)), 0
            else:
                results[row.lora_id] = RefreshedRow(row.lora_id, row.name, FAILED, reason=str(answer))
                # An answer that cannot be read says nothing about the next one, and many rows may share one failure.
                is_new = answer is not failure and not isinstance(answer, CivitaiOddAnswer)
                failure, n_failures = answer, n_failures + is_new
                logger.warning("carlos: %s could not be looked up: %s", row.name, answer)
            if len(pending) >= _BATCH:
                save()
            if on_progress is not None:
                on_progress(Progress(len(results), len(rows)))
            if n_failures >= _MAX_FAILURES:
                break
    finally:
        save()
    if failure is not None and all(result.status == FAILED for result in results.values()):
        raise failure
    return list(results.values())


def _rows(database: MetricsDatabase, only_missing: bool) -> list[_Row]:
    """The rows to look up, those that lack most first; rows that lack equally much stay in the order of the table."""
    names = ("lora_id", "version_id", "file_name", "folder_name", *COLUMNS)
    columns = {name: database.column(name) for name in names if name in database.table.column_names}
    rows = []
    for k, lora_id in enumerate(columns["lora_id"]):
        cells = {name: column[k] for name, column in columns.items()}
        n_missing = sum(cells[name] is None for name in COLUMNS)
        sha256 = cells["sha256"] if is_sha256(cells["sha256"] or "") else None
        if (cells["version_id"] is not None or sha256) and (n_missing or not only_missing):
            name = cells["model_name"] or cells["file_name"] or cells.get("folder_name") or lora_id
            rows.append(_Row(lora_id, name, cells["version_id"], sha256, n_missing))
    return sorted(rows, key=lambda row: -row.n_missing)


def _answers(client: CivitaiClient, rows: list[_Row]) -> Iterator[tuple[_Row, Version | CivitaiError]]:
    """What CivitAI says of each row: by hash, many at once, if the row has one, otherwise by version."""
    hashed = [row for row in rows if row.sha256]
    for start in range(0, len(hashed), MAX_HASHES):
        chunk = hashed[start : start + MAX_HASHES]
        found: Mapping[str, Version | CivitaiError] = {}
        reason: CivitaiError = CivitaiNotFound("CivitAI knows no file with this hash.", "It may be yours alone, or taken down.")
        try:
            found = client.answers_by_hashes([row.sha256 for row in chunk if row.sha256])
        except CivitaiError as error:
            reason = error
        for row in chunk:
            answer = found.get((row.sha256 or "").lower(), reason)
            # One file may be in several versions; the row says which one is meant.
            if isinstance(answer, Version) and row.version_id in (None, answer.version_id):
                yield row, answer
            elif row.version_id is not None:
                yield row, _by_id(client, row.version_id)
            else:
                yield row, reason if isinstance(answer, Version) else answer
    for row in rows:
        if not row.sha256 and row.version_id is not None:
            yield row, _by_id(client, row.version_id)


def _by_id(client: CivitaiClient, version_id: int) -> Version | CivitaiError:
    try:
        return client.version(version_id)
    except CivitaiError as error:
        return error


def _save(path: Path, versions: Mapping[str, Version], only_missing: bool) -> dict[str, tuple[str, ...]]:
    """Put what was found into the rows as they are now. Returns the columns that changed, by lora_id."""
    if not versions:
        return {}
    changed: dict[str, tuple[str, ...]] = {}

    def change(database: MetricsDatabase) -> None:
        position = {lora_id: k for k, lora_id in enumerate(database.column("lora_id"))}
        columns = {name: database.column(name) for name in (*COLUMNS, *_IDENTITY)}
        new: dict[str, dict[str, Any]] = {name: {} for name in columns}
        for lora_id, version in versions.items():
            # The row may have been deleted meanwhile.
            if lora_id not in position:
                continue
            old = {name: column[position[lora_id]] for name, column in columns.items()}
            values = _changes(old, version, only_missing)
            changed[lora_id] = tuple(values)
            for name, value in values.items():
                new[name][lora_id] = value
        for name, cells in new.items():
            database.set_values(name, cells)

    change_database(path, change)
    return changed


def _changes(old: Mapping[str, Any], version: Version, only_missing: bool) -> dict[str, Any]:
    """New values of a row's columns. A blank (or no trigger words) is filled in; other values are replaced if that is wanted."""
    said = version.metadata
    known = {
        **vars(said),
        "version_id": version.version_id,
        "base_model": family_of_name(said.base_model) or said.base_model,
        "trigger_words": None if said.trigger_words is None else list(said.trigger_words),
        "sha256": _sha256_of(version),
    }
    values = {}
    for name, value in known.items():
        is_blank = old[name] in (None, "", [])
        may_replace = not only_missing and name not in _IDENTITY and value != []
        if value is not None and value != old[name] and (is_blank or may_replace):
            values[name] = value
    return values


def _sha256_of(version: Version) -> str | None:
    """sha256 of the LoRA file; None if it comes in a ZIP, whose hash is not the LoRA's, or if it may be another of several."""
    try:
        files = lora_files_of(version)
    except CivitaiError:
        return None
    return files[0].sha256 if len(files) == 1 and files[0].is_safetensors else None

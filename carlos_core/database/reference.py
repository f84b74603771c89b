"""The layout of the reference package's parquet files (`carlos` 0.0.3 on PyPI), read and written.

It has one row for each CivitAI version. Two columns have other names than ours, and its directions are lists of float64.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import DatabaseError

_OURS = {"model_nsfw_level": "nsfw_level", "model_download_count": "download_count"}
_MARKS = ("version_id", "model_id", "folder_name", "model_nsfw_level", "direction")


def has_reference_layout(table: pa.Table) -> bool:
    """Whether a table has the reference package's columns."""
    return all(name in table.column_names for name in _MARKS) and "lora_id" not in table.column_names


def from_reference_layout(table: pa.Table) -> pa.Table:
    """The reference package's table with our column names; its other columns are kept as they are."""
    return table.rename_columns([_OURS.get(name, name) for name in table.column_names])


def check_reference_layout(table: pa.Table) -> None:
    """Raises DatabaseError for rows without a CivitAI version, which the reference package cannot hold."""
    without = table["version_id"].null_count
    if without:
        raise DatabaseError(
            f"{without} rows have no CivitAI version id, which the reference layout needs.", 'Save with layout="carlos" instead.'
        )


def to_reference_layout(table: pa.Table) -> pa.Table:
    """Our table as the reference package would have written it. Raises as `check_reference_layout` does.

    Columns that only the reference package knows are filled from the table if it has kept them, and are null otherwise.
    """
    check_reference_layout(table)
    columns = {
        "version_id": pa.int64(),
        "model_id": pa.int64(),
        "model_name": pa.string(),
        "model_description": pa.string(),
        "model_nsfw_level": pa.int64(),
        "folder_name": pa.string(),
        "direction": pa.list_(pa.float64()),
        "strength": pa.float64(),
        "consistency": pa.float64(),
        "model_download_count": pa.int64(),
    }
    arrays = {}
    for name, type_ in columns.items():
        ours = _OURS.get(name, name)
        arrays[name] = pc.cast(table[ours], type_) if ours in table.column_names else pa.nulls(table.num_rows, type_)
    return pa.table(arrays)

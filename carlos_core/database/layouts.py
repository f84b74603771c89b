"""How a database's file is laid out: with all that is known, or as the reference package writes and reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from ..errors import DatabaseError
from . import columns as schema
from . import reference

if TYPE_CHECKING:
    from .database import MetricsDatabase

OURS, REFERENCE = LAYOUTS = ("carlos", "reference")


def check_layout(database: MetricsDatabase, layout: str) -> None:
    """Raises DatabaseError if a database cannot be written in a layout."""
    if layout not in LAYOUTS:
        raise DatabaseError(f"There is no layout {layout!r}.", f'Choose "{OURS}" or "{REFERENCE}".')
    if layout == REFERENCE:
        reference.check_reference_layout(database.table)
    elif database.encoder_id is None:
        raise DatabaseError(
            f"It is not known which encoder made the rows of {database.name}.",
            "Open the file with load_database(path, encoder_id=...).",
        )


def table_to_write(database: MetricsDatabase, layout: str, stamp: str) -> pa.Table:
    """The rows and facts of a database as a file holds them. Raises DatabaseError if there is no such layout for them."""
    check_layout(database, layout)
    if layout == REFERENCE:
        return reference.to_reference_layout(database.table).replace_schema_metadata(schema.stamped(stamp))
    assert database.encoder_id is not None, "it was checked"
    facts = (database.encoder_id, database.protocols)
    return database.table.replace_schema_metadata(schema.pack_metadata(*facts, stamp, database.made_from))

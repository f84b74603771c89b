"""The database file that a node writes to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ... import carlos_core as carlos
from ...carlos_core.errors import DatabaseError

if TYPE_CHECKING:
    from ...carlos_core.database.database import MetricsDatabase
    from ...carlos_core.database.target import DatabaseFile


def own_database(database: MetricsDatabase) -> DatabaseFile:
    """The file of a database that can be written. Otherwise raises DatabaseError, with what to do in ComfyUI."""
    try:
        return carlos.DatabaseFile.of(database)
    except DatabaseError as error:
        raise DatabaseError(error.what, "Type a name into create_as of Metrics DB Loader.") from error

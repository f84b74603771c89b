"""Metrics databases: rows of LoRAs in a parquet file."""

from .bundled import BUNDLED_PATH, copy_bundled_database, load_bundled_database
from .parquet import change_database, create_database, load_database, upsert_into_file
from .schema import DEFAULT_ENCODER_ID, check_storable
from .store import MetricsDatabase

__all__ = [
    "BUNDLED_PATH",
    "DEFAULT_ENCODER_ID",
    "MetricsDatabase",
    "change_database",
    "check_storable",
    "copy_bundled_database",
    "create_database",
    "load_bundled_database",
    "load_database",
    "upsert_into_file",
]

"""The smallest rows and databases that tests need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from carlos_core.database.database import MetricsDatabase
from carlos_core.records import LoraMetadata, LoraRecord


def a_row(lora_id: str, direction: list[float] | np.ndarray | None = None, **facts: Any) -> LoraRecord:
    """A row with made-up metrics within the published limits."""
    said = {name: facts.pop(name) for name in vars(LoraMetadata()) if name in facts}
    made_up = {"strength": 5.0, "consistency": 0.2, **facts}
    direction = np.asarray([1, 0, 0, 0] if direction is None else direction, np.float32)
    return LoraRecord(lora_id=lora_id, direction=direction, metadata=LoraMetadata(**said), **made_up)


def lora_id_of(database: MetricsDatabase, file: str) -> str:
    """Id of the row of a file."""
    return next(row["lora_id"] for row in database.table.to_pylist() if row["file_name"] == file)


def old_file(path: Path) -> bytes:
    """A database with the row "old". Returns its content."""
    database = MetricsDatabase.empty("some encoder", dimension=4)
    database.upsert(a_row("old"))
    database.save_parquet(path)
    return path.read_bytes()

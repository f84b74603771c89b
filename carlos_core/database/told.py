"""Which database was used, as reports and the command line say it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..counting import counted
from ..records import RACE

if TYPE_CHECKING:
    from .database import MetricsDatabase


def database_line(database: MetricsDatabase) -> str:
    """In words: "database my_loras.parquet: 23 LoRAs, encoder ViT-B-32-quickgelu/openai"."""
    of = database_facts(database)
    name = f"database {of['file']}" if of["file"] else "a database without a file"
    read_only = " (bundled, read-only)" if database.read_only else ""
    n_raced = raced(database)
    few = f" ({n_raced} of few pictures, by a race: Index Library finishes them)" if n_raced else ""
    return f"{name}{read_only}: {counted(of['rows'], 'LoRA')}{few}, encoder {of['encoder_id'] or 'unknown'}"


def raced(database: MetricsDatabase) -> int:
    """How many rows rest on the few pictures that a race made."""
    by_race = {name for name, described in database.protocols.items() if (described or {}).get("preset") == RACE}
    return sum(row.protocol_id in by_race for row in database.measured) if by_race else 0


def database_facts(database: MetricsDatabase) -> dict[str, Any]:
    """For scripts. file: null if it has none."""
    file = database.path.name if database.path is not None else None
    return {"file": file, "rows": len(database), "encoder_id": database.encoder_id}

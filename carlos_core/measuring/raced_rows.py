"""Rows of a race in the database: all in one change, and never in the place of a better one."""

from __future__ import annotations

from collections.abc import Sequence

from ..database.database import MetricsDatabase
from ..records import RACE, LoraRecord
from .indexer import Indexer
from .protocol import has_effect, is_unsuitable


def keep_raced(indexer: Indexer, rows: Sequence[LoraRecord]) -> int:
    """Put rows into the database, but not in the place of any that does not come from a race. Returns how many.

    A row of a race is replaced by one with more pairs of pictures; one of other settings or of another model also by one with as
    many, and by any if it found no effect or was measured on pictures that do not show their prompts. indexer: of the preset
    "race".
    Raises DatabaseError; then none is kept.
    """
    kept: list[str] = []

    def put(database: MetricsDatabase) -> None:
        kept.clear()
        for record in rows:
            there = database.row(database.id_of(record.lora_id, record.sha256))
            if there is None or _is_poorer(there, record, database):
                database.upsert(record, indexer.protocol.described())
                kept.append(record.lora_id)

    if rows:
        indexer.target.change(put)
    return len(kept)


def is_raced(row: LoraRecord, database: MetricsDatabase) -> bool:
    """Whether a row rests on the few pictures of a race, which may go on; database: that it is in."""
    described = database.protocols.get(row.protocol_id or "") or {}
    return described.get("preset") == RACE


def _is_poorer(there: LoraRecord, record: LoraRecord, database: MetricsDatabase) -> bool:
    """Whether a row that is there may be replaced."""
    if not is_raced(there, database):
        return False
    more = (record.n_images or 0) - (there.n_images or 0)
    if there.protocol_id == record.protocol_id:
        return more > 0
    says_more = _says_something(record) - _says_something(there)
    return says_more > 0 or (says_more == 0 and more >= 0)


def _says_something(row: LoraRecord) -> bool:
    """Whether a row found an effect, on pictures that show their prompts."""
    return has_effect(row.measured) and not is_unsuitable(row.measured)

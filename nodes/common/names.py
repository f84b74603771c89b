"""What a report says to somebody who asks for a LoRA by its name where only effects are searched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...carlos_core.search.by_name import named_in
from ..host import lora_folder

if TYPE_CHECKING:
    from ...carlos_core.database.database import MetricsDatabase


def notes_of(query: str, database: MetricsDatabase, *, is_lost: bool) -> list[str]:
    """That names are not searched, for a query that holds some. is_lost: whether nothing was found for it."""
    columns = [column for column in ("model_name", "file_name", "folder_name") if column in database.table.column_names]
    names = [*lora_folder.lora_names(), *(str(name) for column in columns for name in database.column(column) if name)]
    named = named_in(query, names, is_lost=is_lost)
    if not named:
        return []
    return [f"Names are not searched here: LoRAs by Name finds {', '.join(map(repr, named))}."]

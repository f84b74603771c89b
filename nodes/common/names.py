"""What a report says to somebody who asks for a LoRA by its name where only effects are searched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...carlos_core.search.by_name import Place, named_in
from ..host import lora_folder

if TYPE_CHECKING:
    from ...carlos_core.database.database import MetricsDatabase


def notes_of(query: str, database: MetricsDatabase, installed: Mapping[str, str], *, is_lost: bool) -> list[str]:
    """That names are not searched, for a query that holds some.

    Args:
        query: what was asked for.
        database: what was searched.
        installed: lora_id -> name in ComfyUI's list, of the database's LoRAs.
        is_lost: whether nothing was found for the query.
    """
    named = named_in(query, database, lora_folder.lora_names(), installed, is_lost=is_lost)
    if not named:
        return []
    found, unmeasured, unknown = (
        ", ".join(repr(each.name) for each in named if each.place is place)
        for place in (Place.DATABASE, Place.FILES, Place.NOWHERE)
    )
    notes = [f"Names are not searched here: LoRAs by Name finds {found}."] if found else []
    if unmeasured:
        are, them = ("are", "them") if sum(each.place is Place.FILES for each in named) > 1 else ("is", "it")
        notes.append(f"Names are not searched here, and {unmeasured} {are} not measured: index {them} first.")
    if unknown:
        notes.append(f"Names are not searched here; no LoRA is called {unknown}.")
    return notes

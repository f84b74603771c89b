"""What a report says to somebody who asks for a LoRA by its name where only effects are searched."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ...carlos_core.search.names_in_queries import Named, Place, named_in, strangers, without_names
from ..host import lora_folder
from .model_fit import misfit_of

if TYPE_CHECKING:
    from ...carlos_core.database.database import MetricsDatabase
    from .model_fit import ForModel


def in_query(query: str, database: MetricsDatabase, allowed: ForModel, *, is_lost: bool = False) -> list[Named]:
    """The names of LoRAs in a query, see `named_in`, among all files. is_lost: whether nothing was found for it."""
    return named_in(query, database, lora_folder.lora_names(), allowed.installed, is_lost=is_lost)


def is_only_name(query: str, database: MetricsDatabase, allowed: ForModel) -> bool:
    """Whether a query says nothing but names of LoRAs."""
    named = in_query(query, database, allowed)
    return bool(named) and not without_names(query, named)


def notes_of(
    query: str, database: MetricsDatabase, allowed: ForModel, *, is_lost: bool, chosen: Collection[str] = ()
) -> list[str]:
    """That names are not searched, for a query that holds some, and which of them are for other models.

    Args:
        query: what was asked for.
        database: what was searched.
        allowed: among which LoRAs. Where the limits leave none, it is they and no name that nothing was found for.
        is_lost: whether nothing was found for the query.
        chosen: ids of what was chosen.
    """
    is_lost = is_lost and bool(allowed.limits.mask(database, allowed.installed).any())
    called = strangers(in_query(query, database, allowed, is_lost=is_lost), chosen)
    if not called:
        return []
    # To index or to search them would lead nowhere.
    misfits = [each for each in called if each.file in allowed.misfits]
    named = [each for each in called if each not in misfits]
    found, unmeasured, unknown = (
        ", ".join(repr(each.name) for each in named if each.place is place)
        for place in (Place.DATABASE, Place.FILES, Place.NOWHERE)
    )
    notes = [misfit_of(repr(each.name), allowed.misfits[each.file], allowed.model) for each in misfits]
    notes += [f"Names are not searched here: LoRAs by Name finds {found}."] if found else []
    if unmeasured:
        are, them = ("are", "them") if sum(each.place is Place.FILES for each in named) > 1 else ("is", "it")
        notes.append(f"Names are not searched here, and {unmeasured} {are} not measured: index {them} first.")
    if unknown:
        notes.append(f"Names are not searched here; no LoRA is called {unknown}.")
    return notes

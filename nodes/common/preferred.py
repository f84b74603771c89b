"""LoRAs that were made for the checkpoint: which they are, and what a report says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...carlos_core.loras.lines import closeness, line_of, line_of_choice
from ...carlos_core.search.matches import Match
from ...carlos_core.search.preference import Preference
from ..host import lora_folder
from ..host.checkpoint import checkpoint_of

if TYPE_CHECKING:
    from ...carlos_core.database.database import MetricsDatabase

BY_CHOICE = "base_model"
"""Instead of the name of a checkpoint's file: the input where the user says what it is."""


def preference_for(database: MetricsDatabase, installed: Mapping[str, str], hidden: Any, family: str | None) -> Preference | None:
    """The preference for the checkpoint of a node's model; None if nothing is known of it.

    Args:
        database: the rows that are searched.
        installed: lora_id -> name in ComfyUI's list.
        hidden: of the node, see `checkpoint_of`.
        family: what the user chose as base model, None if that is left to us.
    """
    known = checkpoint_of(hidden)
    named = known.line if known is not None else None
    line = line_of_choice(family, named)
    if line is None:
        return None
    library = lora_folder.lora_library()
    near = {}
    columns = (database.column(name) for name in ("lora_id", "base_model", "file_name"))
    for lora_id, label, file_name in zip(*columns, strict=True):
        name = installed.get(lora_id)
        entry = library.entry(name) if name is not None else None
        its_line = line_of((entry.line if entry is not None else None, label, name or file_name))
        near[lora_id] = closeness(line, its_line)
    known_by = known.name if known is not None and line == named else BY_CHOICE
    return Preference(line, known_by, {lora_id: how for lora_id, how in near.items() if how})


def notes_of(preference: Preference | None, matches: Sequence[Match], database: MetricsDatabase) -> list[str]:
    """Which of the matches were made for the checkpoint, and which come before others for that reason."""
    made_for = [match.name for match in matches if preference is not None and match.lora_id in preference.closeness]
    if preference is None or not made_for:
        return []
    source = "as chosen" if preference.known_by == BY_CHOICE else f"as the checkpoint {preference.known_by}"
    notes = [f"Made for {preference.line} or what is nearest to it, {source}: {', '.join(made_for)}."]
    for match in matches:
        if match.preferred_to:
            rows = ((lora_id, database.row(lora_id)) for lora_id in match.preferred_to)
            others = ", ".join(row.name if row is not None else lora_id for lora_id, row in rows)
            notes.append(f"{match.name} is therefore preferred to {others}: they fit the query about equally well.")
    return notes


def facts_of(preference: Preference | None, matches: Sequence[Match]) -> dict[str, Any]:
    """The same for scripts, as an entry of the report's facts; empty if nothing is known of the checkpoint."""
    if preference is None:
        return {}
    preferred = [{"lora_id": match.lora_id, "to": list(match.preferred_to)} for match in matches if match.preferred_to]
    made_for = [match.lora_id for match in matches if match.lora_id in preference.closeness]
    facts = {"line": preference.line, "known_by": preference.known_by, "made_for": made_for, "preferred": preferred}
    return {"preference": facts}

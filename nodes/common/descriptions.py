"""What LoRAs do, in words: told anew where rows changed, and as it stands with them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ...carlos_core.errors import CarlosError, DatabaseError
from ...carlos_core.foreign import printable
from ...carlos_core.search.describing import Describer, keep_with_rows
from ..host import folders, runtime

if TYPE_CHECKING:
    from ...carlos_core.database.database import MetricsDatabase
    from ...carlos_core.database.target import Target
    from ...carlos_core.progress import OnProgress
    from ...carlos_core.search.describing import Description
    from ...carlos_core.search.matches import Match

UNKNOWN = "-"

logger = logging.getLogger(__name__)


def describer_of(database: MetricsDatabase) -> Describer:
    """What describes a database's LoRAs, with the user's own phrases. Raises PromptSetError for a file that holds none."""
    return Describer(runtime.searcher(database), folders.own_phrases())


def renewed(target: Target, on_progress: OnProgress | None = None) -> tuple[dict[str, str], list[str]]:
    """What each LoRA of a database does, in words, by id, and lines to be said about it.

    Rows that were measured since they were described are described now, and all rows if the phrases or the number of LoRAs have
    changed. The first time, the phrases are encoded. What fails here ends no run whose rows are kept: a line says so.
    """
    database = target.read()
    notes: list[str] = []
    told: list[Description] = []
    try:
        describer = describer_of(database)
        stale = describer.stale()
        told = describer.describe(stale, on_progress) if stale else []
        notes.append(f"what each does: {told_by(describer)}")
        notes += [f"not kept with the rows: {reason}"] if (reason := not_kept(target, database, told, describer)) else []
    # The encoder may lack memory. A cancel is not one of these.
    except (CarlosError, OSError, RuntimeError, MemoryError) as error:
        logger.warning("carlos: the LoRAs were not described: %s", error)
        notes.append(f"not said in words what they do: {printable(str(error)) or type(error).__name__}")
    kept = zip(database.column("lora_id"), database.column("described_as"), strict=True)
    words = {lora_id: said for lora_id, said in kept if said is not None}
    return words | {description.lora_id: description.text for description in told}, notes


def told_by(describer: Describer) -> str:
    """By what a database's LoRAs are described, in words."""
    n_loras = describer.n_loras
    among = f"among {n_loras} LoRAs with an effect" if n_loras > 1 else "with no other LoRA to compare with"
    return f"told by {describer.n_phrases} phrases (yours: phrases.txt in models/carlos), {among}"


def not_kept(target: Target, database: MetricsDatabase, told: Sequence[Description], describer: Describer) -> str:
    """Keep descriptions with their rows. Returns why they are not kept; empty if they are."""
    try:
        keep_with_rows(target, database, told, describer.mark)
    except DatabaseError as error:
        logger.warning("carlos: what the LoRAs do was not kept: %s", error)
        return printable(str(error))
    return ""


def of_matches(database: MetricsDatabase, matches: Iterable[Match]) -> dict[str, str]:
    """What matches do, in words, by id, where it costs next to nothing: as their rows say, or by the bank of this very search."""
    matches = list(matches)
    words = {match.lora_id: match.record.described_as for match in matches if match.record.described_as is not None}
    missing = [match.lora_id for match in matches if match.lora_id not in words]
    # Only a calibrated search has used the bank: what is said must not depend on what was asked before.
    is_calibrated = any(match.confidence is not None for match in matches)
    searcher = runtime.searcher_at_hand(database) if missing and is_calibrated else None
    if searcher is not None and searcher.has_background:
        words |= {description.lora_id: description.text for description in Describer(searcher).describe(missing)}
    return words


def column(words: Mapping[str, str]) -> tuple[str, ...]:
    """The header of the column of words in a table; none where nothing is known of any LoRA."""
    return ("what it does",) if words else ()


def cell(words: Mapping[str, str], lora_id: str) -> tuple[str, ...]:
    """A LoRA's cell of that column."""
    return (words.get(lora_id, UNKNOWN),) if words else ()

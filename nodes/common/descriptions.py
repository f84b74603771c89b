"""What LoRAs do, in words: told anew where rows changed, and as it stands with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ...carlos_core.search import renewing
from ...carlos_core.search.describing import Describer
from ...carlos_core.search.renewing import not_kept as not_kept  # noqa: PLC0414
from ...carlos_core.search.renewing import told_by as told_by  # noqa: PLC0414
from ..host import folders, runtime

if TYPE_CHECKING:
    from ...carlos_core.database.database import MetricsDatabase
    from ...carlos_core.database.target import Target
    from ...carlos_core.progress import OnProgress
    from ...carlos_core.search.matches import Match

UNKNOWN = "-"


def describer_of(database: MetricsDatabase) -> Describer:
    """What describes a database's LoRAs, with the user's own phrases. Raises PromptSetError for a file that holds none."""
    return Describer(runtime.searcher(database), folders.own_phrases())


def renewed(target: Target, on_progress: OnProgress | None = None) -> tuple[dict[str, str], list[str]]:
    """What each LoRA of a database does, in words, by id, and lines to be said about it.

    Rows that were measured since they were described are described now, and all rows if the phrases or the number of LoRAs have
    changed. The first time, the phrases are encoded. What fails here ends no run whose rows are kept: a line says so.
    """
    return renewing.renewed(target, describer_of, on_progress)


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
    return ("nearest phrases",) if words else ()


def cell(words: Mapping[str, str], lora_id: str) -> tuple[str, ...]:
    """A LoRA's cell of that column."""
    return (words.get(lora_id, UNKNOWN),) if words else ()

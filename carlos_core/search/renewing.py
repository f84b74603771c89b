"""What LoRAs do, in words, told anew where rows changed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..errors import CarlosError, DatabaseError
from ..foreign import printable, reason_of
from .describing import Describer, keep_with_rows

if TYPE_CHECKING:
    from ..database.database import MetricsDatabase
    from ..database.target import Target
    from ..progress import OnProgress
    from .describing import Description

logger = logging.getLogger(__name__)


def renewed(
    target: Target, describer_of: Callable[[MetricsDatabase], Describer], on_progress: OnProgress | None = None
) -> tuple[dict[str, str], list[str]]:
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
        notes.append(f"not said in words what they do: {reason_of(error)}")
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

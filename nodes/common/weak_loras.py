"""What a report says of LoRAs that will hardly be seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...carlos_core.search.weak import usual_strength, weakness
from .report import number

if TYPE_CHECKING:
    from ...carlos_core.database.database import MetricsDatabase
    from ...carlos_core.search.matches import Match


def notes_of(database: MetricsDatabase, weighed: Iterable[tuple[Match, float]]) -> list[str]:
    """A line for each LoRA that is far weaker than the others of its database, at the weight that it is to be applied with."""
    usual = usual_strength(database)
    notes = []
    for match, weight in weighed:
        weak = weakness(match.vector.strength, usual, weight)
        if weak is not None:
            measured = f"its strength is {number(weak.strength, 2)}, and the median of this database is {number(weak.usual, 2)}"
            notes.append(f"{match.name} may hardly be seen: {measured}. Raise its weight, or take another LoRA.")
    return notes

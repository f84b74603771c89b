"""What a report says of LoRAs that will hardly be seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...carlos_core.search.weak import median_strength, weakness
from .report import number

if TYPE_CHECKING:
    from ...carlos_core.database.database import MetricsDatabase
    from ...carlos_core.search.matches import Match


RAISE = "Raise its weight, or take another LoRA."
EMPHASISE = 'Emphasise it in the query, as in "(snow:1.5)", or raise its weight in a copy of the choice.'
"""What to do, for nodes that have a weight, and for Auto LoRA."""


def notes_of(database: MetricsDatabase, weighed: Iterable[tuple[Match, float]], advice: str = RAISE) -> list[str]:
    """A line for each LoRA that is far weaker than the others of its database, at the weight that it is to be applied with.

    advice: what to do about it, a sentence.
    """
    usual = median_strength(database)
    notes = []
    for match, weight in weighed:
        weak = weakness(match.vector.strength, usual, weight)
        if weak is not None:
            measured = f"its strength is {number(weak.strength, 2)}, and the median of this database is {number(weak.usual, 2)}"
            notes.append(f"{match.name} may hardly be seen: {measured}. {advice}")
    return notes

"""What a report says of LoRAs that will hardly be seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...carlos_core.search.matches import own_weight
from ...carlos_core.search.weak import faded, median_strength, weakness
from .report import number

if TYPE_CHECKING:
    from ...carlos_core.database.database import MetricsDatabase
    from ...carlos_core.search.limits import ChoiceRules
    from ...carlos_core.search.matches import Match
    from ...carlos_core.search.selection import Selection


RAISE = "Raise its weight, or take another LoRA."
EMPHASISE = 'Emphasise it in the query, as in "(snow:1.5)", or raise its weight in a copy of the choice.'
"""What to do, for nodes that have a weight, and for Auto LoRA."""

LOWER = "Ask for fewer effects at once, lower keep_content, or emphasise this one in the query."
"""What to do where the weight was reduced beside others, or for the prompt's sake."""

_NOTHING = 0.005
"""A strength that is 0.00 in figures: no weight makes an effect of it."""


def notes_of(database: MetricsDatabase, weighed: Iterable[tuple[Match, float]], advice: str = RAISE) -> list[str]:
    """A line for each LoRA that is far weaker than the others of its database, at the weight that it is to be applied with.

    advice: what to do about it, a sentence.
    """
    usual = median_strength(database)
    notes = []
    for match, weight in weighed:
        weak = weakness(match.vector.strength, usual, weight)
        if weak is not None and weak.strength < _NOTHING:
            notes.append(f"{match.name} changes nothing: its strength is {number(weak.strength, 2)}. Take another LoRA.")
        elif weak is not None:
            measured = f"its strength is {number(weak.strength, 2)}, and the median of this database is {number(weak.usual, 2)}"
            notes.append(f"{match.name} may hardly be seen: {measured}. {advice}")
    return notes


def notes_of_choice(database: MetricsDatabase, selection: Selection, rules: ChoiceRules) -> list[str]:
    """The same for what Auto LoRA applies, and a line for each LoRA whose weight was reduced until it can hardly be seen.

    What the query itself plays down is not told. rules: that it was chosen by.
    """
    usual = median_strength(database)
    effects = () if selection.understanding is None else selection.understanding.effects
    played_down = {effect.text for effect in effects if effect.weight < 1}
    notes = notes_of(database, ((pick.match, pick.weight) for pick in selection.picks), EMPHASISE)
    for pick in selection.picks:
        weak = faded(pick.match.vector.strength, usual, pick.weight, own_weight(pick.match, rules))
        if weak is not None and pick.part not in played_down:
            left = f"at the weight that is left to it ({number(pick.weight, 2)}) it changes pictures by"
            by = f"{number(weak.strength, 2)}, and the median of this database is {number(weak.usual, 2)}"
            notes.append(f"{pick.match.name} may hardly be seen: {left} {by}. {LOWER}")
    return notes

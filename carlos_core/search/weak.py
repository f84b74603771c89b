"""LoRAs that change pictures far less than others of their database do.

Such a LoRA may fit a query clearly, since only its direction counts there, and be hardly seen all the same. It is far below when
its strength, at the weight that it is applied with, is less than half of the median. Of the 515 published rows that a search with
the usual limits finds, the weakest has 0.65 of the median of all 740: none of them is called weak. Of all 740 it is 12, which
adjust details and do no one thing (consistency below 0.017). The mini-world's LoRA that is hardly visible has 0.11 of the median
there, its ordinary ones 0.88 or more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..database.database import MetricsDatabase

WEAK_SHARE = 0.5
"""Of the median strength."""

_ROUNDING = 1e-3
"""Weights of choices have three decimals."""

_FEWEST = 5
"""Of fewer LoRAs with an effect a median says little."""


class Weak(NamedTuple):
    """A LoRA that is far weaker than usual, or has become so."""

    strength: float
    """As measured, raw CLIP units."""

    usual: float
    """The median of its database, of the LoRAs with an effect."""


def median_strength(db: MetricsDatabase) -> float | None:
    """The median strength of the LoRAs with an effect, in raw CLIP units; None if there are too few to tell."""
    arrays = db.ranking_arrays
    return arrays.median_strength if int((arrays.norms > 0).sum()) >= _FEWEST else None


def weakness(strength: float, usual: float | None, weight: float = 1.0) -> Weak | None:
    """What to say of a LoRA that is far weaker than usual; None if it is not.

    Args:
        strength: as measured, raw CLIP units.
        usual: what `median_strength` says of its database.
        weight: that it is applied with. More than 1 makes up for a low strength; less was chosen, and is not held against it.
    """
    if usual is None or strength * max(1.0, abs(weight)) >= WEAK_SHARE * usual:
        return None
    return Weak(strength, usual)


def faded(strength: float, usual: float | None, weight: float, own: float) -> Weak | None:
    """What to say of a LoRA that is no weaker than others, and hardly seen at the weight that was left to it beside others, or so
    that the prompt stays visible (`keeping`); None if it can be seen.

    Of four LoRAs of the mini-world, snow, flames and hearts are hardly seen in a picture at half their weight, and lines as of a
    pencil are.

    Args:
        strength: as measured, raw CLIP units.
        usual: what `median_strength` says of its database.
        weight: that it is applied with.
        own: that it has alone. A low one that nothing was taken from was suggested for what it does.
    """
    is_reduced = abs(weight) < abs(own) - _ROUNDING
    if usual is None or not is_reduced or weakness(strength, usual) is not None:
        return None
    left = strength * abs(weight)
    return Weak(left, usual) if left < WEAK_SHARE * usual else None

"""Which pairs of pictures say what a LoRA does, of those whose small pictures are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import numpy as np

from ..drawing.pair import Pair
from .contact_sheet import thumbnail, worth_a_thumbnail
from .plan import Shot
from .studio import Side, diff

MOST = 4
TYPICAL, STRONGEST, WEAKEST = KINDS = ("typical", "strongest", "weakest")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A pair of pictures that may be kept."""

    pair: Pair
    topic: str
    effect: float
    """How far the LoRA moves this picture in its own direction, raw CLIP units; below 0 if it moves it the other way."""


class Telling(NamedTuple):
    """A pair that was chosen, and for what."""

    pair: Pair
    kind: str
    """One of `KINDS`."""


def candidates(base: Side, with_lora: Side, shots: Sequence[Shot], direction: np.ndarray) -> list[Candidate]:
    """The pairs of a measurement whose small pictures are still there.

    Args:
        base: the side without the LoRA.
        with_lora: the side with it.
        shots: of the plan, in its order.
        direction: of the LoRA's row, [D].
    """
    length = float(np.linalg.norm(direction))
    found = []
    for shot in worth_a_thumbnail(shots):
        if any(side.store.get(side.text(shot), shot.seed) is None for side in (base, with_lora)):
            continue
        without, changed = (thumbnail(side.store, side.text(shot), shot.seed) for side in (base, with_lora))
        if without is not None and changed is not None:
            moved = diff(base, with_lora, shot)
            effect = float(moved @ direction) / length if length else float(np.linalg.norm(moved))
            found.append(Candidate(Pair(shot.prompt.text, shot.seed, without, changed), shot.prompt.topic, effect))
    return found


def telling(found: Sequence[Candidate]) -> tuple[Telling, ...]:
    """At most four pairs: two typical ones, the one of the strongest effect, and the one of the weakest.

    Typical are the two whose effects are nearest to the median of all; pairs of topics that are not shown yet come first. So the
    pictures neither flatter nor hide: most of the LoRA's pictures look like the first two, and none is beyond the last two.
    """
    left = sorted(found, key=lambda candidate: -candidate.effect)
    extremes = [(left.pop(0), STRONGEST)] if left else []
    extremes += [(left.pop(), WEAKEST)] if left else []
    middle = median(candidate.effect for candidate in found) if found else 0.0
    topics = {candidate.topic for candidate, _kind in extremes}
    typical: list[Candidate] = []
    while left and len(typical) + len(extremes) < MOST:
        nearest = min(left, key=lambda candidate: (candidate.topic in topics, abs(candidate.effect - middle)))
        left.remove(nearest)
        topics.add(nearest.topic)
        typical.append(nearest)
    chosen = [*((candidate, TYPICAL) for candidate in typical), *extremes]
    return tuple(Telling(candidate.pair, kind) for candidate, kind in chosen)

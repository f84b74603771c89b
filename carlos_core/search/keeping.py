"""How much LoRAs change pictures together, and weights at which pictures still show their prompts.

What is left of a prompt falls with the length of the whole change (`studies/content.py`). That length is predicted to first
order: LoRA i with weight w_i adds w_i times its direction to every picture, and to each picture something of its own that is
independent of what the others add. The mean square of the latter is strength^2 - |direction|^2 at weight 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .limits import KEEP_CONTENT, ChoiceRules
from .matches import own_weight
from .selection import Pick, candidates_of
from .weights import Candidates

BREAKS_AT = 7.5
"""Joint change, raw CLIP units, from which pictures often show next to nothing of their prompts, as `measuring.base_check` has
it. Under the mini-world's two CLIPs 44 and 78% of the sides beyond it did, and it misses 12 and 23% of those that did
(`studies/content_foretold.py`)."""

_ROUNDED = 1.002
"""Weights are rounded to 0.001."""

_SAID_FROM = 0.005
"""What is taken from the weights in all and would not be seen in two decimals is not told."""


@dataclass(frozen=True)
class Keeping:
    """How much LoRAs change pictures together, and what was taken from their weights so that they leave the prompt."""

    before: float
    """What the weights added up to before."""

    total: float
    """What they add up to now."""

    change: float
    """Predicted length of the joint change, raw CLIP units."""

    change_alone: float
    """That of the LoRA which changes pictures most when it is applied alone, at its own weight, without emphasis."""

    n_loras: int = 2

    @property
    def may_break(self) -> bool:
        """Whether pictures are expected to show next to nothing of their prompts.

        How much one LoRA may change them at its own weight is what `SearchLimits.max_strength` says.
        """
        return self.change > max(BREAKS_AT, self.change_alone * _ROUNDED)

    @property
    def facts(self) -> dict[str, float | bool]:
        """For scripts."""
        return {"weights_before": round(self.before, 3), "change": round(self.change, 3), "may_break": self.may_break}

    @property
    def notes(self) -> tuple[str, ...]:
        """What was taken, and what is expected, one sentence each."""
        said = []
        if self.before - self.total > _SAID_FROM:
            what = "more of the prompt" if self.may_break else "the prompt"
            said.append(
                f"Weights reduced from {self.before:.2f} to {self.total:.2f} in all, so that {what} stays visible; "
                "keep_content 0 leaves them as they were."
            )
        if self.may_break:
            change = "the LoRA changes" if self.n_loras == 1 else "the LoRAs together change"
            said.append(
                f"The picture may show little of its prompt: {change} pictures by about {self.change:.1f}, and from "
                f"{BREAKS_AT:g} on many show next to none of it. Raise keep_content, or lower strength_budget or the emphasis."
            )
        return tuple(said)


def joint_change(candidates: Candidates, weights: np.ndarray) -> float:
    """Predicted root mean square length of what LoRAs change together, raw CLIP units. weights: [K].

    For one LoRA it is its weight times its strength. It grows in proportion to the weights.
    """
    shared = float(np.linalg.norm(weights @ candidates.directions))
    own = np.maximum(candidates.strength**2 - (candidates.directions**2).sum(axis=1), 0.0)
    return float(np.sqrt(shared**2 + (weights**2 * own).sum()))


def kept(candidates: Candidates, weights: np.ndarray, alone: np.ndarray, keep_content: float) -> np.ndarray:
    """Weights made smaller, all by one factor, until the LoRAs leave enough of the prompt. [K]; as they are if they do already.

    Together the LoRAs may change pictures by KEEP_CONTENT / keep_content times what the strongest of them changes alone.

    Args:
        candidates: the LoRAs, K of them.
        weights: [K] > 0.
        alone: [K] > 0, the weight that each LoRA might have alone: emphasis is what somebody asks for, and is not taken back.
        keep_content: in [0, 1]; 0 for no limit.
    """
    change = joint_change(candidates, weights)
    if keep_content == 0 or change == 0:
        return weights
    most = KEEP_CONTENT / keep_content * float((alone * candidates.strength).max())
    # What comes from rounding is not taken from a LoRA that is alone.
    return weights if change <= most * _ROUNDED else weights * (most / change)


def keeping(picks: tuple[Pick, ...], alone: Sequence[float], rules: ChoiceRules) -> tuple[tuple[Pick, ...], Keeping | None]:
    """Picks with weights that leave enough of the prompt, and what that took; None if there are no picks.

    alone: the weight that each might have alone, emphasis included.
    """
    if not picks:
        return picks, None
    candidates = candidates_of([pick.match for pick in picks], rules)
    before = np.array([pick.weight for pick in picks])
    weights = np.round(kept(candidates, before, np.array(alone), rules.keep_content), 3)
    chosen = tuple(replace(pick, weight=float(weight)) for pick, weight in zip(picks, weights, strict=True))
    own = np.array([own_weight(pick.match, rules) for pick in picks])
    strongest = float((own * candidates.strength).max())
    return chosen, Keeping(
        float(before.sum()), float(weights.sum()), joint_change(candidates, weights), strongest, n_loras=len(picks)
    )

"""How sure a race is of its best, who drops out, and who gets the next pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from .race_scores import Scores, correlations

FIRST = 4
"""Pairs that every candidate gets at first, and that one gets at a visit at least."""

GROWTH = 4
"""At a visit, a candidate gets a further part of this many of the pairs that it has: applying a LoRA takes seconds."""

OUT = 0.001
"""Chance of being among the best below which a candidate counts as out."""

_USUAL = 2.5
"""Pictures of a whole race, in first pictures of all. Races of the mini-world from nothing took 1.1 (easy CLIP) and 2.7 (hard
CLIP) on average (`studies/results/race.md`)."""

_WIDTH = 2.0
_HOPELESS = 1e-4
_QUARTER = 0.25
_STEPS = np.linspace(-5, 5, 41)
_WEIGHTS = np.exp(-(_STEPS**2) / 2) / np.exp(-(_STEPS**2) / 2).sum()


def first_batch(candidates: int, pictures: int) -> int:
    """First pairs of each candidate: two if four would take more than half of the pictures (0: no limit) that can be made."""
    return 2 if pictures and 2 * FIRST * candidates > pictures else FIRST


def usual_pictures(candidates: int) -> int:
    """Pictures that a race from nothing usually takes, both sides. What it takes depends on how alike the best ones are."""
    return round(_USUAL * FIRST * (candidates + 1))


def round_of(taken: int, first: int) -> int:
    """Pairs of the next visit of a candidate that has `taken`; first: those of the first visit, which may be left half done."""
    return first - taken if taken < first else max(FIRST, taken // GROWTH // FIRST * FIRST)


def best(mean: np.ndarray, top_k: int) -> np.ndarray:
    """The candidates with the highest scores, best first; equal ones in their order. mean: [A]. [min(top_k, A)] int."""
    return np.argsort(-mean, kind="stable")[:top_k]


def confidence(
    mean: np.ndarray, deviation: np.ndarray, chosen: np.ndarray, tolerance: float, together: np.ndarray, least: float = -np.inf
) -> float:
    """Probability that no other candidate fits and has a score of more than `tolerance` above that of one of the chosen.

    Given the score of a chosen one, those of the others are taken as independent and normal: P = sum over t of P(it is t) times
    the product over the others of P(score <= max(t + tolerance, least)). What is left open by several chosen ones adds up.
    mean, deviation: [A]; chosen: indices [K]; together: correlations [K, A]; least: as of `Standing`. In [0, 1].
    """
    others = np.ones(len(mean), bool)
    others[chosen] = False
    deviation = np.maximum(deviation, 1e-9)
    doubt = 0.0
    for index, shared in zip(chosen, together, strict=True):
        near = others & (mean + 6 * deviation > max(mean[index] - 5 * deviation[index] + tolerance, least))
        own = shared[near]
        follows = mean[near] + own * deviation[near] * _STEPS[:, None]
        apart = deviation[near] * np.sqrt(1 - own**2)
        enough = np.maximum(mean[index] + deviation[index] * _STEPS[:, None] + tolerance, least)
        below = ndtr((enough - follows) / apart)
        doubt += 1 - float(_WEIGHTS @ np.prod(below, axis=1))
    return max(0.0, min(1.0, 1 - doubt))


def chances(
    mean: np.ndarray, deviation: np.ndarray, chosen: np.ndarray, tolerance: float, together: np.ndarray, least: float = -np.inf
) -> np.ndarray:
    """For each candidate, the probability that its score is more than `tolerance` above that of the last of the chosen, or that
    it fits, whichever is less. [A].

    together: its correlations with that one, [A]. least: as of `Standing`.
    """
    last = chosen[-1]
    variance = deviation**2 + deviation[last] ** 2 - 2 * together * deviation * deviation[last]
    found = ndtr((mean - mean[last] - tolerance) / np.sqrt(np.maximum(variance, 1e-18)))
    found = np.minimum(found, ndtr((mean - least) / np.maximum(deviation, 1e-9)))
    found[chosen] = 0.0
    return found


@dataclass(frozen=True, eq=False)
class Standing:
    """How a race stands. Indices are those of the candidates in `scores`.

    Which of those that do not fit is better is of no interest: none of them is chosen in the end.
    """

    scores: Scores
    chosen: np.ndarray
    """The best, best first: [K] int."""

    confidence: float
    """As `confidence`, with those that nobody has seen."""

    chances: np.ndarray
    """As `chances`. [A]."""

    unseen: int = 0
    """Candidates without pictures: their scores are as those of the others."""

    least: float = -np.inf
    """The score from which on a candidate fits."""

    @classmethod
    def of_nobody(cls) -> Standing:
        none = np.zeros(0)
        return cls(Scores(none, none, none, none, 0.0, 0.0), np.zeros(0, np.intp), 0.0, none)

    @classmethod
    def of(
        cls,
        scores: Scores,
        top_k: int,
        tolerance: float,
        noise: Sequence[np.ndarray],
        unseen: int = 0,
        least: float = -np.inf,
    ) -> Standing:
        """scores: of A >= 1 candidates. noise: `race_scores.noise_of` each; empty where it is not known."""
        chosen = best(scores.mean, top_k)
        together = correlations(noise, chosen.tolist())
        mean = np.concatenate([scores.mean, np.full(unseen, scores.centre)])
        deviation = np.concatenate([scores.deviation, np.full(unseen, scores.spread)])
        sure = confidence(mean, deviation, chosen, tolerance, np.pad(together, ((0, 0), (0, unseen))), least)
        better = chances(scores.mean, scores.deviation, chosen, tolerance, together[-1], least)
        return cls(scores, chosen, sure, better, unseen, least)

    @property
    def left(self) -> int:
        """How many are chosen or not out."""
        return len(self.chosen) + int((self.chances >= OUT).sum())

    @property
    def leader_fits(self) -> float:
        """Probability that the first of the chosen fits."""
        return float(self.may_fit[self.chosen[0]])

    @property
    def nothing_fits(self) -> float:
        """Probability that no candidate fits."""
        scores = self.scores
        unseen = ndtr((self.least - scores.centre) / max(scores.spread, 1e-9)) ** self.unseen
        return float(np.prod(1 - self.may_fit) * unseen)

    @property
    def may_fit(self) -> np.ndarray:
        """For each candidate, the probability that it fits. [A]."""
        return ndtr((self.scores.mean - self.least) / np.maximum(self.scores.deviation, 1e-9))


def following(standing: Standing, is_open: np.ndarray) -> int | None:
    """Who gets the next pictures (LUCB, Kalyanakrishnan et al. 2012, with posterior bounds); None if nobody can who may win.

    Of the chosen one with the lowest lower bound and the other one with the highest upper bound, it is the one known less. If no
    picture is left for either, it is the likeliest of the others. A chosen one that does not fit is known well enough.
    is_open: [A] bool, who can get pictures.
    """
    scores = standing.scores
    low, high = scores.mean - _WIDTH * scores.deviation, scores.mean + _WIDTH * scores.deviation
    chosen = standing.chosen[high[standing.chosen] >= standing.least]
    high[standing.chosen] = -np.inf
    pair = [int(chosen[low[chosen].argmin()])] if len(chosen) else []
    if len(standing.chosen) < len(high):
        pair.append(int(high.argmax()))
    if able := [index for index in pair if is_open[index]]:
        return max(able, key=lambda index: (scores.deviation[index], -index))
    chance = np.where(is_open, standing.chances, 0.0)
    return int(chance.argmax()) if chance.size and chance.max() > _HOPELESS else None


def doubling(standing: Standing, pairs: np.ndarray, is_open: np.ndarray, pictures: int) -> int | None:
    """Who gets the next pictures where a budget leaves few for each; None if nobody can.

    In the spirit of successive halving (Karnin, Koren and Somekh 2013): among so many of the best that as many pictures again as
    they have take a quarter of those that can still be made, the one with the fewest.
    pairs: [A] int, that each has; is_open: [A] bool, who can get pictures; pictures: how many can still be made.
    """
    order = best(standing.scores.mean, len(pairs))
    order = order[is_open[order]]
    takes = np.cumsum(np.maximum(pairs[order], FIRST))
    among = order[: max(len(standing.chosen) + 1, int(np.searchsorted(takes, _QUARTER * pictures)))]
    return int(among[pairs[among].argmin()]) if len(among) else None

"""Which LoRAs to put together for a query, and with which weights: pure functions over arrays.

The prediction is first-order: LoRAs with weights w_i move pictures by sum(w_i * direction_i). The weights that bring this sum
closest to the signature in cosine are the non-negative least squares solution, whose residual is at a right angle to the sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.optimize import nnls

from ..errors import RetrievalError
from .limits import MAX_STRENGTH

MAX_LIKENESS = 0.9
"""LoRAs whose directions have a higher cosine do the same: only the better one is taken."""

MIN_GAIN = 0.05
"""Least relative gain in cosine that a further LoRA must bring. An unrelated effect a third as large as the first brings
sqrt(1 + 1/9) - 1 = 0.054; what brings less is hardly part of the query."""

MAX_OVERDRIVE = 1.5
"""Highest weight of a LoRA in a composition, in units of the weight it has alone: effects are not measured beyond that."""

LEAST_SHARE = 0.5
"""A LoRA that is to be applied in any case gets at least this part of an equal share."""

_POOL = 12
_EXACT_SIZE = 3


@dataclass(frozen=True)
class Chosen:
    """A LoRA of a composition."""

    index: int
    """Its row among the candidates."""

    weight: float
    """For model and CLIP, > 0."""


@dataclass(frozen=True)
class Composition:
    """LoRAs that go together. Empty, with a cosine of 0, when no candidate points towards the signature."""

    chosen: tuple[Chosen, ...]
    """The one nearest to the query first."""

    cosine: float
    """Cosine of the predicted joint direction with the signature."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """LoRAs that may be put together."""

    ids: Sequence[str]
    """[R]. They decide the order of equal candidates."""

    directions: np.ndarray
    """[R, D], at weight 1."""

    strength: np.ndarray
    """[R], raw CLIP units, at weight 1."""

    base_weights: np.ndarray
    """[R] > 0, the weight at which each LoRA is used alone."""


@dataclass(frozen=True)
class WeightLimits:
    """How large weights may be."""

    strength_budget: float = 2.0
    """What all weights may add up to."""

    max_strength: float = MAX_STRENGTH
    """The most that one LoRA may change pictures, in raw CLIP units."""

    def weights(self, candidates: Candidates, rows: Sequence[int], shares: np.ndarray) -> np.ndarray:
        """Weights of some rows in proportion to their shares. [K] > 0.

        They add up to the budget or to the sum of the base weights, whichever is smaller. No weight is above MAX_OVERDRIVE times
        its base weight, or above max_strength / strength. What is cut off goes to the other rows, as far as their limits allow.
        """
        base = candidates.base_weights[list(rows)]
        tops = np.minimum(MAX_OVERDRIVE * base, self.max_strength / np.maximum(candidates.strength[list(rows)], 1e-12))
        return scaled(shares, min(self.strength_budget, float(base.sum())), tops)


def compose(candidates: Candidates, signature: np.ndarray, limits: WeightLimits, max_loras: int) -> Composition:
    """Up to `max_loras` of the candidates, with weights, whose predicted joint direction comes closest to the signature.

    The search is among the rows nearest to the signature and those that best fill what the nearest one leaves. The best set of up
    to three rows is found exactly; further rows are added one by one. A row that adds less than MIN_GAIN is left out. Rows with a
    cosine above MAX_LIKENESS are not put together.

    Args:
        candidates: the LoRAs to choose from.
        signature: what is looked for, [D]. It and the directions may both have been transformed by the same linear map.
        limits: how large the weights may be.
        max_loras: how many LoRAs at most, at least 1.

    Raises RetrievalError for max_loras < 1, a budget that is not positive, a signature that is zero or not finite, or shapes that
    do not fit.
    """
    _check(candidates, signature, limits, max_loras)
    directions, ids = np.asarray(candidates.directions, np.float64), candidates.ids
    lengths = np.linalg.norm(directions, axis=1)
    units = directions / np.where(lengths > 0, lengths, 1.0)[:, None]
    aim = np.asarray(signature, np.float64) / np.linalg.norm(signature)
    cosines = units @ aim
    towards = _by_value(cosines, ids, cosines > 0)
    if not towards:
        return Composition((), 0.0)
    if max_loras == 1:
        rows, shares = towards[:1], np.ones(1)
    else:
        rows, shares = _closest(_Search(candidates, limits, units, aim), towards, max_loras)
    weights = limits.weights(candidates, rows, shares)
    joint = weights @ directions[rows]
    chosen = [Chosen(row, float(weight)) for row, weight in zip(rows, weights, strict=True)]
    chosen.sort(key=lambda each: (-cosines[each.index], ids[each.index]))
    return Composition(tuple(chosen), float(joint @ aim / np.linalg.norm(joint)))


def weighed(candidates: Candidates, signature: np.ndarray, limits: WeightLimits, *, is_equal: bool = False) -> np.ndarray:
    """Weights for LoRAs that are all to be applied. [K] > 0, limited as in `WeightLimits.weights`.

    They are the least squares weights for the signature, but each LoRA gets at least LEAST_SHARE of an equal share: what was
    asked for is not left out because another LoRA points the same way.

    Args:
        candidates: the LoRAs, K of them.
        signature: what is looked for, [D], not zero.
        limits: how large the weights may be.
        is_equal: weights in proportion to the base weights instead.
    """
    shares = candidates.base_weights
    if not is_equal and len(shares) > 1:
        shares, _ = nnls(candidates.directions.T, signature / np.linalg.norm(signature))
        total = float(shares.sum())
        shares = np.maximum(shares, LEAST_SHARE * total / len(shares)) if total > 0 else candidates.base_weights
    return limits.weights(candidates, range(len(shares)), shares)


def scaled(shares: np.ndarray, total: float, tops: np.ndarray) -> np.ndarray:
    """Weights in proportion to `shares` that add up to `total`, none above its top; what is cut off goes to the others.

    shares, tops: [K] > 0. Result: [K]; its sum is below the total only where all are at their tops.
    """
    weights = np.zeros_like(shares)
    free = np.ones(len(shares), dtype=bool)
    while free.any():
        left = total - weights[~free].sum()
        weights[free] = shares[free] * (left / shares[free].sum())
        above = free & (weights > tops)
        if not above.any():
            break
        weights[above] = tops[above]
        free &= ~above
    return weights


def _check(candidates: Candidates, signature: np.ndarray, limits: WeightLimits, max_loras: int) -> None:
    if max_loras < 1:
        raise RetrievalError(f"max_loras is {max_loras}.", "Ask for at least 1 LoRA.")
    if not limits.strength_budget > 0:
        raise RetrievalError(f"The strength budget is {limits.strength_budget:g}.", "Give the LoRAs a budget above 0.")
    shape = np.shape(candidates.directions)
    if shape != (len(candidates.ids), *np.shape(signature)):
        raise RetrievalError(
            f"A signature of shape {list(np.shape(signature))} does not fit directions of shape {list(shape)}.",
            "Make the signature with the encoder of the rows.",
        )
    if not np.isfinite(signature).all() or not np.any(signature):
        raise RetrievalError("The query changes nothing in the encoder's eyes.", "Use other words.")


@dataclass(frozen=True, eq=False)
class _Search:
    """What the search for the closest composition needs. units: [R, D], aim: [D], both of length 1."""

    candidates: Candidates
    limits: WeightLimits
    units: np.ndarray
    aim: np.ndarray


def _closest(search: _Search, towards: list[int], max_loras: int) -> tuple[list[int], np.ndarray]:
    """Rows and shares with the highest predicted cosine. towards: the rows that point towards the aim, the nearest first."""
    units, aim, ids = search.units, search.aim, search.candidates.ids
    first = towards[0]
    left = units @ (aim - (units[first] @ aim) * units[first])
    fillers = _by_value(left, ids, left > 0)
    pool = sorted({*unlike(towards, units, _POOL), *unlike(fillers, units, _POOL)}, key=lambda row: ids[row])
    # In the space that the pool's directions span, the problem has as many dimensions as the pool has rows.
    basis, coordinates = np.linalg.qr(np.asarray(search.candidates.directions, np.float64)[pool].T)
    target = basis.T @ aim
    alike = np.triu(units[pool] @ units[pool].T > MAX_LIKENESS, 1)
    best, best_shares, best_cosine = [first], np.ones(1), float(units[first] @ aim)
    for size in range(2, min(max_loras, len(pool)) + 1):
        found, found_shares, found_cosine = best, best_shares, 0.0
        for places in _subsets(size, len(pool), [pool.index(row) for row in best]):
            if alike[np.ix_(places, places)].any():
                continue
            shares, _ = nnls(coordinates[:, places], target)
            if not (shares > 0).all():
                continue
            rows = [pool[place] for place in places]
            joint = coordinates[:, places] @ search.limits.weights(search.candidates, rows, shares)
            cosine = float(joint @ target / np.linalg.norm(joint))
            if cosine > found_cosine:
                found, found_shares, found_cosine = rows, shares, cosine
        if found_cosine < best_cosine * (1 + MIN_GAIN):
            break
        best, best_shares, best_cosine = found, found_shares, found_cosine
    return best, best_shares


def _subsets(size: int, n: int, smaller: list[int]) -> Iterable[list[int]]:
    """All subsets of a size; beyond three rows only those that add one row to the best smaller subset."""
    if size <= _EXACT_SIZE:
        return map(list, combinations(range(n), size))
    return (sorted([*smaller, place]) for place in range(n) if place not in smaller)


def _by_value(values: np.ndarray, ids: Sequence[str], allowed: np.ndarray) -> list[int]:
    """Rows that are allowed, the highest value first, equal values by id."""
    return sorted(np.flatnonzero(allowed).tolist(), key=lambda row: (-values[row], ids[row]))


def unlike(rows: Iterable[int], units: np.ndarray, n: int) -> list[int]:
    """The first `n` rows, without those that do the same as an earlier one. units: [R, D], directions of length 1."""
    kept: list[int] = []
    for row in rows:
        if len(kept) == n:
            break
        if not kept or float((units[kept] @ units[row]).max()) <= MAX_LIKENESS:
            kept.append(row)
    return kept

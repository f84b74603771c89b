"""Which LoRAs to put together for a query, and with which weights: pure functions over arrays.

The prediction is the first-order one: LoRAs with weights w_i move pictures by sum(w_i * direction_i). Weights that bring this sum
closest to the signature in cosine are the non-negative least squares solution, whose residual is at a right angle to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..errors import RetrievalError
from .ranking import MAX_STRENGTH

BEST_ONE = "best one"
TOP_K_EQUAL = "top k equal"
COMPOSED = "composed"
MODES = (BEST_ONE, TOP_K_EQUAL, COMPOSED)

MAX_LIKENESS = 0.9
"""LoRAs whose directions have a higher cosine do the same: only the better one is taken."""

MIN_GAIN = 0.05
"""Least relative gain in cosine that a further LoRA must bring. An unrelated effect a third as large as the first brings
sqrt(1 + 1/9) - 1 = 0.054; what brings less is hardly part of the query."""

MAX_OVERDRIVE = 1.5
"""Highest weight of a LoRA in a composition, in units of the weight it has alone: effects are not measured beyond that."""

LEAST_SHARE = 0.5
"""Least part of an equal share that a LoRA gets which is to be applied in any case."""

_POOL = 12
_EXACT_SIZE = 3


@dataclass(frozen=True)
class Chosen:
    """A LoRA of a composition. index: its row among the candidates. weight: for model and CLIP, > 0."""

    index: int
    weight: float


@dataclass(frozen=True)
class Composition:
    """LoRAs that go together, the one nearest to the query first. cosine: of the predicted joint direction with the signature.

    Empty, with a cosine of 0, when no candidate points towards the signature.
    """

    chosen: tuple[Chosen, ...]
    cosine: float


def compose(
    directions: np.ndarray,
    signature: np.ndarray,
    *,
    ids: Sequence[str],
    strength: np.ndarray,
    mode: str = COMPOSED,
    max_loras: int = 2,
    strength_budget: float = 2.0,
    max_strength: float = MAX_STRENGTH,
    base_weights: np.ndarray | None = None,
) -> Composition:
    """Up to `max_loras` of the candidates, with weights, whose joint effect comes close to the signature.

    directions: [R, D] at weight 1, of LoRAs that may be chosen at all. signature: [D]; both may have been taken through the
    same linear map. ids: [R], they order what is equal. strength: [R] raw CLIP units at weight 1. base_weights: [R] > 0, the
    weight at which each LoRA is used alone (default: 1).

    mode "best one": the row with the highest cosine, at its base weight. "top k equal": the best rows at their base weights,
    brought down to the budget together. "composed": the rows and weights with the highest predicted cosine, found exactly for
    up to three rows among the nearest and those that best fill what the first one leaves, then row by row; a row that adds
    less than MIN_GAIN is left out. The weights add up to the smaller of the budget and the base weights' sum, unless limits
    forbid it.

    Rows with a cosine above MAX_LIKENESS never go together. No weight is above MAX_OVERDRIVE times the base weight, or
    above max_strength / strength; what is cut off goes to the other rows. Raises RetrievalError for an unknown mode, max_loras
    < 1, a budget that is not positive, a zero signature, or shapes that do not fit.
    """
    directions, signature = np.asarray(directions, np.float64), np.asarray(signature, np.float64)
    strength = np.asarray(strength, np.float64)
    _check(directions, signature, ids, mode, max_loras, strength_budget)
    base = np.ones(len(directions)) if base_weights is None else np.asarray(base_weights, np.float64)
    lengths = np.linalg.norm(directions, axis=1)
    units = directions / np.where(lengths > 0, lengths, 1.0)[:, None]
    aim = signature / np.linalg.norm(signature)
    cosines = units @ aim
    towards = _by_value(cosines, ids, cosines > 0)
    if not towards:
        return Composition((), 0.0)
    limits = _Limits(base, strength, max_strength, strength_budget)
    if mode == BEST_ONE or max_loras == 1:
        rows, shares = towards[:1], np.ones(1)
    elif mode == TOP_K_EQUAL:
        rows = unlike(towards, units, max_loras)
        shares = base[rows]
    else:
        rows, shares = _closest(directions, units, aim, towards, ids, max_loras, limits)
    weights = limits.weights(rows, shares)
    joint = weights @ directions[rows]
    chosen = [Chosen(row, float(weight)) for row, weight in zip(rows, weights, strict=True)]
    chosen.sort(key=lambda each: (-cosines[each.index], ids[each.index]))
    return Composition(tuple(chosen), float(joint @ aim / np.linalg.norm(joint)))


@dataclass(frozen=True, eq=False)
class _Limits:
    """base, strength: [R], the weight of a row alone, and its strength at weight 1."""

    base: np.ndarray
    strength: np.ndarray
    max_strength: float
    budget: float

    def weights(self, rows: list[int], shares: np.ndarray) -> np.ndarray:
        """Weights of rows in proportion to their shares. [K]"""
        base = self.base[rows]
        tops = np.minimum(MAX_OVERDRIVE * base, self.max_strength / np.maximum(self.strength[rows], 1e-12))
        return scaled(shares, min(self.budget, float(base.sum())), tops)


def weighed(
    directions: np.ndarray,
    signature: np.ndarray,
    *,
    strength: np.ndarray,
    strength_budget: float,
    max_strength: float = MAX_STRENGTH,
    base_weights: np.ndarray,
    is_equal: bool = False,
) -> np.ndarray:
    """Weights for LoRAs that are all to be applied. [K] > 0, limited as in `compose`.

    They are the least squares ones for the signature, but each gets at least LEAST_SHARE of an equal share: what was asked for
    is not left out because another LoRA points the same way. is_equal: in proportion to the base weights instead.
    """
    from scipy.optimize import nnls

    shares = base_weights
    if not is_equal and len(directions) > 1:
        shares, _ = nnls(directions.T, signature / np.linalg.norm(signature))
        total = float(shares.sum())
        shares = np.maximum(shares, LEAST_SHARE * total / len(shares)) if total > 0 else base_weights
    return _Limits(base_weights, strength, max_strength, strength_budget).weights(list(range(len(shares))), shares)


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


def _check(
    directions: np.ndarray, signature: np.ndarray, ids: Sequence[str], mode: str, max_loras: int, strength_budget: float
) -> None:
    if mode not in MODES:
        raise RetrievalError(f"{mode!r} is no way to put LoRAs together.", f"Choose one of {', '.join(MODES)}.")
    if max_loras < 1:
        raise RetrievalError(f"max_loras is {max_loras}.", "Ask for at least 1 LoRA.")
    if not strength_budget > 0:
        raise RetrievalError(f"The strength budget is {strength_budget:g}.", "Give the LoRAs a budget above 0.")
    if directions.ndim != 2 or directions.shape != (len(ids), *signature.shape):
        raise RetrievalError(
            f"A signature of shape {list(signature.shape)} does not fit directions of shape {list(directions.shape)}.",
            "Make the signature with the encoder of the rows.",
        )
    if not np.isfinite(signature).all() or not signature.any():
        raise RetrievalError("The query changes nothing in the encoder's eyes.", "Use other words.")


def _closest(
    directions: np.ndarray,
    units: np.ndarray,
    aim: np.ndarray,
    towards: list[int],
    ids: Sequence[str],
    max_loras: int,
    limits: _Limits,
) -> tuple[list[int], np.ndarray]:
    """Rows and shares with the highest predicted cosine. units: [R, D], aim: [D], both of length 1."""
    from scipy.optimize import nnls

    first = towards[0]
    left = units @ (aim - (units[first] @ aim) * units[first])
    fillers = _by_value(left, ids, left > 0)
    pool = sorted({*unlike(towards, units, _POOL), *unlike(fillers, units, _POOL)}, key=lambda row: ids[row])
    # In the space that the pool's directions span, the problem has as many dimensions as the pool has rows.
    basis, coordinates = np.linalg.qr(directions[pool].T)
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
            joint = coordinates[:, places] @ limits.weights(rows, shares)
            cosine = float(joint @ target / np.linalg.norm(joint))
            if cosine > found_cosine:
                found, found_shares, found_cosine = rows, shares, cosine
        if found_cosine < best_cosine * (1 + MIN_GAIN):
            break
        best, best_shares, best_cosine = found, found_shares, found_cosine
    return best, best_shares


def _subsets(size: int, n: int, smaller: list[int]) -> Iterable[list[int]]:
    """All subsets of a size; beyond three rows those that add one row to the best smaller one."""
    if size <= _EXACT_SIZE:
        return map(list, combinations(range(n), size))
    return (sorted([*smaller, place]) for place in range(n) if place not in smaller)


def _by_value(values: np.ndarray, ids: Sequence[str], allowed: np.ndarray) -> list[int]:
    """Rows that are allowed, the highest value first, equal values by id."""
    return sorted(np.flatnonzero(allowed).tolist(), key=lambda row: (-values[row], ids[row]))


def unlike(rows: Iterable[int], units: np.ndarray, n: int) -> list[int]:
    """The first `n` of the rows of which none does the same as an earlier one. units: [R, D], directions of length 1."""
    kept: list[int] = []
    for row in rows:
        if len(kept) == n:
            break
        if not kept or float((units[kept] @ units[row]).max()) <= MAX_LIKENESS:
            kept.append(row)
    return kept

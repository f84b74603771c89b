"""When enough pictures have been taken: a lower bound for the cosine with what the full protocol would find.

The estimate m after n pictures is the full protocol's mean plus an error. cos^2 = 1 - |error across|^2 / |m|^2 holds exactly,
where "across" is at right angles to the full protocol's direction. |m| is known, so only the energy of the error needs a bound.

- Its mean. The pictures taken are part of the full protocol's N, its prompts P, its sub-categories G. With k pictures of a prompt
  and g of a sub-category, and variances W between the seeds of a prompt, B between the prompts of a sub-category and A between
  sub-categories (traces, across m), it is W (1/n - 1/N) + B (sum (k/n)^2 - 1/P) + A (sum (g/n)^2 - 1/G): Cochran, Sampling
  Techniques, on stratified two-stage sampling. W shows once prompts repeat, so there are a few early repeats (`picture_order`).
  Until then B counts as W, which is on the safe side, and A counts as B until sub-categories hold several prompts.
- Its fluctuation. The energy is a weighted sum of chi-squares; it goes as chi2(d)/d with d = tr(C)^2 / tr(C^2) of the covariance
  C (Satterthwaite 1946), 10 to 20 for real differences in 64 to 512 dimensions. As the mean is estimated as well, its quantile
  is that of F(d, degrees of freedom of the estimate).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import fdtri

from ..records import NO_EFFECT

DIRECTION_KNOWN = "direction known"
ALL_TAKEN = "all pictures taken"


@dataclass(frozen=True)
class Decision:
    """What a look at the pictures so far says. Cosines are with the direction that the full protocol would find.

    The numbers are None where the pictures say nothing about them.
    """

    stop: bool
    reason: str
    """Why to stop: DIRECTION_KNOWN, NO_EFFECT or ALL_TAKEN; "" while going on."""

    alignment: float | None
    """Expected cosine, in [0, 1]."""

    lower: float | None
    """Lower bound of the cosine at the rule's confidence, in [0, 1]. The decision is made on it."""

    images_needed: int | None
    """Pictures that the target will take in all, as it looks now."""


@dataclass(frozen=True)
class StoppingRule:
    """Stop when the direction is known to `target`, or when the LoRA has no measurable direction."""

    target: float = 0.97
    """Cosine with the full protocol's direction that is promised in 95 of 100 measurements."""

    confidence: float = 0.97
    """Confidence of the bound at one look. There are many looks, but |m| and the spread decide when to stop, and hardly the error
    itself. So little is lost to repetition: the difference to 0.95 pays for it (studies/stopping_rule.py)."""

    first: int = 16
    """Pictures at the first look."""

    growth: float = 1.05
    """Ratio of the pictures at one look to those at the look before."""

    effect_after: int = 140
    """Pictures after which a LoRA without measurable effect is given up: one whose mean difference is not longer than chance
    makes it in 95 of 100 LoRAs without any effect. At 140 all LoRAs with a consistency of 0.02 or more are kept."""

    def checkpoints(self, n_total: int) -> tuple[int, ...]:
        """Growing numbers of pictures at which to look; the last is n_total."""
        points = []
        point = self.first
        while point < n_total:
            points.append(point)
            point = max(point + 1, round(point * self.growth))
        return (*points, n_total)

    def decide(
        self, diffs: np.ndarray, prompts: Sequence[str], n_full: int, n_prompts: int = 0, strata: Sequence[str] | None = None
    ) -> Decision:
        """Look at the pictures taken so far.

        Takes O(n D min(n, D)) time.

        Args:
            diffs: differences of the features, [n, D], raw CLIP units, in any order.
            prompts: the prompt of each picture, n of them.
            n_full: pictures of the full protocol, including those taken.
            n_prompts: prompts of the full protocol; 0 if unknown: then every picture counts as a prompt, on the safe side.
            strata: sub-category of each picture, n of them, for a plan that takes all sub-categories evenly. They hold equally
                many prompts. None: no sub-categories.
        """
        diffs = np.asarray(diffs, dtype=np.float64)
        n = len(diffs)
        is_exhausted = n >= n_full
        if not diffs.any():
            stop = is_exhausted or n >= self.first
            return Decision(stop, NO_EFFECT if stop else "", None, None, None)
        spread = _spread(diffs, prompts, strata, n_full, n_prompts or n_full)
        if spread is None:
            return Decision(is_exhausted, ALL_TAKEN if is_exhausted else "", None, None, None)
        quantile = float(fdtri(spread.dimension, spread.freedom, self.confidence))
        alignment = math.sqrt(max(0.0, 1 - spread.error / spread.length))
        lower = math.sqrt(max(0.0, 1 - spread.error * quantile / spread.length))
        allowed = (1 - self.target**2) * (spread.length - spread.error) / quantile
        decided = (alignment, lower, max(n, spread.images_needed(allowed)))
        if is_exhausted:
            return Decision(True, ALL_TAKEN, *decided)
        if n >= self.first and lower >= self.target:
            return Decision(True, DIRECTION_KNOWN, *decided)
        if n >= self.effect_after and not spread.has_signal:
            return Decision(True, NO_EFFECT, *decided)
        return Decision(False, "", *decided)


def picture_order(n_prompts: int, n_seeds: int, *, repeat_every: int = 14, spread_seeds: bool = True) -> list[tuple[int, int]]:
    """Every (prompt, seed) of a plan once, as indices: all prompts once, then all with another seed, and so on.

    During the first round a few earlier prompts get their second seed. How much the seeds of a prompt differ decides how soon a
    finite set of prompts is known, and one picture in fourteen shows it well enough. That is wasted where seeds hardly differ,
    and costs nothing where they differ as prompts do.

    Args:
        n_prompts: number of prompts.
        n_seeds: seeds of each prompt.
        repeat_every: during the first round, every picture at a multiple of this gives an earlier prompt its second seed. 0 or 1:
            none.
        spread_seeds: prompts begin at different seeds, golden ratio apart, so that what a seed does to all prompts averages out
            in each round. With one seed for the whole round it would not, and the rule, which does not see it, would stop too
            early.
    """
    begin = [int(n_seeds * (prompt * (math.sqrt(5) - 1) / 2 % 1)) if spread_seeds else 0 for prompt in range(n_prompts)]
    rounds = [[(prompt, (begin[prompt] + k) % n_seeds) for prompt in range(n_prompts)] for k in range(n_seeds)]
    first, repeats = rounds[0], rounds[1] if n_seeds > 1 else []
    order: list[tuple[int, int]] = []
    while first:
        is_repeat = bool(repeats) and repeat_every > 1 and len(order) % repeat_every == repeat_every - 1
        order.append((repeats if is_repeat else first).pop(0))
    return [*order, *repeats, *(shot for round_ in rounds[2:] for shot in round_)]


@dataclass(frozen=True)
class _Spread:
    """What the pictures show. Energies are squared raw CLIP units.

    length: |m|^2. error: expected energy of its error across m, known with `freedom` degrees of freedom. dimension: effective
    one of the spread. total: variance of a picture among those of its sub-category; within: among those of its prompt.
    """

    length: float
    error: float
    freedom: float
    dimension: float
    total: float
    within: float
    has_signal: bool
    n_full: int
    n_prompts: int

    def images_needed(self, allowed: float) -> int:
        """Pictures at which the error falls to the energy `allowed`, all prompts once before any second seed."""
        if allowed <= 0 or self.total == 0:
            return self.n_full if allowed <= 0 else 1
        after_all_prompts = self.within * (1 / self.n_prompts - 1 / self.n_full)
        if allowed >= after_all_prompts:
            needed = 1 / ((allowed - after_all_prompts) / self.total + 1 / self.n_prompts)
        else:
            needed = 1 / (allowed / self.within + 1 / self.n_full)
        return min(self.n_full, math.ceil(needed))


class _Groups:
    """A division of n pictures by name (None: all in one group). labels: [n]; counts and first picture of each group: [size]."""

    def __init__(self, names: Sequence[str] | None, n: int) -> None:
        values = np.zeros(n) if names is None else np.asarray(names)
        _, self.first, self.labels, counts = np.unique(values, return_index=True, return_inverse=True, return_counts=True)
        self.counts = counts.astype(np.float64)
        self.size = len(counts)
        self.pairs = float((self.counts**2).sum())

    def energy(self, values: np.ndarray) -> float:
        """Sum of squared distances of values [n, D] from the means of their groups."""
        starts = np.concatenate([[0], np.cumsum(self.counts[:-1]).astype(int)])
        sums = np.add.reduceat(values[np.argsort(self.labels, kind="stable")], starts, axis=0)
        return float(np.einsum("nd,nd->", values, values) - (np.einsum("gd,gd->g", sums, sums) / self.counts).sum())


def _spread(
    diffs: np.ndarray, prompts: Sequence[str], strata: Sequence[str] | None, n_full: int, n_prompts: int
) -> _Spread | None:
    """What differences [n, D] show. None for fewer than three prompts or a mean of zero, which show nothing."""
    n = len(diffs)
    of_prompt, of_stratum = _Groups(prompts, n), _Groups(strata, n)
    mean = diffs.mean(0)
    length = float(mean @ mean)
    if of_prompt.size < 3 or length == 0:
        return None
    if of_prompt.size < 1.25 * of_stratum.size:
        of_stratum = _Groups(None, n)
    repeated = n - of_prompt.size
    n_prompts = max(n_prompts, of_prompt.size)
    along = (diffs - mean) @ (mean / math.sqrt(length))
    across = diffs - mean - np.outer(along, mean / math.sqrt(length))
    whole = float(np.einsum("nd,nd->", across, across))
    in_strata = of_stratum.energy(across)
    in_prompts = max(0.0, of_prompt.energy(across)) if repeated else 0.0
    total = in_strata / (n - of_stratum.size)
    within = in_prompts / repeated if repeated else total

    # Weights of the three sums of squares that make their sum the error on average: first A's share is matched, then B's, W's.
    own_pairs = np.bincount(of_stratum.labels[of_prompt.first], weights=of_prompt.counts**2)
    weights = np.zeros(3)
    if of_stratum.size > 1:
        weights[0] = (of_stratum.pairs / n**2 - 1 / of_stratum.size) / (n - of_stratum.pairs / n)
    if repeated:
        rest = of_prompt.pairs / n**2 - 1 / n_prompts - weights[0] * (n - of_prompt.pairs / n)
        weights[1] = rest / (n - float((own_pairs / of_stratum.counts).sum()))
        rest = 1 / n - 1 / n_full - weights[0] * (n - 1) - weights[1] * (n - of_stratum.size)
        weights[2] = rest / repeated
    else:
        weights[1] = (1 / n - 1 / n_full - weights[0] * (n - 1)) / (n - of_stratum.size)
    shares = np.cumsum(weights) * (whole - in_strata, in_strata - in_prompts, in_prompts)
    units = np.maximum(1, (of_stratum.size - 1, of_prompt.size - of_stratum.size, repeated))
    error = max(float(shares.sum()), within * (1 / n - 1 / n_full), 0.0)

    dimension = _effective_dimension(across, whole / (n - 1))
    doubt = float((shares**2 / units).sum())
    shared = max(0.0, 1 - within / total) if total else 0.0
    by_chance = (whole + float(along @ along)) / (n - 1) * (shared * of_prompt.pairs / n**2 + (1 - shared) / n)
    return _Spread(
        length=length,
        error=error,
        freedom=dimension * (error**2 / doubt if doubt > 0 and error > 0 else n - 1),
        dimension=dimension,
        total=total,
        within=within,
        has_signal=length > by_chance * fdtri(dimension, dimension * (of_prompt.size - 1), 0.95),
        n_full=n_full,
        n_prompts=n_prompts,
    )


def _effective_dimension(residuals: np.ndarray, trace: float) -> float:
    """tr(C)^2 / tr(C^2) of the covariance C behind residuals [n, D] with variance `trace`; in [1, n - 1].

    Mean over pairs of (r_i . r_j)^2 = tr(C^2) (1 - 2/n + 2/n^2) + trace^2 / n^2. Unlike the square of the sample covariance, it
    has no term of a picture with itself, which would drown the rest when n < D.
    """
    n, dimension = residuals.shape
    products = residuals @ residuals.T if n <= dimension else residuals.T @ residuals
    own = float((np.einsum("nd,nd->n", residuals, residuals) ** 2).sum())
    pairs = (float((products**2).sum()) - own) / (n * (n - 1))
    square = (pairs - trace**2 / n**2) / (1 - 2 / n + 2 / n**2)
    return float(min(n - 1, max(1, trace**2 / square))) if square > 0 else n - 1.0

"""What a few pairs of pictures say of how well LoRAs fit a query, with error bars that hold from two pairs on.

The score of a LoRA is cos(query, mu) = x / L with mu its true mean difference, x = mu . query and L = |mu|. The cosine of the
mean m of few differences d is too small, since |m|^2 = L^2 + noise / n. So:

- L^2 is estimated by the mean of d_i . d_j over pairs i != j, which has no such bias, and its share C of the mean of |d|^2 is
  drawn towards the candidates' mean of C as far as C's own error asks for (empirical Bayes with a normal prior).
- The variance of x / L is that of its influence values, (d - m) . query / L - score (d . m' - L^2) / L^2 with m' the mean of the
  other differences. A sample variance of four values is worth little: it is drawn towards that of all candidates, as if this
  stood for `_PRIOR_PAIRS` pairs.
- The scores of all candidates are a sample themselves, and each is drawn towards their mean. That takes back what the best of
  many gains by luck, and makes the probability that a leader is the best right after any number of looks, on average over
  queries (`studies/race_simulation.py` counts how often).

The z-score of the calibrated ranking is (u - c) . a / |Q (u - c)| with u = mu / L, c the common part of all u, a the probe of the
query and Q those of the bank (`search.calibration`). It is counted as x / (L r) - c . a / r, with a made to length 1 and r the
LoRA's own |Q (u - c)| beside that of the others: of the size of a cosine, and equal to one where all r are 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..records import LoraRecord

DIMENSION = 18.0
"""Effective dimension of the noise, tr(C)^2 / tr(C^2): that of the differences between the published directions."""

_DOUBT = 4.0
"""Variances are multiplied by 1 + this / n: with few pairs they are not well known themselves (`studies/race_simulation.py`)."""

_PAIRS_OF_CORRELATION = 25.0
"""Pairs that the mean correlation of all candidates stands for beside a candidate's own: correlations differ by about 0.2."""

_PRIOR_PAIRS = 8.0
_LEAST_CONSISTENCY = 0.01
_LEAST_SPREAD = 0.1
_SPREAD_PER_ERROR = 0.5
"""True scores differ by at least this part of a usual error: less is not to be seen in the estimates, and error bars that are
small because a length came out too large make it look less (`studies/race_simulation.py`: 1,000 candidates with two pairs)."""
_LEAST_SPREAD_OF_CONSISTENCY = 0.03
_UNKNOWN_PROMPTS = 64
_LEAST_OF_BANK = 0.25


@dataclass(frozen=True, eq=False)
class Yardstick:
    """What candidates are scored by."""

    aim: np.ndarray
    """[D], of length 1."""

    scale: float = 1.0
    """Length that the aim had."""

    bank: np.ndarray | None = None
    """Q^T Q, [D, D]; None for a score that is a cosine."""

    @classmethod
    def cosine(cls, signature: np.ndarray) -> Yardstick:
        """By the published formula. signature: [D], not zero."""
        signature = np.asarray(signature, dtype=np.float64)
        return cls(signature / np.linalg.norm(signature))

    @classmethod
    def calibrated(cls, probe: np.ndarray, probes: np.ndarray) -> Yardstick:
        """By the z-score. probe: of the query, [D]; probes: of the bank, [B, D] (`calibration.Background`)."""
        centre = probes.mean(0)
        aim, spread = probe - centre, probes - centre
        scale = float(np.linalg.norm(aim))
        return cls(aim / scale, scale, spread.T @ spread / len(probes))


class Seen(NamedTuple):
    """What one candidate's differences come to. Energies are squared raw CLIP units."""

    n: float
    along: float
    """Mean of d . aim."""

    length_squared: float
    """Mean of d_i . d_j over pairs i != j; may be negative."""

    energy: float
    """Mean of |d|^2."""

    freedom: float
    """Degrees of freedom of the variances; 0 if they are not known."""

    along_variance: float
    """Sample variance of d . aim."""

    covariance: float
    """That of d . aim and d . m'."""

    length_variance: float
    """That of d . m'."""

    bank_energy: float
    """Mean of (Q d_i) . (Q d_j) over pairs i != j; 0 without a bank."""

    @classmethod
    def of(cls, diffs: np.ndarray, yardstick: Yardstick) -> Seen:
        """diffs: [n, D], n >= 2, raw CLIP units."""
        n = len(diffs)
        along, total, energies = diffs @ yardstick.aim, diffs.sum(0), np.einsum("nd,nd->n", diffs, diffs)
        others = (diffs @ total - energies) / (n - 1)
        mean, squared, energy = float(along.mean()), float(others.mean()), float(energies.mean())
        along, others = along - mean, others - squared
        moments = (float(along @ along), float(along @ others), float(others @ others))
        bank = 0.0
        if yardstick.bank is not None:
            through = diffs @ yardstick.bank
            bank = (float(total @ through.sum(0)) - float(np.einsum("nd,nd->", diffs, through))) / (n * (n - 1))
        first, second, third = (moment / (n - 1) for moment in moments)
        return cls(n, mean, squared, energy, n - 1, first, second, third, bank)

    @classmethod
    def of_row(cls, row: LoraRecord, yardstick: Yardstick) -> Seen:
        """What a row comes to: its own error follows from its consistency and its prompts."""
        direction = row.direction.astype(np.float64)
        n = max(2, row.n_prompts or row.n_images or _UNKNOWN_PROMPTS)
        length = float(direction @ direction)
        energy = max(row.strength**2, length)
        squared = (length * n - energy) / (n - 1)
        bank = 0.0 if yardstick.bank is None else float(direction @ yardstick.bank @ direction)
        return cls(n, float(direction @ yardstick.aim), squared, energy, 0.0, 0.0, 0.0, 0.0, bank)


def noise_of(diffs: np.ndarray, yardstick: Yardstick) -> np.ndarray:
    """How far each pair of pictures is above or below a candidate's score, in standard deviations. diffs: [n, D]. [n]."""
    n = len(diffs)
    along, total, energies = diffs @ yardstick.aim, diffs.sum(0), np.einsum("nd,nd->n", diffs, diffs)
    others = (diffs @ total - energies) / (n - 1)
    squared = max(float(others.mean()), 0.05 * float(energies.mean()), 1e-12)
    score = float(np.clip(along.mean() / np.sqrt(squared), -1, 1))
    noise = (along - along.mean()) / np.sqrt(squared) - score * (others - others.mean()) / squared
    deviation = float(noise.std(ddof=1))
    return noise / deviation if deviation > 0 else noise


def correlations(noise: Sequence[np.ndarray], chosen: Sequence[int]) -> np.ndarray:
    """How far the errors of scores go together, since the pictures without a LoRA and the prompts are shared.

    The sample correlations over common pairs are drawn towards the mean over all candidates. noise: `noise_of` each of A
    candidates, over the first pairs of one plan; empty where it is not known. chosen: K of them. [K, A], in [-1, 1].
    """
    counts = np.array([len(values) for values in noise])
    table = np.zeros((len(noise), max(2, counts.max(initial=0))))
    for row, values in zip(table, noise, strict=True):
        row[: len(values)] = values
    known = counts > 0
    first = int(counts[known].min()) if known.any() else 0
    common = 0.0
    if known.sum() > 1 and first > 1:
        start = table[known, :first]
        start = start - start.mean(1, keepdims=True)
        lengths = np.linalg.norm(start, axis=1, keepdims=True)
        units = (start / np.where(lengths > 0, lengths, 1))[lengths[:, 0] > 0]
        total = units.sum(0)
        common = float(total @ total - len(units)) / max(1, len(units) * (len(units) - 1))
    found = np.zeros((len(chosen), len(noise)))
    for row, index in zip(found, chosen, strict=True):
        if counts[index]:
            together = np.minimum(counts, counts[index])
            own = table @ table[index] / np.maximum(together, 1)
            drawn = (common * _PAIRS_OF_CORRELATION + np.clip(own, -1, 1) * together) / (_PAIRS_OF_CORRELATION + together)
            # Of two means over n and N of the same pairs, the longer one's further pairs are its own.
            row[:] = drawn * np.sqrt(together / np.maximum(counts, counts[index])) * known
    return np.clip(found, -0.9, 0.95)


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of all candidates, [A] each."""

    estimate: np.ndarray
    """As its own pictures say."""

    se: np.ndarray
    """Its standard error."""

    mean: np.ndarray
    """Once the others are taken into account."""

    deviation: np.ndarray
    """Standard deviation of what is left open about it."""

    centre: float
    """Of all candidates: what is to be expected of one that nobody has seen."""

    spread: float
    """Standard deviation of true scores over candidates."""

    unit: float = 1.0
    """Standard deviations of the calibrated ranking in a score of 1."""


def scores_of(candidates: Sequence[Seen] | np.ndarray, yardstick: Yardstick, means: np.ndarray | None = None) -> Scores:
    """Scores of candidates that have been seen.

    candidates: A >= 1 of them, or the same as rows, [A, 9]. means: their mean differences, [A, D]; needed for a yardstick with a
    bank.
    """
    table = np.asarray(candidates, dtype=np.float64)
    n, along, squared, energy, freedom, of_along, of_both, of_length, bank = table.T
    energy = np.maximum(energy, 1e-12)
    consistency = squared / energy
    at = np.clip(consistency, 0.02, 0.9)
    error = (2 * (1 - at) ** 2 / (n * (n - 1)) + 4 * at * (1 - at) / n) / DIMENSION
    consistency, kept, _, _, _ = _drawn(consistency, error, _LEAST_SPREAD_OF_CONSISTENCY)
    consistency = np.clip(consistency, _LEAST_CONSISTENCY, 1.0)
    length = np.sqrt(consistency * energy)
    noise = np.maximum((1 - consistency) * energy, 1e-12)
    offset, ratio, unit = _against_bank(bank, length, error / at**2, yardstick, means)
    cosine = np.clip(along / length, -1.0, 1.0)
    pull = cosine * kept / length
    # Per pair, in units of the noise: variance along the aim, and so on.
    shares = of_along / noise, of_both / noise, of_length / noise
    in_all = max(1.0, float(freedom.sum()))
    alongs, lengths = (float((share * freedom).sum()) / in_all for share in (shares[0], shares[2]))
    slope = float((shares[1] * cosine * length * freedom).sum() / max(1e-12, (cosine**2 * length**2 * freedom).sum()))
    alongs = alongs or 1 / DIMENSION
    common = np.maximum(alongs - 2 * pull * slope * cosine * length + pull**2 * lengths, 0.1 * alongs)
    own = shares[0] - 2 * pull * shares[1] + pull**2 * shares[2]
    share = (common * _PRIOR_PAIRS + own * freedom) / (_PRIOR_PAIRS + freedom)
    variance = share * noise / n / length**2 + cosine**2 * kept * (1 - kept) * error / (4 * consistency**2)
    estimate, variance = (cosine - offset) / ratio, variance / ratio**2
    least = max(_LEAST_SPREAD, _SPREAD_PER_ERROR * float(np.sqrt(np.median(variance))))
    mean, _, left, centre, spread = _drawn(estimate, variance, least)
    return Scores(estimate, np.sqrt(variance), mean, np.sqrt(left * (1 + _DOUBT / n)), centre, spread, unit)


def _against_bank(
    bank: np.ndarray, length: np.ndarray, error: np.ndarray, yardstick: Yardstick, means: np.ndarray | None
) -> tuple[np.ndarray | float, np.ndarray | float, float]:
    """c . aim, the ratios r, [A] each, and the unit of the score in z. error: relative, of the squared length."""
    if yardstick.bank is None or means is None:
        return 0.0, 1.0, 1.0
    units = means / length[:, None]
    # As in `calibration.calibrated_rows`: drawn towards nothing as if by one more row.
    common = units.sum(0) / (len(units) + 1)
    through = yardstick.bank @ common
    squares = bank / length**2 - 2 * units @ through + float(common @ through)
    apart = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12) - common
    with_noise = np.einsum("ad,ad->a", apart @ yardstick.bank, apart)
    squares = np.maximum(squares, _LEAST_OF_BANK * with_noise)
    typical = max(float(np.median(squares)), 1e-12)
    squares, _, _, _, _ = _drawn(np.clip(squares / typical, 0.1, 10), error, 0.2)
    return float(common @ yardstick.aim), np.sqrt(np.clip(squares, 0.2, 5.0)), yardstick.scale / np.sqrt(typical)


def _drawn(values: np.ndarray, variances: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
    """Values drawn towards their mean, how much of each is kept, what is left of the variances, the mean, and the spread.

    The prior is normal, fitted by moments with weights; its standard deviation is at least `least`.
    """
    spread = least**2 if len(values) < 2 else max(least**2, float(values.var(ddof=1) - variances.mean()))
    centre = float(values.mean())
    for _ in range(4 if len(values) > 1 else 0):
        weights = 1 / (spread + variances)
        centre = float((weights * values).sum() / weights.sum())
        spread = max(least**2, float((weights**2 * ((values - centre) ** 2 - variances)).sum() / (weights**2).sum()))
    kept = spread / (spread + variances)
    return centre + kept * (values - centre), kept, kept * variances, centre, float(np.sqrt(spread))

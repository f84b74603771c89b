"""How surprising a match is: z-scores and p-values against a bank of unrelated effects.

A cosine says little by itself. The signatures of all phrases share a part and spread far more in some dimensions than in
others, so that everything looks alike along these. And the directions of all LoRAs share a part (pictures "with a LoRA"),
so that some queries seem to fit them all. Both are taken out. What is left is compared with what is reached by phrases that
have nothing to do with a LoRA:

1. Signatures are whitened with mean m and covariance C of the bank's signatures (all of length 1; C shrunk as Ledoit and
   Wolf, J. Multivariate Anal. 88, 2004). A query u becomes the probe C^-1 (u - m), of length 1 in the metric of C: the
   linear discriminant between this query and the bank (Hariharan, Malik and Ramanan, ECCV 2012).
2. Directions are centred: the mean of the library's unit directions is subtracted. One row of zeros is counted in, so that a
   single LoRA, or copies of one, keep their direction.
3. The product of probe and centred direction is a z-score in units of that LoRA's own background: mean and standard deviation
   of its products with the bank's probes. A bank phrase is probed with m and C of the other nine tenths of the bank, as a
   query is with those of phrases it is not among.
4. p = 1 - (1 - q)^n with q the normal tail beyond z and n the number of rows that may be chosen (Sidak): how often the BEST
   of this library would look this good for an effect that none of its LoRAs has.

There are no parameters to tune; `studies/calibration.py` compares this with other choices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import RetrievalError
from ..vectors import unit, units_of
from .matches import Confidence

CLEAR, LIKELY, WEAK = 0.001, 0.05, 0.2
"""The p-values up to which a match is called by these words; beyond the last it is called "none". These are conventional levels:
a match counts as one if at most one unrelated query in 20 would find one as good."""

MIN_BANK = 100
_FOLDS = 10
_ROWS_AT_ONCE = 8192
"""So many rows are held against the bank together: 37 MB for each table of its 561 phrases."""
_Z_DECIMALS = 6


@dataclass(frozen=True, eq=False)
class Background:
    """What an encoder makes of unrelated effects. All tensors are float64."""

    mean: Tensor
    """Mean of the bank's unit signatures, [D]."""

    precision: Tensor
    """Inverse covariance of the bank's unit signatures, [D, D]."""

    probes: Tensor
    """Probes of the bank's phrases, [B, D], each made without its own tenth of the bank."""

    def probe(self, signature: Tensor) -> Tensor:
        """The direction in which a LoRA moves pictures that does this and nothing else. signature: [D]. [D] float64.

        Raises RetrievalError for a signature without direction or with a length other than the bank's.
        """
        if signature.shape != self.mean.shape:
            raise RetrievalError(
                f"A signature of shape {list(signature.shape)} does not fit a background of shape {list(self.mean.shape)}.",
                "Make both with the same encoder.",
            )
        return _probes(unit(signature)[None], self.mean, self.precision)[0]


def probes_of(signatures: Tensor, background: Background) -> Tensor:
    """`Background.probe` of several signatures. signatures: [N, D], raw, none zero. [N, D] float64."""
    return _probes(units_of(signatures.double()), background.mean, background.precision)


def fit_background(signatures: Tensor) -> Background:
    """The background of a bank. signatures: [B, D], raw; those without direction are left out.

    Raises RetrievalError if fewer than 100 are left: their spread would not be known.
    """
    units = units_of(signatures.double())
    units = units[torch.linalg.vector_norm(units, dim=1) > 0]
    if len(units) < MIN_BANK:
        raise RetrievalError(
            f"Only {len(units)} phrases of the bank change anything in the encoder's eyes.", "Use the built-in bank of effects."
        )
    folds = torch.arange(len(units)) % _FOLDS
    probes = torch.empty_like(units)
    for fold in range(_FOLDS):
        probes[folds == fold] = _probes(units[folds == fold], *_moments(units[folds != fold]))
    mean, precision = _moments(units)
    return Background(mean, precision, probes)


@dataclass(frozen=True, eq=False)
class CalibratedRows:
    """A library set against a background; the same for every query. All tensors are float64."""

    background: Background
    centred: Tensor
    """Unit directions without their common part, [R, D]."""

    mean: Tensor
    """Mean of each row's products with the bank's probes, [R]; NaN for rows without a direction."""

    deviation: Tensor
    """Standard deviation of each row's products with the bank's probes, [R]; 1 where it would be 0."""

    def z_scores(self, signature: Tensor) -> Tensor:
        """How far each row stands out from its own background. signature: [D]. [R] float64, NaN for rows without a direction.

        Raises RetrievalError as `Background.probe`.
        """
        scores = (self.centred @ self.background.probe(signature) - self.mean) / self.deviation
        # Rounded, so that rows with the same direction tie whatever the order of the sums in a matrix product.
        return scores.round(decimals=_Z_DECIMALS)


def calibrated_rows(directions: Tensor, background: Background) -> CalibratedRows:
    """Set a library against a background. directions: [R, D], any scale, zeros for LoRAs without effect.

    All rows take part in the centring, whether they may be chosen or not, so that a row's z-score does not depend on filters.
    Raises RetrievalError if the directions have a length other than the bank's signatures.
    """
    if directions.shape[1:] != background.mean.shape:
        raise RetrievalError(
            f"Directions of shape {list(directions.shape)} do not fit a background of shape {list(background.mean.shape)}.",
            "Make the background with the encoder of the rows.",
        )
    units = units_of(directions.double())
    has_direction = units.any(dim=1)
    centred = units - units.sum(0) / (has_direction.sum() + 1)
    mean, deviation = map(
        torch.cat, zip(*(_mean_and_deviation(part @ background.probes.T) for part in _parts(centred)), strict=True)
    )
    return CalibratedRows(
        background, centred, torch.where(has_direction, mean, torch.nan), torch.where(deviation > 0, deviation, 1.0)
    )


def confidences(z: Tensor, n_rows: int) -> list[Confidence]:
    """What z-scores mean when they are the best of `n_rows` that might have been chosen. z: [K]."""
    return [Confidence(score, p, word_for(p)) for score, p in zip(z.tolist(), p_values(z, n_rows).tolist(), strict=True)]


def p_values(z: Tensor, n_rows: int) -> Tensor:
    """`Confidence.p_value` of z-scores that are the best of `n_rows`. z: [K]. [K] float64."""
    tail = 0.5 * torch.special.erfc(z.double() / math.sqrt(2))
    return -torch.expm1(n_rows * torch.log1p(-tail))


def least_z(n_rows: int, p_value: float = LIKELY) -> float:
    """The z-score from which on the best of `n_rows` >= 1 has at most this p-value, in (0, 1)."""
    tail = -math.expm1(math.log1p(-p_value) / n_rows)
    return -float(torch.special.ndtri(torch.tensor(tail, dtype=torch.float64)))


def word_for(p_value: float) -> str:
    """The word for a p-value: "clear", "likely", "weak" or "none"."""
    return next((word for limit, word in ((CLEAR, "clear"), (LIKELY, "likely"), (WEAK, "weak")) if p_value <= limit), "none")


def _parts(rows: Tensor) -> tuple[Tensor, ...]:
    """Rows [R, D] in parts that bound the memory; one empty part if there are none."""
    return torch.split(rows, _ROWS_AT_ONCE) if len(rows) else (rows,)


def _mean_and_deviation(products: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each row. products: [N, B]. [N], [N]."""
    mean = products.mean(1)
    return mean, (products - mean[:, None]).square().mean(1).sqrt()


def _moments(units: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and inverse of the Ledoit-Wolf covariance [D, D] of rows [N, D]."""
    n, dimension = units.shape
    mean = units.mean(0)
    centred = units - mean
    covariance = centred.T @ centred / n
    target = covariance.diagonal().mean() * torch.eye(dimension, dtype=units.dtype)
    squares = centred.square()
    noise = (squares.T @ squares / n - covariance.square()).sum() / n
    distance = (covariance - target).square().sum()
    weight = float((noise / distance).clamp(0, 1)) if distance > 0 else 1.0
    return mean, torch.linalg.inv((1 - weight) * covariance + weight * target)


def _probes(units: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
    """precision (u - mean), of length 1 in the metric of the covariance. units: [N, D]. [N, D]."""
    offsets = units - mean
    probes = offsets @ precision
    return probes / (probes * offsets).sum(1, keepdim=True).clamp_min(torch.finfo(units.dtype).tiny).sqrt()

"""How sure a LoRA looks for phrases that ask for no effect: "a red car", "on a beach", "Anna Berg".

The background of `calibration` are effects that no LoRA of the library has. Phrases of content are another kind: they name
colours and things that effects have, too, and so reach z-scores that no normal tail explains ("a brown bridge" is near to sepia).
So a second question is asked: how often would a phrase of a bank of content find a LoRA that looks as good? The share of
the bank is counted; beyond its upper tenth the tail is that of an exponential distribution with the mean excess of that tenth
(peaks over a threshold, with a shape of 0), so that a p-value below one in the bank's size has a meaning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .calibration import CalibratedRows

_UPPER = 0.9


@dataclass(frozen=True, eq=False)
class ContentTail:
    """What the best of some rows reaches for phrases of content."""

    maxima: Tensor
    """The best z-score of each phrase, ascending, [B] float64; empty if there are no rows."""

    def p_value(self, z: float) -> float:
        """How often a phrase of content finds a row as good as this, in [0, 1]."""
        n = len(self.maxima)
        if n == 0:
            return 1.0
        if z <= self._threshold:
            return float((self.maxima >= z).sum()) / n
        n_beyond, excess = self._beyond
        return n_beyond / n * math.exp(-(z - self._threshold) / excess) if excess > 0 else 0.0

    @cached_property
    def _threshold(self) -> float:
        n = len(self.maxima)
        return float(self.maxima[min(n - 1, int(_UPPER * n))])

    @cached_property
    def _beyond(self) -> tuple[int, float]:
        """How many maxima are above the threshold, and by how much on average."""
        beyond = self.maxima[self.maxima > self._threshold]
        return len(beyond), float((beyond - self._threshold).mean()) if len(beyond) else 0.0


def content_scores(rows: CalibratedRows, signatures: Tensor) -> Tensor:
    """z-scores of phrases of content with each row. signatures: [B, D], raw. [B, R] float64; NaN for rows without a direction."""
    has_direction = torch.linalg.vector_norm(signatures, dim=1) > 0
    return torch.stack([rows.z_scores(signature) for signature in signatures[has_direction]])


def content_tail(scores: Tensor, allowed: Tensor) -> ContentTail:
    """The tail of the rows that may be chosen. scores: [B, R], from `content_scores`; allowed: [R] bool."""
    if not bool(allowed.any()):
        return ContentTail(torch.zeros(0, dtype=torch.float64))
    return ContentTail(scores[:, allowed].max(1).values.sort().values)


def corrected(p_value: float, n: int) -> float:
    """The chance that the best of `n` phrases has at most this p-value (Sidak)."""
    return -math.expm1(n * math.log1p(-p_value)) if p_value < 1 else 1.0

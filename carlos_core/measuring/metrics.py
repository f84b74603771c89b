"""Differences of image features -> direction, strength, consistency and their error bars.

Definitions: arXiv 2512.08826. A difference is d = e(with the LoRA) - e(without it), raw CLIP features of two pictures
made from the same noise. Everything here is a sum over differences, so that it streams and merges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import MetricsError


@dataclass(frozen=True, eq=False)
class LoraMetrics:
    """What a LoRA does to pictures, with error bars.

    The standard errors and the alignment take the prompt as the unit. They are None for fewer than two prompts.
    """

    direction: np.ndarray
    """Mean difference. [D] float64, raw CLIP units."""

    strength: float
    """Mean length of a difference, raw CLIP units, >= 0."""

    consistency: float | None
    """Mean cosine over pairs of differences, in [-1/(n-1), 1]. None for fewer than two differences that are not zero."""

    n_images: int
    n_prompts: int
    strength_se: float | None
    """Standard error of the strength, raw CLIP units."""

    consistency_se: float | None
    """Standard error of the consistency. None also if all but one prompt leave fewer than two differences that are not zero."""

    alignment: float | None
    """Expected cosine of `direction` with that of endlessly many prompts, in [0, 1]. None also for a direction of zero."""


def consistency(unit_diff_sum: np.ndarray, n: float) -> float:
    """Mean cosine over all unordered pairs of n differences, from the sum of their unit vectors.

    unit_diff_sum: [D], dimensionless. Result in [-1/(n-1), 1].
    |sum u|^2 = n + 2 * (sum over pairs of cos), so no n x n table is needed (arXiv 2512.08826, consistency).
    Raises MetricsError for n < 2: one picture has nothing to agree with.
    """
    if n < 2:
        raise MetricsError(f"Consistency needs at least 2 differences, got {n:g}.", "Index with more prompts or seeds.")
    return (float(unit_diff_sum @ unit_diff_sum) - n) / (n * (n - 1))


@dataclass(eq=False)
class _PromptSums:
    diff: np.ndarray
    unit: np.ndarray
    norm: float = 0.0
    n: int = 0
    n_moved: int = 0


class DiffAccumulator:
    """Running sums over differences, kept per prompt: memory depends on the number of prompts, not on that of pictures.

    Two accumulators over disjoint sets of pictures merge into one over all of them. A difference of exactly zero has no
    direction: it counts for the direction and the strength, but not for the consistency.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._prompts: dict[str, _PromptSums] = {}

    def update(self, diffs: np.ndarray, prompts: Sequence[str]) -> None:
        """Add differences. diffs: [B, D], raw CLIP units; prompts: the prompt of each, B of them.

        Raises MetricsError on a wrong shape or values that are not finite; nothing is added then.
        """
        diffs = np.asarray(diffs, dtype=np.float64)
        if diffs.ndim != 2 or diffs.shape != (len(prompts), self.dimension):
            raise MetricsError(
                f"Differences have shape {list(diffs.shape)}, expected [{len(prompts)}, {self.dimension}].",
                "Pass one row of features for each prompt.",
            )
        if not np.isfinite(diffs).all():
            raise MetricsError("A difference of features is not finite.", "Look for black or broken pictures.")
        norms = np.sqrt(np.einsum("bd,bd->b", diffs, diffs))
        for diff, norm, prompt in zip(diffs, norms, prompts, strict=True):
            sums = self._sums_of(prompt)
            sums.diff += diff
            sums.norm += float(norm)
            sums.n += 1
            if norm > 0:
                sums.unit += diff / norm
                sums.n_moved += 1

    def merge(self, other: DiffAccumulator) -> None:
        """Add everything that `other` has seen; the two must not have seen the same picture."""
        if other.dimension != self.dimension:
            raise MetricsError(
                f"Cannot merge differences of {other.dimension} and {self.dimension} dimensions.",
                "Use one encoder for both halves.",
            )
        for prompt, theirs in other._prompts.items():
            ours = self._sums_of(prompt)
            ours.diff += theirs.diff
            ours.unit += theirs.unit
            ours.norm += theirs.norm
            ours.n += theirs.n
            ours.n_moved += theirs.n_moved

    def metrics(self) -> LoraMetrics:
        """Metrics of all differences that were added. Raises MetricsError if there are none."""
        groups = list(self._prompts.values())
        n_images = sum(group.n for group in groups)
        if n_images == 0:
            raise MetricsError("No pictures were compared.", "Index with at least one prompt and one seed.")
        diff_sums = np.stack([group.diff for group in groups])
        unit_sums = np.stack([group.unit for group in groups])
        norm_sums = np.array([group.norm for group in groups])
        counts = np.array([group.n for group in groups], dtype=np.float64)
        moved = np.array([group.n_moved for group in groups], dtype=np.float64)
        direction = diff_sums.sum(0) / n_images
        strength = float(norm_sums.sum() / n_images)
        n_moved = float(moved.sum())
        return LoraMetrics(
            direction=direction,
            strength=strength,
            consistency=consistency(unit_sums.sum(0), n_moved) if n_moved >= 2 else None,
            n_images=n_images,
            n_prompts=len(groups),
            strength_se=_clustered_mean_se(norm_sums, counts),
            consistency_se=_jackknife_consistency_se(unit_sums, moved),
            alignment=_expected_alignment(diff_sums, counts),
        )

    def _sums_of(self, prompt: str) -> _PromptSums:
        if prompt not in self._prompts:
            self._prompts[prompt] = _PromptSums(np.zeros(self.dimension), np.zeros(self.dimension))
        return self._prompts[prompt]


def _clustered_mean_se(sums: np.ndarray, counts: np.ndarray) -> float | None:
    """Standard error of sum(sums)/sum(counts) when prompts, not pictures, are independent. sums, counts: [P]."""
    n_prompts = len(sums)
    if n_prompts < 2:
        return None
    residuals = sums - counts * (sums.sum() / counts.sum())
    return float(np.sqrt(n_prompts / (n_prompts - 1) * (residuals**2).sum()) / counts.sum())


def _jackknife_consistency_se(unit_sums: np.ndarray, counts: np.ndarray) -> float | None:
    """Delete-one-prompt jackknife of the consistency. unit_sums: [P, D]; counts: [P], of differences that are not zero."""
    n_prompts = len(counts)
    left = counts.sum() - counts
    if n_prompts < 2 or (left < 2).any():
        return None
    rest = unit_sums.sum(0) - unit_sums
    values = (np.einsum("pd,pd->p", rest, rest) - left) / (left * (left - 1))
    return float(np.sqrt((n_prompts - 1) / n_prompts * ((values - values.mean()) ** 2).sum()))


def _expected_alignment(diff_sums: np.ndarray, counts: np.ndarray) -> float | None:
    """Expected cosine of the mean difference with its limit over endless prompts. diff_sums: [P, D], counts: [P].

    The squared length of the mean holds signal^2 + noise^2; the noise is estimated from the spread between prompts, so
    cos = sqrt(max(0, |mean|^2 - noise^2) / |mean|^2).
    """
    n_prompts = len(counts)
    if n_prompts < 2:
        return None
    total = counts.sum()
    mean = diff_sums.sum(0) / total
    length = float(mean @ mean)
    if length == 0:
        return None
    residuals = diff_sums - counts[:, None] * mean
    noise = n_prompts / (n_prompts - 1) * float((residuals**2).sum()) / total**2
    return float(np.sqrt(max(0.0, length - noise) / length))

"""The scale sweep: what a LoRA does at weights other than the one it was measured at, and which weight suits it.

The published method measures at weight 1 and leaves the best weight of each LoRA open (arXiv 2512.08826). Here the first
prompts of the plan are made again at several weights. The pictures without the LoRA and those at the row's own weight are there
already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import BrokenPictureError, IndexingError
from ..loras.lora_file import LoraFile
from ..progress import OnProgress, titled
from ..records import CurvePoint
from .measure import take_in
from .plan import Plan, Shot
from .protocol import Protocol
from .studio import Shoot, Side, Studio, diff

TARGET_STRENGTH = 6.0
"""Strength that a suggested weight aims at, in raw CLIP units. The published LoRAs have a mean of 5.94 at weight 1, and break
pictures from 9.8 on."""

FACTORS = (0.25, 0.5, 0.75, 1.0, 1.25)
"""Weights that are always measured, as multiples of the row's own."""

FURTHER_FACTORS = (1.5, 2.0)
"""Weights for a LoRA that is weaker than the target up to here, one at a time."""

MAX_SHOTS = 12
"""Prompts of the plan that are used, one picture each."""

NEAR_BEST = 0.9
"""Share of the best alignment that a weight must keep. Twelve prompts know a direction to a cosine of 0.74 at the published
median consistency. All weights share their noise, so that the ratio of two alignments says more than either alone. The pictures
at the row's own weight are among those that its direction is made of. Where the row has few pictures this flatters its own
weight: other weights are then left sooner, never later."""


@dataclass(frozen=True)
class StrengthCurve:
    """What a LoRA does at several weights, and what it cost to find out."""

    points: tuple[CurvePoint, ...]
    """By growing distance of the weight from 0."""

    suggested_weight: float | None
    """See the function `suggested_weight`."""

    model_evaluations: int
    """Forward passes behind the pictures at weights other than the row's own, also of pictures kept from an earlier run. Pictures
    at the row's own weight count only if they were no longer there."""

    base_model_evaluations: int
    """Forward passes that this run spent on the base side."""


def curve_shots(shots: Sequence[Shot]) -> tuple[Shot, ...]:
    """The pictures of a plan that a sweep uses: the first of each of the first prompts, in the plan's order."""
    first: dict[str, Shot] = {}
    for shot in shots:
        first.setdefault(shot.prompt.text, shot)
    return tuple(first.values())[:MAX_SHOTS]


def most_pictures(shots: Sequence[Shot]) -> int:
    """How many pictures a sweep makes at most, beyond those of the measurement itself."""
    return len(curve_shots(shots)) * (len(FACTORS) - 1 + len(FURTHER_FACTORS))


def strength_curve(
    studio: Studio,
    lora: LoraFile,
    direction: np.ndarray,
    protocol: Protocol,
    plan: Plan,
    on_progress: OnProgress | None = None,
    *,
    target_strength: float = TARGET_STRENGTH,
) -> StrengthCurve:
    """Measure the strength curve of a LoRA, by its row's own protocol and plan.

    Pictures are kept as those of a measurement are, each weight in a store of its own. A sweep that was broken off goes on, and
    pictures that are there are not made again. The curve ends before a weight at which a picture is broken (NaN).

    Args:
        studio: where the pictures are made.
        lora: the LoRA file.
        direction: the direction of the LoRA's row, [D].
        protocol: the protocol of the row.
        plan: the plan that the row was measured by; only its first prompts are used.
        on_progress: called with the progress within each weight.
        target_strength: strength that the suggested weight aims at, in raw CLIP units.

    Raises IndexingError for a lora_weight of 0, GenerationError if a picture is broken at the first weight already, and
    otherwise what `measure` raises.
    """
    if protocol.lora_weight == 0:
        raise IndexingError("A LoRA of weight 0 has no curve.", "Set lora_weight to another value, or scale_sweep off.")
    shots = curve_shots(plan.shots)
    words = protocol.trigger_words(lora)
    base = studio.without_lora(protocol.base_triggers(words))
    points: list[CurvePoint] = []
    evaluations = base_evaluations = 0
    for factor in (*FACTORS, *FURTHER_FACTORS):
        if factor > FACTORS[-1] and not _is_wanted(points, target_strength):
            break
        weight = factor * protocol.lora_weight
        with_lora = studio.with_lora(lora, weight, words)
        if with_lora.is_missing(shots):
            take_in(studio, lora, weight)
        shoot = Shoot(studio, (base, with_lora), shots, titled(on_progress, f"weight {weight:g}: "), thumbnails=False)
        shoot.make(base, 0, len(shots))
        base_evaluations += shoot.evaluations[base]
        try:
            shoot.make(with_lora, 0, len(shots))
        except BrokenPictureError:
            if not points:
                raise
            break
        own = shoot.evaluations[with_lora]
        evaluations += own if factor == 1 else sum(with_lora.entry(shot).evaluations for shot in shots)
        points.append(_point(weight, base, with_lora, shots, direction))
    return StrengthCurve(tuple(points), suggested_weight(points, target_strength), evaluations, base_evaluations)


def suggested_weight(curve: Sequence[CurvePoint], target_strength: float = TARGET_STRENGTH) -> float | None:
    """The weight at which a LoRA changes pictures as much as `target_strength` says and still does the same to them.

    curve: by growing distance of the weight from 0, all of one sign. The answer is where the strength, linear between two
    weights, first reaches the target. It stays within the weights that were measured: a LoRA that is stronger at all of them
    gets the smallest, a weaker one the largest.

    Beyond the weight of the best alignment, the curve ends before the first weight whose alignment is less than `NEAR_BEST` of
    the best: there the picture breaks, or the LoRA does something else. Below the weight of the best alignment, a poor alignment
    is not a limit: the row of a LoRA that is too strong points to its broken pictures.

    None if there is no curve, or no weight at which the LoRA moves pictures in the row's direction.
    """
    end = _aligned_end(curve)
    if end == 0:
        return None
    usable = list(curve[:end])
    if usable[0].strength >= target_strength:
        return usable[0].weight
    for lower, upper in zip(usable, usable[1:], strict=False):
        if upper.strength >= target_strength:
            share = (target_strength - lower.strength) / (upper.strength - lower.strength)
            return lower.weight + share * (upper.weight - lower.weight)
    return usable[-1].weight


def _aligned_end(curve: Sequence[CurvePoint]) -> int:
    """How many points of a curve come before the alignment falls; 0 if there is no alignment at all."""
    alignments = [-1.0 if point.alignment is None else point.alignment for point in curve]
    best = max(alignments, default=-1.0)
    if best <= 0:
        return 0
    top = alignments.index(best)
    return next((k for k in range(top, len(curve)) if alignments[k] < NEAR_BEST * best), len(curve))


def _is_wanted(points: Sequence[CurvePoint], target_strength: float) -> bool:
    """Whether a larger weight than those measured could be suggested."""
    return 0 < _aligned_end(points) == len(points) and all(point.strength < target_strength for point in points)


def _point(weight: float, base: Side, with_lora: Side, shots: Sequence[Shot], direction: np.ndarray) -> CurvePoint:
    diffs = np.stack([diff(base, with_lora, shot) for shot in shots])
    mean = diffs.mean(0)
    length = float(np.linalg.norm(mean) * np.linalg.norm(direction.astype(np.float64)))
    alignment = float(mean @ direction) / length if length else None
    strengths = np.linalg.norm(diffs, axis=1)
    error = float(strengths.std(ddof=1) / np.sqrt(len(strengths))) if len(strengths) > 1 else None
    return CurvePoint(weight, float(strengths.mean()), alignment, error)

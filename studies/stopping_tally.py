"""What the runs of a stopping rule are counted in, and the rules that it is set against."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from carlos_core.measuring.stopping import StoppingRule

TARGET = 0.97
PROMPTS, SEEDS, STRATA = 280, 16, 35
AXES = 192
RIVALS_EVERY = 3
RULE = StoppingRule(target=TARGET)


@dataclass
class Tally:
    """What happened in the runs of one rule, by LoRA."""

    images: dict[str, list[int]] = field(default_factory=dict)
    cosines: dict[str, list[float]] = field(default_factory=dict)
    overlaps: list[float] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def add(self, lora: str, n: int, cosine: float, overlap: float, reason: str = "") -> None:
        self.images.setdefault(lora, []).append(n)
        self.cosines.setdefault(lora, []).append(cosine)
        self.overlaps.append(overlap)
        self.reasons.append(reason)

    def row(self, name: str, oracle: dict[str, int], loras: Iterable[str] | None = None) -> str:
        loras = list(self.images if loras is None else loras)
        images = np.concatenate([self.images[lora] for lora in loras])
        cosines = np.concatenate([self.cosines[lora] for lora in loras])
        ratios = np.array([np.median(self.images[lora]) / oracle[lora] for lora in loras])
        overlap = f"{np.mean(self.overlaps):.2f}" if len(loras) == len(self.images) else ""
        return (
            f"| {name} | {100 * (cosines >= TARGET).mean():.1f}% | {np.median(images):.0f} | {np.quantile(images, 0.9):.0f} | "
            f"{np.median(ratios):.2f} | {100 * (ratios <= 1.3).mean():.0f}% | {np.quantile(cosines, 0.05):.3f} | "
            f"{np.median(cosines):.3f} | {overlap} |"
        )


HEADER = (
    "| rule | promise kept | median images | 90% of runs within | images / oracle, median LoRA | LoRAs at <= 1.3 | "
    "cosine, 5% | cosine, median | top-5 overlap |\n|---|---|---|---|---|---|---|---|---|"
)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine along the last axis."""
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


class Library:
    """Directions [R, D] to be a neighbour of."""

    def __init__(self, directions: np.ndarray) -> None:
        self.units = directions / np.linalg.norm(directions, axis=1, keepdims=True)

    def overlap(self, row: int, found: np.ndarray, wanted: np.ndarray) -> float:
        """Share of the five nearest other LoRAs that two directions [D] of LoRA `row` agree on."""
        scores = self.units @ np.stack([found, wanted], 1)
        scores[row] = -9
        near = np.argsort(-scores, axis=0)[:5]
        return len(set(near[:, 0]) & set(near[:, 1])) / 5


def jackknife_alignment(diffs: np.ndarray) -> tuple[float, float]:
    """Expected cosine, and that less 1.645 delete-one jackknife errors: the plain 95% bound. diffs: [n, D], each one a unit."""
    n = len(diffs)
    mean = diffs.mean(0)
    residuals = diffs - mean
    own = (residuals**2).sum(1)
    rest = mean - residuals / (n - 1)
    lengths = (rest**2).sum(1)
    noise = (own.sum() - own * n / (n - 1)) / ((n - 1) * (n - 2))
    values = np.sqrt(np.maximum(0, 1 - noise / lengths))
    point = math.sqrt(max(0.0, 1 - own.sum() / (n * (n - 1)) / float(mean @ mean)))
    return point, point - 1.645 * math.sqrt((n - 1) / n * ((values - values.mean()) ** 2).sum())


# --- simulation on the published rows -------------------------------------------------------------------------------------------

"""The first pictures without a LoRA: on them a model is looked at before a LoRA is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..progress import OnProgress
from ..vectors import units_of
from .plan import Shot
from .studio import LOOK, Shoot, Studio

FEWEST = 12
"""Different prompts among them that it takes."""


@dataclass(frozen=True, eq=False)
class FirstPictures:
    """What CLIP sees in them, and what they cost."""

    features: np.ndarray
    """Of the shots of different prompts, [N, D] float32, raw CLIP units."""

    evaluations: int
    """Forward passes that this run spent on them."""

    warm_up_evaluations: int


def of_different_prompts(shots: Sequence[Shot]) -> list[Shot]:
    """The first shot of each prompt among the first `LOOK`."""
    first: dict[str, Shot] = {}
    for shot in shots[:LOOK]:
        first.setdefault(shot.prompt.text, shot)
    return list(first.values())


def first_pictures(
    studio: Studio, shots: Sequence[Shot], on_progress: OnProgress | None, *, thumbnails: bool = True
) -> FirstPictures:
    """Make the first pictures without a LoRA, in whole batches of the plan, if they are not there.

    shots: of the plan. thumbnails: whether some are also kept as small pictures.
    """
    side = studio.without_lora()
    end = min(-(-LOOK // studio.batch) * studio.batch, len(shots))
    shoot = Shoot(studio, [side], shots[:end], on_progress, thumbnails=thumbnails)
    shoot.make(side, 0, end)
    features = np.stack([side.entry(shot).features for shot in of_different_prompts(shots)])
    return FirstPictures(features, shoot.evaluations[side], shoot.warm_up_evaluations)


def centred_units(features: np.ndarray) -> np.ndarray:
    """Features [N, D] without what they have in common, scaled to length 1, in float64."""
    features = features.astype(np.float64)
    return units_of(torch.from_numpy(features - features.mean(axis=0))).numpy()
